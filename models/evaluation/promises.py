"""Promises that a challenger must keep, and controls that show the evaluation can be trusted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.evaluation.bootstrap import Interval
from models.evaluation.metrics import auc
from transformations.errors import InputError, RunFailedError
from transformations.timestamps import as_utc

# Chance exceeds this many standard errors about once in 16,000 times.
MAX_STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Promise:
    """A requirement on the challenger, and whether it passed; as the report shows it."""

    name: str
    sentence: str
    passed: bool


@dataclass(frozen=True)
class Control:
    """An experiment with a known outcome, as the report shows it."""

    name: str
    sentence: str
    expected: str
    got: str
    passed: bool


def clear_gain(name: str, what: str, difference: Interval, over_items: Interval) -> Promise:
    """Require a clear gain: the whole of both intervals above zero. NaN fails.

    >>> found = Interval(0.02, 0.01, 0.03), Interval(0.02, -0.01, 0.05)
    >>> clear_gain("mrr", "MRR, learned minus decay", *found).sentence
    'MRR, learned minus decay: required both CIs above 0, got +0.0200 [+0.0100, +0.0300] over \
members, [-0.0100, +0.0500] over members and items.'
    """
    return Promise(
        name,
        f"{what}: required both CIs above 0, got {_both(difference, over_items)}.",
        difference.low > 0 and over_items.low > 0,
    )


def no_clear_loss(name: str, what: str, difference: Interval, over_items: Interval) -> Promise:
    """Require that both intervals reach above zero. NaN fails."""
    return Promise(
        name,
        f"{what}: required both CIs to reach above 0, got {_both(difference, over_items)}.",
        difference.high > 0 and over_items.high > 0,
    )


def _both(difference: Interval, over_items: Interval) -> str:
    return (
        f"{with_bounds(difference)} over members, [{over_items.low:+.4f}, {over_items.high:+.4f}] "
        "over members and items"
    )


def at_most(name: str, what: str, got: float, of: float, parts: int) -> Promise:
    """Require that a number is at most one of equal parts of another, such as the bytes per member.

    >>> at_most("bytes", "Bytes per member", 256, of=768, parts=3).sentence
    'Bytes per member: required at most 1/3 of 768, got 256 (0.333).'
    """
    text = f"{what}: required at most 1/{parts} of {of:g}, got {got:g} ({got / of:.3f})."
    return Promise(name, text, got * parts <= of)


def with_bounds(difference: Interval) -> str:
    """Write a difference with its interval: +0.0200 [+0.0100, +0.0300]."""
    return f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def permuted_labels_auc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], seed: int = 0
) -> float:
    """Return the AUC of scores against permuted labels: 0.5 within chance.

    The scores should come from a ranker fitted to permuted labels too, with unchanged features.
    Then real skill cannot hide a leak of the label.
    """
    return auc(scores, np.random.default_rng(seed).permutation(positive))


def chance_auc(name: str, sentence: str, got: float, positives: int, negatives: int) -> Control:
    """Control that an AUC is 0.5 within chance.

    The standard error is that of the Mann-Whitney statistic under the null hypothesis:
    sqrt((m + n + 1) / (12 m n)) (Mann and Whitney, "On a test of whether one of two random
    variables is stochastically larger than the other", 1947).
    """
    error = np.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    within = MAX_STANDARD_ERRORS * float(error)
    return Control(
        name, sentence, f"0.5 ± {within:.3f}", f"{got:.3f}", bool(abs(got - 0.5) <= within)
    )


def suspicious(name: str, what: str, got: Interval, bound: float) -> Control:
    """Control that a metric is not better than a variant without a leak can reach.

    Args:
        name: Of the control.
        what: Metric and variant, in words.
        got: What was measured.
        bound: The best value without a leak, plus a margin; fails if the whole interval is above.
    """
    sentence = f"{what}: a variant with a leak from the future would stand out."
    text = f"{got.estimate:.4f} [{got.low:.4f}, {got.high:.4f}]"
    return Control(name, sentence, f"not clearly above {bound:.4f}", text, bool(got.low <= bound))


def assert_nothing_from_the_future(
    frame: pd.DataFrame,
    feature_times: Iterable[str],
    label_time: str = "event_timestamp",
) -> None:
    """Refuse labels with features from after the label.

    Args:
        frame: One row per label.
        feature_times: Columns with the times at which features happened or became readable: event
            and created timestamps, last_action_at, an item vector's available_at. Null where a
            label has no such feature.
        label_time: Column of the label's time.

    Raises:
        RunFailedError: one is later than its label; names the first such row.
        InputError: a column is missing.
    """
    columns = [label_time, *feature_times]
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(
            f"expected the times {', '.join(columns)}, got none called {', '.join(missing)}"
        )
    for column in columns[1:]:
        later = np.flatnonzero(frame[column] > frame[label_time])
        if len(later):
            row = frame.iloc[later[0]]
            raise RunFailedError(
                f"expected features from before their label, got {len(later):,} of "
                f"{len(frame):,} from its future; the first is row {frame.index[later[0]]}: "
                f"{column} {row[column]} is after {label_time} {row[label_time]}. Join with "
                "filter_by_created_timestamp=True, and check what wrote that timestamp"
            )


def assert_trained_before(manifest: Mapping[str, Any], first_label: datetime) -> None:
    """Refuse weights that were fitted to events of the evaluated period.

    Args:
        manifest: Of a packaged aggregator; trained_until is None if it has no weights.
        first_label: Time of the first label that it is evaluated on.

    Raises:
        InputError: the weights were fitted to later events; names both times.
    """
    if manifest["trained_until"] is None:
        return
    until, first = as_utc(datetime.fromisoformat(manifest["trained_until"])), as_utc(first_label)
    if until > first:
        raise InputError(
            f"{manifest['name']} v{manifest['version']}: expected weights trained on events before "
            f"the first label, {first}, got trained_until {until}; train a version with --until "
            f"{first.isoformat()} or earlier, or evaluate later labels"
        )
