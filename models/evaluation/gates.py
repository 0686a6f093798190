"""What an evaluation must show to be believed (controls), and to be accepted (gates)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.evaluation.bootstrap import Interval
from models.evaluation.metrics import auc
from transformations.errors import InputError, RunFailedError

# A true AUC of 0.5 strays farther than this many standard errors once in about 16,000 times.
ERRORS = 4.0


@dataclass(frozen=True)
class Gate:
    """A promise that the evaluation holds or breaks, as the report shows it."""

    name: str
    sentence: str
    passed: bool


@dataclass(frozen=True)
class Control:
    """An experiment whose outcome is known beforehand, as the report shows it."""

    name: str
    sentence: str
    expected: str
    got: str
    passed: bool


def above_zero(name: str, what: str, difference: Interval) -> Gate:
    """Ask that a difference is a gain: the whole interval above zero. NaN fails.

    >>> above_zero("mrr", "MRR, learned less decay", Interval(0.02, 0.01, 0.03)).sentence
    'MRR, learned less decay: asked for an interval above zero, got +0.0200 [+0.0100, +0.0300].'
    """
    asked = "an interval above zero"
    return Gate(name, f"{what}: asked for {asked}, got {_text(difference)}.", difference.low > 0)


def reaches_above_zero(name: str, what: str, difference: Interval) -> Gate:
    """Ask that a difference is no clear loss: the interval reaches above zero. NaN fails."""
    asked = "an interval that reaches above zero"
    return Gate(name, f"{what}: asked for {asked}, got {_text(difference)}.", difference.high > 0)


def at_most(name: str, what: str, got: float, of: float, share: float) -> Gate:
    """Ask that a number is at most a share of another: the bytes of the learned vector, say.

    >>> at_most("bytes", "Bytes a member", 256, of=768, share=1 / 3).sentence
    'Bytes a member: asked for at most 0.333 of 768, got 256 (0.333).'
    """
    asked = f"at most {share:.3f} of {of:g}"
    text = f"{what}: asked for {asked}, got {got:g} ({got / of:.3f})."
    return Gate(name, text, got <= of * share)


def _text(interval: Interval) -> str:
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def permuted_labels_auc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], seed: int = 0
) -> float:
    """Return the AUC of scores against labels that were dealt out anew: 0.5 but for chance.

    The scores should come from a ranker that was fitted to permuted labels too, with features as
    they are: then a leak of the label into the features, or an evaluation that looks at what it
    should not, does not hide behind real skill.
    """
    return auc(scores, np.random.default_rng(seed).permutation(positive))


def chance_auc(name: str, sentence: str, got: float, positives: int, negatives: int) -> Control:
    """Control that an AUC is 0.5 but for chance.

    The standard error is that of the Mann-Whitney statistic where positives and negatives are
    alike: sqrt((m + n + 1) / (12 m n)) (Mann and Whitney, "On a test of whether one of two random
    variables is stochastically larger than the other", 1947).
    """
    error = np.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    within = ERRORS * float(error)
    return Control(
        name, sentence, f"0.5 ± {within:.3f}", f"{got:.3f}", bool(abs(got - 0.5) <= within)
    )


def suspicious(name: str, what: str, got: Interval, bound: float) -> Control:
    """Control that a metric is not better than what can be had without knowing the future.

    Args:
        name: Of the control.
        what: Metric and variant, in words.
        got: What was measured.
        bound: The best that the leak-free variants reach, with a margin; the whole interval above
            it fails.
    """
    sentence = f"{what}: a variant that knows the future would stand out from those that do not."
    text = f"{got.estimate:.4f} [{got.low:.4f}, {got.high:.4f}]"
    return Control(name, sentence, f"not clearly above {bound:.4f}", text, bool(got.low <= bound))


def assert_nothing_from_the_future(
    frame: pd.DataFrame,
    feature_times: Iterable[str],
    label_time: str = "event_timestamp",
) -> None:
    """Refuse labels whose features are of a later time than the label.

    Args:
        frame: One row per label.
        feature_times: Columns that say when what is in the features happened, or could be read:
            event and created timestamps, last_action_at, an item vector's available_at. Null
            where a label got no such feature.
        label_time: Column of the label's time.

    Raises:
        RunFailedError: one is later; names the first such row.
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
                "filter_by_created_timestamp=True, and look at what made that time"
            )


def assert_trained_before(manifest: Mapping[str, Any], first_label: datetime) -> None:
    """Refuse weights that were fitted to events of the evaluation's time.

    Args:
        manifest: Of a packaged aggregator; a trained_until of None says that it has no weights.
        first_label: Time of the first label that it is evaluated on.

    Raises:
        InputError: the weights were fitted to events after it; names both times.
    """
    if manifest["trained_until"] is None:
        return
    until = _utc(datetime.fromisoformat(manifest["trained_until"]))
    if until > _utc(first_label):
        raise InputError(
            f"{manifest['name']} v{manifest['version']}: expected weights trained on events before "
            f"the first label, {_utc(first_label)}, got trained_until {until}; train a version "
            f"with --until {_utc(first_label).isoformat()} or earlier, or evaluate later labels"
        )


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
