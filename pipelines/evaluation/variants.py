"""What is compared: the same ranker with different features, and recommenders without vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from feast import FeatureStore
from numpy.typing import NDArray

from models.embed import together
from models.evaluation.bootstrap import Resamples
from models.evaluation.compare import estimates
from models.evaluation.history import events_before
from models.evaluation.ranker import (
    Ranker,
    RankerFeatures,
    RankerLabels,
    RankerSettings,
    fit_ranker,
)
from models.evaluation.references import DecayedCooccurrence, Popular, PositiveEvents
from models.evaluation.scoring import LabelScores, Score, measure, measure_ranker
from models.packaging import load
from models.sequences import Padded
from models.spec import Aggregator
from pipelines.evaluation.features import (
    EvaluationData,
    Floats,
    Period,
    Sequences,
    join,
    stacked,
)
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.world import World
from transformations.config import Config
from transformations.timestamps import DAY_US

CHOSEN_BY = "ndcg10"
"""The metric on the validation period that settings are chosen by."""
LAST = 10
"""How many of a member's last actions the co-occurrence recommender uses."""


@dataclass(eq=False)
class Variant:
    """A ranker with one kind of features, fitted and measured.

    Attributes:
        line: Its line of the catalogue; None for the ranker without activity.
        features: Period's name → features.
        settings: Chosen on the validation period.
        rankers: One per seed.
        scores: On the test period, one per seed.
    """

    name: str
    line: Aggregator | None
    features: dict[str, RankerFeatures]
    settings: RankerSettings = field(default_factory=RankerSettings)
    rankers: list[Ranker] = field(default_factory=list)
    scores: list[LabelScores] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Comparison:
    """All variants, fitted and measured.

    Attributes:
        sequences: Those of the test labels.
        references: Recommender's name → its scores on the test period.
    """

    world: World
    data: EvaluationData
    sequences: Sequences
    variants: list[Variant]
    references: dict[str, LabelScores]
    baseline: Variant
    challenger: Variant
    resamples: Resamples

    @property
    def lines(self) -> dict[str, Aggregator]:
        """Name → line of the catalogue, of the variants that have one."""
        return {one.name: one.line for one in self.variants if one.line is not None}

    @property
    def scores(self) -> dict[str, list[LabelScores]]:
        """Name → scores on the test period, one per seed; references first."""
        references = {name: [scores] for name, scores in self.references.items()}
        return references | {variant.name: variant.scores for variant in self.variants}


def variant_of(
    line: Aggregator, store: FeatureStore, config: Config, data: EvaluationData
) -> Variant:
    """Fetch a line's features for every period through its feature service."""
    features = {name: join(store, config, line, period) for name, period in data.periods.items()}
    return Variant(line.name, line, features)


def without_activity(like: Variant) -> Variant:
    """Return the variant whose ranker knows nothing of a member's activity."""
    features = {
        name: RankerFeatures(np.zeros_like(one.vectors), np.zeros_like(one.member_features))
        for name, one in like.features.items()
    }
    return Variant("none", None, features)


def fit_one(
    variant: Variant,
    data: EvaluationData,
    seed: int,
    settings: RankerSettings,
    positive: NDArray[np.bool_] | None = None,
) -> Ranker:
    """Fit one ranker on the labels of the train period.

    Args:
        positive: Replaces that of the labels, for a control.
    """
    labels = data.periods["train"].task.labels
    if positive is not None:
        labels = replace(labels, positive=positive)
    embeddings = data.items.vectors[1:]
    return fit_ranker(labels, variant.features["train"], embeddings, data.item_days, settings, seed)


def measure_one(
    ranker: Ranker, features: RankerFeatures, data: EvaluationData, period: str = "test"
) -> LabelScores:
    """Measure a ranker with these features on a period."""
    return measure_ranker(ranker, data.periods[period].task, features, data.items.vectors[1:])


def choose_settings(variant: Variant, data: EvaluationData, protocol: Protocol) -> None:
    """Choose the ranker's penalty on the validation period."""
    metric = {
        l2: on_validation(variant, data, replace(variant.settings, l2=l2)) for l2 in protocol.l2
    }
    variant.settings = replace(variant.settings, l2=max(metric, key=lambda l2: metric[l2]))


def on_validation(
    variant: Variant, data: EvaluationData, settings: RankerSettings, seed: int = 0
) -> float:
    """Return CHOSEN_BY on the validation period of a ranker fitted on the train period."""
    ranker = fit_one(variant, data, seed, settings)
    scores = measure_one(ranker, variant.features["validation"], data, "validation")
    labels = data.periods["validation"].task.labels
    resamples = Resamples(members=len(data.member_codes), seeds=1, resamples=1)
    return estimates([scores], labels, resamples, metrics=[CHOSEN_BY])[CHOSEN_BY].value


def measure_all(variant: Variant, data: EvaluationData, seeds: Sequence[int]) -> None:
    """Fit and measure the rankers of all seeds with the chosen settings."""
    for seed in seeds:
        ranker = fit_one(variant, data, seed, variant.settings)
        variant.rankers.append(ranker)
        variant.scores.append(measure_one(ranker, variant.features["test"], data))


def in_process(line: Aggregator, config: Config, data: EvaluationData, padded: Padded) -> Floats:
    """Embed sequences without Feast; float32 [rows, actions, dim]."""
    run = together([load(line, config)], data.items, config.rules)
    return stacked(list(run(padded)[0].values()), config)


def references(data: EvaluationData, period: Period) -> dict[str, LabelScores]:
    """Measure the reference recommenders on a period."""
    events, labels = data.events, period.task.labels
    is_positive = events.positive
    positive = PositiveEvents(
        events.members[is_positive], events.items[is_positive], events.times[is_positive]
    )
    histories = _histories(positive, labels)
    recommenders: dict[str, Popular | DecayedCooccurrence] = {
        "popular": Popular(positive, len(data.items)),
        "cooccurrence": DecayedCooccurrence(positive, len(data.items), last=LAST),
    }

    def score(recommender: Popular | DecayedCooccurrence) -> Score:
        return lambda rows, day: recommender.scores(
            np.full(len(rows), day * DAY_US), histories[rows]
        )

    return {name: measure(score(one), period.task) for name, one in recommenders.items()}


def _histories(events: PositiveEvents, labels: RankerLabels) -> NDArray[np.int64]:
    """Return the items of the last positive actions before each label's midnight.

    Int64 [labels, LAST], the newest last, padded on the left with -1.
    """
    order = np.lexsort((events.times, events.members))
    rows, found = events_before(
        events.members[order], events.times[order], labels.members, labels.days * DAY_US
    )
    # Each pair's column, counted from the right: the newest action of each label is in the last.
    column = LAST + np.arange(len(rows)) - np.searchsorted(rows, rows, side="right")
    recent = column >= 0
    histories = np.full((len(labels), LAST), -1)
    histories[rows[recent], column[recent]] = events.items[order][found[recent]]
    return histories
