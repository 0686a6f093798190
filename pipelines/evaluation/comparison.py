"""All variants and references, measured on the test with every freshness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from models.evaluation.bootstrap import Estimate, Resamples
from models.evaluation.compare import estimates
from models.evaluation.ranker import RankerSettings
from models.evaluation.ranker_weights import Ranker
from models.evaluation.scoring import LabelScores
from models.spec import Aggregator
from pipelines.evaluation.choices import Choices, Measured
from pipelines.evaluation.protocol import Freshness, Protocol
from pipelines.evaluation.variants import LAST, Bench, Variant
from pipelines.progress import Stages

Scores = dict[str, list[LabelScores]]
"""Name of a variant or reference → its scores on the test, one per seed."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """All variants, measured.

    Attributes:
        settings: Variant's name → settings of its rankers.
        scores: Freshness's name → scores; the first freshness is what promises are about.
    """

    bench: Bench
    variants: list[Variant]
    settings: Mapping[str, RankerSettings]
    scores: Mapping[str, Scores]
    freshness: tuple[Freshness, ...]
    choices: Choices
    baseline: Variant
    challenger: Variant
    resamples: Resamples
    _rankers: dict[str, Ranker] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What is compared, in one line."""
        return f"{self.challenger.name} against {self.baseline.name} and others"

    @property
    def lines(self) -> dict[str, Aggregator]:
        """Name → line of the catalogue, of the variants that have one and no other input."""
        return {one.name: one.line for one in self.variants if one.line is not None and not one.knn}

    @cached_property
    def found(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Freshness's name → name → metric's key → its estimate on the test."""
        labels = self.bench.labels
        return {
            freshness: {
                name: estimates(each, labels, self.resamples, over_items=True)
                for name, each in scores.items()
            }
            for freshness, scores in self.scores.items()
        }

    @property
    def main(self) -> dict[str, dict[str, Estimate]]:
        """`found` of the first freshness."""
        return self.found[self.freshness[0].name]

    def ranker(self, variant: Variant) -> Ranker:
        """Return a variant's ranker of the first freshness and seed, fitted again."""
        if variant.name not in self._rankers:
            settings = self.settings[variant.name]
            self._rankers[variant.name] = self.bench.fit(variant, self.freshness[0], settings, 0)
        return self._rankers[variant.name]


def measure_all(
    measured: Measured,
    variants: Sequence[Variant],
    settings: Mapping[str, RankerSettings],
    choices: Choices,
    protocol: Protocol,
    stages: Stages,
) -> dict[str, Scores]:
    """Measure references and variants with every freshness.

    The first freshness is measured with all seeds, the others with one.
    """
    found: dict[str, Scores] = {}
    seeds = [protocol.seeds] + [1] * (len(protocol.freshness) - 1)
    with stages.stage("test", len(variants) * sum(seeds), "rankers") as stage:
        for freshness, count in zip(protocol.freshness, seeds, strict=True):
            stage.doing = freshness.name
            found[freshness.name] = {
                name: [scores]
                for name, scores in references(
                    measured, freshness, choices, protocol.without
                ).items()
            }
            for variant in variants:
                own = []
                for seed in range(count):
                    own.append(measured.ranker(variant, freshness, settings[variant.name], seed))
                    stage.advance(1)
                found[freshness.name][variant.name] = own
        stage.rows_out = stage.done
        stage.note = (
            f"{measured.made} measured now, the others were there"
            if (measured.made < stage.done)
            else ""
        )
    return found


def references(
    measured: Measured, freshness: Freshness, choices: Choices, without: Sequence[str]
) -> dict[str, LabelScores]:
    """Measure the recommenders without vectors."""
    found = {
        "popular": measured.popular(choices.popular_days),
        "knn": measured.neighbours(freshness, LAST),
        "last_item": measured.neighbours(freshness, 1),
    }
    slow = {
        "ease": lambda: measured.ease(freshness, choices.ease),
        "als": lambda: measured.als(freshness, *choices.als),
        "sasrec": lambda: measured.sasrec(freshness),
    }
    return found | {name: make() for name, make in slow.items() if name not in without}
