"""What an evaluation has to learn and to measure from, and what of it is not there."""

from collections.abc import Iterator, Mapping

import numpy as np

from models.evaluation.bootstrap import Estimate
from models.evaluation.compare import METRICS
from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.labels import Period
from transformations.config import Config
from transformations.errors import InputError

FOR = {"train": "no ranker learned from it"}


def figures(period: Period) -> str:
    """Say how many labels a period has, how many are positive, and of how many members.

    6,000 labels (4,800 positive) of 900 members.
    """
    labels = period.task.labels
    return (
        f"{len(labels):,} labels ({int(labels.positive.sum()):,} positive) of "
        f"{len(np.unique(labels.members)):,} members"
    )


def refuse_too_little(period: Period, config: Config) -> None:
    """Refuse a period with fewer positive labels than `min_positives`.

    Raises:
        InputError: names the period and what it has.
    """
    if period.task.labels.positive.sum() < config.min_positives:
        raise InputError(
            f"expected at least {config.min_positives:,} positive labels in the {period.name} "
            f"period, got {figures(period)}; evaluate on more activity or a larger --max-labels, "
            f"or lower min_positives in {config.file.name}, if so few are enough for you"
        )


def gaps(comparison: Comparison, found: Mapping[str, Estimate]) -> Iterator[str]:
    """Say, in sentences for the report, what was left out because there was nothing of it.

    Args:
        found: The challenger's metrics.
    """
    for name, period in comparison.bench.data.periods.items():
        there = set(period.frame["action"])
        for action in comparison.bench.world.config.actions:
            if action not in there:
                why = FOR.get(name, "nothing was measured on it")
                yield f"No label of the {name} period is a {action}: {why}."
    for key, metric in METRICS.items():
        if not measured(found, key):
            yield (
                f"{metric.label}: the test period has no label to measure it on; nothing is "
                "promised of it."
            )


def measured(found: Mapping[str, Estimate], key: str) -> bool:
    """Whether a metric has a value: some labels to measure it on."""
    return key in found and not np.isnan(found[key].value)
