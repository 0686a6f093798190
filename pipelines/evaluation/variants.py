"""What is compared: the same ranker with other features, and recommenders that need none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from feast import FeatureStore
from numpy.typing import NDArray

from models.embed import together
from models.evaluation.bootstrap import Resamples
from models.evaluation.compare import estimates
from models.evaluation.ranker import SLOTS, Labels, Ranker, RankerSettings, fit_ranker
from models.evaluation.references import DecayedCooccurrence, Popular
from models.evaluation.references import Events as PositiveEvents
from models.evaluation.scoring import Outcome, Score, Task, measure, measure_ranker
from models.packaging import load
from models.sequences import DAY, Padded
from models.spec import Aggregator
from pipelines.evaluation.features import Floats, Ground, Period, join
from pipelines.evaluation.protocol import Protocol
from transformations.config import Config

CHOSEN_BY = "ndcg10"
"""The metric on the validation period that settings are chosen by."""
LAST = 10
"""How many of a member's last actions the co-occurrence recommender looks at."""


@dataclass(frozen=True, eq=False)
class Given:
    """What a variant gives the ranker for the labels of one period.

    Attributes:
        vectors: float32 [labels, SLOTS, dim].
        habits: float32 [labels, n].
    """

    vectors: Floats
    habits: Floats


@dataclass(eq=False)
class Variant:
    """A ranker with one kind of features, and what came of it.

    Attributes:
        line: Its line of the catalogue; None for the ranker without activity.
        given: Period's name → features.
        settings: Chosen on the validation period.
        rankers: One a seed.
        outcomes: On the test period, one a seed.
    """

    name: str
    line: Aggregator | None
    given: dict[str, Given]
    settings: RankerSettings = field(default_factory=RankerSettings)
    rankers: list[Ranker] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def of_line(
    line: Aggregator, store: FeatureStore, config: Config, periods: Mapping[str, Period]
) -> Variant:
    """Fetch a line's features for every period through its feature service."""
    given = {name: Given(*join(store, config, line, period)) for name, period in periods.items()}
    return Variant(line.name, line, given)


def without_activity(like: Variant) -> Variant:
    """Return the variant whose ranker knows nothing of what a member did."""
    given = {
        name: Given(np.zeros_like(one.vectors), np.zeros_like(one.habits))
        for name, one in like.given.items()
    }
    return Variant("none", None, given)


def task_of(period: Period, habits: Floats) -> Task:
    """Return a period's task with a variant's own habits."""
    return replace(period.task, labels=replace(period.task.labels, habits=habits))


def fit_one(
    variant: Variant,
    ground: Ground,
    period: Period,
    seed: int,
    settings: RankerSettings,
    positive: NDArray[np.bool_] | None = None,
) -> Ranker:
    """Fit one ranker on the labels of the train period.

    Args:
        positive: Instead of the labels' own: for a control.
    """
    given = variant.given[period.name]
    labels = task_of(period, given.habits).labels
    if positive is not None:
        labels = replace(labels, positive=positive)
    embeddings = ground.items.vectors[1:]
    return fit_ranker(labels, given.vectors, embeddings, ground.item_days, settings, seed)


def measure_one(
    ranker: Ranker, given: Given, ground: Ground, period: Period, vectors: Floats | None = None
) -> Outcome:
    """Measure a ranker on a period.

    Args:
        vectors: Instead of the variant's own.
    """
    task = task_of(period, given.habits)
    chosen = given.vectors if vectors is None else vectors
    return measure_ranker(ranker, task, chosen, ground.items.vectors[1:])


def choose_settings(
    variant: Variant, ground: Ground, periods: Mapping[str, Period], protocol: Protocol
) -> dict[float, float]:
    """Choose the ranker's penalty on the validation period; return each one's metric."""
    got = {}
    for l2 in protocol.l2:
        settings = replace(variant.settings, l2=l2)
        got[l2] = on_validation(variant, ground, periods, settings)
    variant.settings = replace(variant.settings, l2=max(got, key=lambda l2: got[l2]))
    return got


def on_validation(
    variant: Variant,
    ground: Ground,
    periods: Mapping[str, Period],
    settings: RankerSettings,
    seed: int = 0,
) -> float:
    """Return CHOSEN_BY on the validation period of a ranker fitted on the train period."""
    ranker = fit_one(variant, ground, periods["train"], seed, settings)
    period = periods["validation"]
    outcome = measure_one(ranker, variant.given[period.name], ground, period)
    resamples = Resamples(members=ground.members, seeds=1, resamples=1)
    found = estimates([outcome], period.task.labels, resamples, metrics=[CHOSEN_BY])
    return found[CHOSEN_BY].value


def measure_all(
    variant: Variant, ground: Ground, periods: Mapping[str, Period], seeds: Sequence[int]
) -> None:
    """Fit and measure the rankers of all seeds with the chosen settings."""
    for seed in seeds:
        ranker = fit_one(variant, ground, periods["train"], seed, variant.settings)
        variant.rankers.append(ranker)
        test = periods["test"]
        variant.outcomes.append(measure_one(ranker, variant.given[test.name], ground, test))


def in_process(line: Aggregator, config: Config, ground: Ground, padded: Padded) -> Floats:
    """Embed sequences with the packaged aggregator, without Feast: float32 [rows, SLOTS, dim]."""
    run = together([load(line, config)], ground.items, config.rules)
    vectors = np.zeros((len(padded.rows), SLOTS, config.dim), np.float32)
    for slot, field_vectors in enumerate(run(padded)[0].values()):
        vectors[:, slot] = field_vectors
    return vectors


def references(ground: Ground, period: Period) -> dict[str, Outcome]:
    """Measure the reference recommenders on a period."""
    events, labels = ground.events, period.task.labels
    positive = events.positive
    done = PositiveEvents(events.members[positive], events.items[positive], events.times[positive])
    items = len(ground.items)
    histories = _histories(done, labels)
    recommenders: dict[str, Popular | DecayedCooccurrence] = {
        "popular": Popular(done, items),
        "cooccurrence": DecayedCooccurrence(done, items, last=LAST),
    }

    def score(recommender: Popular | DecayedCooccurrence) -> Score:
        return lambda rows, day: recommender.scores(np.full(len(rows), day * DAY), histories[rows])

    return {name: measure(score(one), period.task) for name, one in recommenders.items()}


def _histories(done: PositiveEvents, labels: Labels) -> NDArray[np.int64]:
    """Return the last positive actions before each label's midnight, int64 [labels, LAST]."""
    order = np.lexsort((done.times, done.members))
    members, times, items = done.members[order], done.times[order], done.items[order]
    starts = np.searchsorted(members, labels.members, side="left")
    ends = np.array(
        [
            start + np.searchsorted(times[start:end], day * DAY)
            for start, end, day in zip(
                starts,
                np.searchsorted(members, labels.members, side="right"),
                labels.days,
                strict=True,
            )
        ],
        np.int64,
    )
    places = ends[:, None] - np.arange(LAST, 0, -1)
    inside = places >= starts[:, None]
    return np.where(inside, items[np.maximum(places, 0)] if len(items) else -1, -1)
