"""Cohorts: groups of labels that the comparison is repeated on, to see where a variant wins.

Each label is in exactly one level of every cohort.
"""

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from transformations.errors import InputError
from transformations.timestamps import DAY_US, microseconds

Masks = dict[str, NDArray[np.bool_]]
COLUMNS = (
    "event_timestamp",
    "n_actions",
    "last_action_at",
    "item_popularity",
    "item_first_at",
    "first_seen_at",
)
# Upper bounds of the levels: inclusive for counts, exclusive for days.
HISTORY = {"0 actions": 0, "1 to 3 actions": 3, "4 to 9 actions": 9, "10 to 31 actions": 31}
RECENCY = {"under 1 day": 1, "1 to 7 days": 7, "7 to 28 days": 28}
THIRDS = ("low third", "middle third", "high third")


def cohorts(frame: pd.DataFrame, train_until: datetime, fit_until: datetime) -> dict[str, Masks]:
    """Return cohort → level → bool [labels]. A level may be empty.

    Args:
        frame: One row per label: event_timestamp (its time), n_actions and last_action_at (as the
            features have them; null for none), item_popularity (positive actions on its item in
            the 7 days before, from `count_between`), item_first_at (microseconds of the first
            action on its item), first_seen_at (the member's first action; null where the label
            itself is the first).
        train_until: A member first seen at or after it is new.
        fit_until: An item first acted on at or after it is new to what was fitted.

    Raises:
        InputError: a column is missing.
    """
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise InputError(
            f"expected the columns {', '.join(COLUMNS)}, got none called {', '.join(missing)}"
        )
    since = (frame["event_timestamp"] - frame["last_action_at"]).dt.total_seconds() / 86_400
    known = (frame["first_seen_at"] < pd.Timestamp(train_until)).to_numpy()
    old = frame["item_first_at"].to_numpy() < microseconds(fit_until)
    return {
        "History length": _history(frame["n_actions"].to_numpy(np.float64, na_value=0)),
        "Time since the last action": _since(since.to_numpy()),
        "Item's popularity in 7 days": _popularity(frame["item_popularity"].to_numpy()),
        "Items": {"first acted on before the fit": old, "first acted on after it": ~old},
        "Members": {"known in training": known, "new since": ~known},
    }


def levels_of(values: NDArray[Any], there: NDArray[np.bool_]) -> Masks:
    """Return level → bool [labels] of a column of profiles: its values, or thirds of its numbers.

    >>> found = levels_of(np.array(["a", None]), np.array([True, False]))
    >>> {level: mask.tolist() for level, mask in found.items()}
    {'a': [True, False], 'missing': [False, True]}
    """
    if values.dtype == object:
        names = sorted(set(values[there].tolist()))
        masks = {str(name): there & (values == name) for name in names}
    else:
        known = values[there]
        bounds = np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.zeros(2)
        level = np.searchsorted(bounds, values, side="left")
        masks = {name: there & mask for name, mask in _masks([*THIRDS], level).items()}
    return masks | {"missing": ~there}


def _history(counts: NDArray[np.number]) -> Masks:
    level = np.searchsorted(list(HISTORY.values()), counts, side="left")
    return _masks([*HISTORY, "32 actions or more"], level)


def _since(days: NDArray[np.floating]) -> Masks:
    level = np.searchsorted(list(RECENCY.values()), days, side="right")
    return _masks([*RECENCY, "28 days or more", "no action"], np.where(np.isnan(days), 4, level))


def _popularity(counts: NDArray[np.number]) -> Masks:
    """Split by thirds of the labels whose item had any action; equal counts stay together."""
    seen = counts[counts > 0]
    bounds = np.quantile(seen, [1 / 3, 2 / 3]) if len(seen) else np.array([0.0, 0.0])
    level = np.searchsorted(bounds, counts, side="left")
    return _masks([*THIRDS, "not seen"], np.where(counts > 0, level, 3))


def _masks(levels: list[str], level: NDArray[np.integer]) -> Masks:
    return {name: level == index for index, name in enumerate(levels)}


def count_between(
    keys: NDArray[np.integer],
    times: NDArray[np.int64],
    of: NDArray[np.integer],
    until: NDArray[np.int64],
    days: float | None = None,
) -> NDArray[np.int64]:
    """Count, for each label, the events with its key in the last days before a timestamp.

    >>> keys, times = np.array([3, 3, 5]), np.array([0, 2, 1]) * DAY_US
    >>> count_between(keys, times, np.array([3, 3]), np.array([2, 3]) * DAY_US, days=2).tolist()
    [1, 1]

    Args:
        keys: Code of each event's item (or member), int [events], not negative.
        times: Microseconds, int64 [events], in any order.
        of: The label's key, int [labels].
        until: Microseconds, int64 [labels]; an event at this timestamp is not counted.
        days: Length of the half-open window; None counts all earlier events.

    Returns:
        int64 [labels].
    """
    # (key, time) becomes one number with the same order: microseconds are replaced by their rank.
    distinct = np.unique(times)
    span = len(distinct) + 1
    packed = np.sort(keys.astype(np.int64) * span + np.searchsorted(distinct, times))

    def before(timestamp: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(packed, of * span + np.searchsorted(distinct, timestamp))

    if days is None:
        return before(until) - np.searchsorted(packed, of.astype(np.int64) * span)
    return before(until) - before(until - int(days * DAY_US))
