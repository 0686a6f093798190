"""Every choice is made on the validation, before the test is opened."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

import numpy as np

from models.evaluation.matrix_references import Als, Ease
from models.evaluation.ranker import RankerSettings
from models.evaluation.sasrec import SasRecSettings, fit_sasrec
from models.evaluation.scoring import LabelScores
from models.lines import by_space
from models.spec import Aggregator, GeometricDecay
from operations.trials import Trial, note_trial
from pipelines.evaluation.protocol import DECAY, Freshness, Protocol
from pipelines.evaluation.saved import SavedScores
from pipelines.evaluation.variants import CHOSEN_BY, Bench, KnnSettings, Variant
from pipelines.evaluation.world import train_lines
from pipelines.progress import Stage, Stages
from transformations.config import Config
from transformations.names import Space

Fitted = TypeVar("Fitted")

PUBLISHED = "action"
FORMS: Mapping[str, dict[str, Any]] = {
    PUBLISHED: {},
    "positive": {"ranks": "positive"},
    "pooled": {"ranks": "positive", "pooled": True},
}
"""Decayed vectors: one per action with ranks by action, the baseline; with ranks over all positive
actions; and a single one over all positive actions."""


@dataclass(frozen=True)
class Choices:
    """What validation chose.

    Attributes:
        popular_days: Window of popularity.
        knn: Settings of item-kNN.
        ease: EASE's penalty.
        als: Confidence and penalty of ALS.
        decays: Item space and form of the decayed vectors (FORMS) → their r.
        baseline: The space that is best for the decayed vectors.
        settings: Variant's name → settings of its ranker.
    """

    popular_days: float
    knn: KnnSettings
    ease: float
    als: tuple[float, float]
    decays: Mapping[tuple[Space, str], float]
    baseline: Space
    settings: Mapping[str, RankerSettings]


@dataclass(eq=False)
class Measured:
    """Scores of a world's variants and references, from disk where they are there.

    Attributes:
        made: How many were measured by this process.
    """

    bench: Bench
    made: int = 0
    _digests: dict[Space, str] = field(default_factory=dict)
    _last: dict[str, tuple[tuple[float, ...], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name what all the scores are about."""
        labels = hashlib.sha256()
        for period in self.bench.data.periods.values():
            for array in (period.task.labels.items, period.task.labels.times):
                labels.update(np.ascontiguousarray(array).tobytes())
        about = {"labels": labels.hexdigest(), "items": len(self.bench.data.item_ids)}
        self.saved = SavedScores(self.bench.world.results, about)

    def ranker(
        self, variant: Variant, freshness: Freshness, settings: RankerSettings, seed: int
    ) -> LabelScores:
        """Return the scores of one ranker."""
        inputs: dict[str, Any] = {
            "freshness": freshness.name,
            "settings": asdict(settings),
            "seed": seed,
            "space": self._digest(variant.space),
            "knn": asdict(self.bench.knn) if variant.knn else None,
        }
        if variant.line is not None:
            config = variant.line.config_of(self.bench.world.config)
            inputs["line"] = variant.line.identity(config)
            inputs["parameters"] = variant.line.parameters()
        return self.reference(
            f"{variant.name}.{freshness}.{seed}",
            inputs,
            lambda: self.bench.scores(variant, freshness, settings, seed),
        )

    def reference(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[], LabelScores]
    ) -> LabelScores:
        """Return the scores of anything else."""
        scores, is_new = self.saved.scores(name, inputs, make)
        self.made += is_new
        return scores

    def popular(self, days: float) -> LabelScores:
        """Return the scores of popularity."""
        return self.reference("popular", {"days": days}, lambda: self.bench.popular(days))

    def neighbours(self, freshness: Freshness, last: int) -> LabelScores:
        """Return the scores of item-kNN on that many of a member's last positive actions."""
        inputs = {"freshness": freshness.name, "last": last, **asdict(self.bench.knn)}
        return self.reference(
            f"knn.{freshness}", inputs, lambda: self.bench.neighbours(freshness, last)
        )

    def ease(self, freshness: Freshness, l2: float) -> LabelScores:
        """Return the scores of EASE."""
        inputs = {"freshness": freshness.name, "l2": l2, "days": self.bench.knn.days}

        def make() -> LabelScores:
            recommender = self._fitted("ease", (l2,), lambda: Ease.fit(self.bench.matrix(), l2))
            return self.bench.whole(recommender, freshness)

        return self.reference(f"ease.{freshness}", inputs, make)

    def als(self, freshness: Freshness, alpha: float, l2: float) -> LabelScores:
        """Return the scores of ALS."""
        inputs = {"freshness": freshness.name, "alpha": alpha, "l2": l2}
        inputs["days"] = self.bench.knn.days

        def make() -> LabelScores:
            recommender = self._fitted(
                "als", (alpha, l2), lambda: Als.fit(self.bench.matrix(), alpha, l2)
            )
            return self.bench.whole(recommender, freshness)

        return self.reference(f"als.{freshness}", inputs, make)

    def sasrec(self, freshness: Freshness) -> LabelScores:
        """Return the scores of SASRec."""
        settings = SasRecSettings()
        inputs = {"freshness": freshness.name, "days": self.bench.knn.days, **asdict(settings)}

        def make() -> LabelScores:
            items = len(self.bench.data.item_ids)
            model = self._fitted(
                "sasrec", (), lambda: fit_sasrec(self.bench.earlier(), items, settings)
            )
            return self.bench.sequential(model, freshness)

        return self.reference(f"sasrec.{freshness}", inputs, make)

    def _fitted(self, name: str, settings: tuple[float, ...], fit: Callable[[], Fitted]) -> Fitted:
        """Return what was fitted; the last one of a name is kept."""
        if name not in self._last or self._last[name][0] != settings:
            self._last[name] = settings, fit()
        return self._last[name][1]

    def _digest(self, space: Space) -> str:
        """Identify every vector of a space."""
        if space not in self._digests:
            vectors = self.bench.item_vectors(space).versions.vectors
            digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes())
            self._digests[space] = f"{space} {digest.hexdigest()}"
        return self._digests[space]


def decayed(
    config: Config,
    aggregators: Iterable[Aggregator],
    space: Space,
    r: float,
    form: str = PUBLISHED,
) -> GeometricDecay:
    """Return the decayed vectors with this r in a space: the catalogue's line if it has one."""
    wanted = GeometricDecay(version=1, decay=r, **FORMS[form]).parameters()
    for line in aggregators:
        if (
            isinstance(line, GeometricDecay)
            and line.parameters() == wanted
            and not line.reads
            and line.config_of(config).space == space
        ):
            return line
    name = f"decay_r{round(1000 * r)}" + ("" if form == PUBLISHED else f"_{form}")
    if space != config.space:
        name += f"_in_{space}"
    return GeometricDecay(name=name, version=1, decay=r, **FORMS[form]).of_fit(1, space)


def with_decayed(
    config: Config,
    aggregators: Sequence[Aggregator],
    decays: Mapping[tuple[Space, str], float],
) -> list[Aggregator]:
    """Return the lines, and the decayed vectors of each space and form that are not among them."""
    best = [decayed(config, aggregators, space, r, form) for (space, form), r in decays.items()]
    return [*aggregators, *(line for line in best if line not in aggregators)]


def variants_of(config: Config, lines: Sequence[Aggregator]) -> list[Variant]:
    """Return the ranker without activity, and one for each line."""
    variants = [Variant("none", None, config.space)]
    return variants + [Variant(line.name, line, line.config_of(config).space) for line in lines]


def choose(
    measured: Measured, aggregators: Sequence[Aggregator], protocol: Protocol, stages: Stages
) -> Choices:
    """Try everything that is to be chosen on the validation; note each trial in the ledger."""
    config, freshness = measured.bench.world.config, protocol.freshness[0]
    spaces = [own.space for own, _ in by_space(config, aggregators)]
    trials = len(protocol.popular_days) + len(protocol.half_lives)
    trials += len(protocol.ease) * ("ease" not in protocol.without)
    trials += len(protocol.als) * ("als" not in protocol.without)
    trials += len(spaces) * len(FORMS) * (len(protocol.decays) + len(protocol.l2))
    trials += len(protocol.l2) * (len(aggregators) + 1)
    with stages.stage("validation", trials, "trials") as stage:
        trying = Trying(measured, stages, stage)
        popular, knn, ease, als = choose_references(trying, protocol)
        default = RankerSettings(l2=protocol.l2[0])
        decays: dict[tuple[Space, str], float] = {}
        found: dict[Space, float] = {}
        for space, form in product(spaces, FORMS):

            def of(r: float, space: Space = space, form: str = form) -> LabelScores:
                line = decayed(config, aggregators, space, r, form)
                train_lines(measured.bench.world, stages, [line])
                return measured.ranker(Variant(line.name, line, space), freshness, default, 0)

            grid = {r: {"r": r, "space": str(space), "form": form} for r in protocol.decays}
            decays[space, form] = trying.best("decayed", grid, of)
            if form == PUBLISHED:
                found[space] = measured.bench.chosen_by(of(decays[space, form]))
        lines = with_decayed(config, aggregators, decays)
        settings: dict[str, RankerSettings] = {}
        for variant in variants_of(config, lines):
            each = {
                l2: {"l2": l2, "space": str(variant.space), "freshness": freshness.name}
                for l2 in protocol.l2
            }

            def with_l2(l2: float, variant: Variant = variant) -> LabelScores:
                return measured.ranker(variant, freshness, replace(default, l2=l2), 0)

            l2 = trying.best(variant.name, each, with_l2)
            settings[variant.name] = replace(default, l2=l2)
        baseline = max(found, key=lambda space: found[space])
        stage.rows_out = stage.done
        stage.note = (
            f"popularity of {popular:g} days; decayed vectors best in {baseline} with r = "
            f"{decays[baseline, PUBLISHED]:g}, {CHOSEN_BY} {found[baseline]:.4f}"
        )
    return Choices(popular, knn, ease, als, decays, baseline, settings)


def untuned(config: Config, aggregators: Sequence[Aggregator], protocol: Protocol) -> Choices:
    """Return every setting as it is where nothing is chosen; see `Protocol.tuned`."""
    spaces = [own.space for own, _ in by_space(config, aggregators)]
    decays = dict.fromkeys(product(spaces, FORMS), DECAY)
    default = RankerSettings(l2=protocol.l2[0])
    lines = with_decayed(config, aggregators, decays)
    days = protocol.popular_days[0]
    return Choices(
        popular_days=days,
        knn=KnnSettings(protocol.half_lives[0], days),
        ease=protocol.ease[0],
        als=protocol.als[0],
        decays=decays,
        baseline=spaces[0],
        settings={variant.name: default for variant in variants_of(config, lines)},
    )


def choose_references(
    trying: "Trying", protocol: Protocol
) -> tuple[float, KnnSettings, float, tuple[float, float]]:
    """Choose the settings of recommenders without vectors: popularity, item-kNN, EASE, ALS."""
    measured, freshness = trying.measured, protocol.freshness[0]
    popular = trying.best(
        "popular", {days: {"days": days} for days in protocol.popular_days}, measured.popular
    )

    def neighbours(half_life: float | None) -> LabelScores:
        measured.bench.knn = KnnSettings(half_life, popular)
        return measured.neighbours(freshness, 10)

    half_lives = {each: {"half_life": each} for each in protocol.half_lives}
    knn = KnnSettings(trying.best("knn", half_lives, neighbours), popular)
    measured.bench.knn = knn
    ease, als = protocol.ease[0], protocol.als[0]
    if "ease" not in protocol.without:
        ease = trying.best(
            "ease",
            {l2: {"l2": l2} for l2 in protocol.ease},
            lambda l2: measured.ease(freshness, l2),
        )
    if "als" not in protocol.without:
        als = trying.best(
            "als",
            {pair: dict(zip(("alpha", "l2"), pair, strict=True)) for pair in protocol.als},
            lambda pair: measured.als(freshness, *pair),
        )
    return popular, knn, ease, als


@dataclass
class Trying:
    """Measures settings on the validation, and notes those that were not measured before."""

    measured: Measured
    stages: Stages
    stage: Stage

    def best(
        self,
        what: str,
        settings: Mapping[Any, Mapping[str, Any]],
        scores: Callable[[Any], LabelScores],
    ) -> Any:
        """Return the setting with the highest CHOSEN_BY; the first of equal ones."""
        values = {}
        for setting, described in settings.items():
            before = self.measured.made
            values[setting] = self.measured.bench.chosen_by(scores(setting))
            if self.measured.made > before:
                trial = Trial("validation", what, described, CHOSEN_BY, values[setting])
                note_trial(self.stages.ledger, self.stages.run_id, trial)
            self.stage.advance(1)
        return max(values, key=lambda setting: values[setting])
