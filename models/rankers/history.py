"""Members' last actions as arrays, and what they say of pairs, in training and in serving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from models.rankers.inputs import Floats, Rows
from transformations.attributes import as_values
from transformations.rules import Rules
from transformations.signs import read_by_signs, signs_of
from transformations.timestamps import DAY_US, MICROSECOND, timestamp_of

HOUR_US = 3_600_000_000
NONE = -1
"""Where there is no action, and the category of an item without one."""


@dataclass(frozen=True, eq=False)
class Actions:
    """Members' last actions, oldest first, padded at the end. Every array is [members, length].

    Attributes:
        items: Their ids; anything where there is none.
        there: bool.
        signs: int32; 0 where there is none.
        times: Microseconds since 1970, int64.
    """

    items: NDArray[Any]
    there: NDArray[np.bool_]
    signs: NDArray[np.int32]
    times: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rules: Rules,
        items: Sequence[Sequence[Any] | None],
        actions: Sequence[Sequence[str] | None],
        times: Sequence[NDArray[np.int64] | None],
        attributes: Mapping[str, Sequence[Sequence[Any] | None]],
    ) -> "Actions":
        """Return them from the lists of member_activity_sequence; None: of an unknown member.

        Args:
            times: Microseconds since 1970.
            attributes: Those that signs are read by.
        """
        lengths = np.array([0 if row is None else len(row) for row in items], np.int64)
        width = max(int(lengths.max(initial=0)), 1)
        there = np.arange(width) < lengths[:, None]
        known = {name: rules.action_code(name) for name in rules.actions}
        codes = np.array([known.get(one, 0) for one in _flat(actions)], np.int32)
        read = {
            name: as_values(rules.attributes[name], pa.array(_flat(attributes[name], lengths)))
            if len(codes)
            else np.zeros(0)
            for name in sorted(read_by_signs(rules))
        }
        padded = np.zeros(there.shape, np.int64 if rules.id_types["item_id"] == "int64" else object)
        signs, when = np.zeros(there.shape, np.int32), np.zeros(there.shape, np.int64)
        if len(codes):
            padded[there] = _flat(items)
            signs[there] = signs_of(rules, codes, read)
            when[there] = np.concatenate([row for row in times if row is not None])
        return cls(padded, there, signs, when)

    def liked(self, member: int, count: int) -> list[Any]:
        """Return a member's last positive items, each once, the newest first."""
        chosen = self.items[member][self.there[member] & (self.signs[member] > 0)]
        return list(dict.fromkeys(chosen[::-1].tolist()))[:count]


def _flat(
    lists: Sequence[Sequence[Any] | None], lengths: NDArray[np.int64] | None = None
) -> list[Any]:
    """Return all elements; a missing list stands for as many None as `lengths` says."""
    if lengths is not None:
        lists = [
            [None] * int(n) if row is None else row for row, n in zip(lists, lengths, strict=True)
        ]
    return [one for row in lists if row is not None for one in row]


@dataclass(frozen=True, eq=False)
class Categories:
    """Each item's category as a code.

    Attributes:
        names: By code.
    """

    names: NDArray[Any]
    _codes: pd.Series

    @classmethod
    def of(cls, items: Sequence[Any], categories: Sequence[str | None]) -> "Categories":
        """Return those of these items.

        >>> Categories.of([7, 8, 9], ["tech", None, "care"]).codes(np.array([9, 8, 5])).tolist()
        [0, -1, -1]
        """
        codes, names = pd.factorize(np.array(categories, object), sort=True)
        found = pd.Series(codes.astype(np.int64), index=pd.Index(items))
        found = found[~found.index.duplicated()]
        found.index.get_indexer(found.index[:1])  # pandas makes its hash table: before threads come
        return cls(np.array(names, object), found)

    def codes(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the code of each item, NONE for one without a category; int64, as `items`."""
        flat = self._codes.index.get_indexer(pd.Index(items.ravel()))
        codes = np.append(self._codes.to_numpy(), NONE)[flat]
        return codes.reshape(items.shape)

    def of_items(self, items: NDArray[Any]) -> NDArray[Any]:
        """Return the category of each item, None for one without; objects [items]."""
        return np.array([*self.names, None], object)[self.codes(items)]


def history(
    actions: Actions,
    now: NDArray[np.int64],
    history_categories: NDArray[np.int64],
    items: NDArray[Any],
    categories: NDArray[np.int64],
    member_rows: Rows,
) -> dict[str, Floats]:
    """Return what the members' actions say of pairs: float32 [n] each.

    `pair.seen`: actions on the item itself. `pair.category_actions`, `pair.category_liked`: on
    items of its category, and the positive ones. `pair.category_hours`: since the last of them.
    Missing where the item has no category, the last also where there was no such action.

    Args:
        now: Of each member, microseconds since 1970.
        history_categories: Of the actions' items, int64 [members, length].
        items: Of each pair [n].
        categories: Of each pair's item, int64 [n].
        member_rows: Of each pair, int64 [n].
    """
    there = actions.there[member_rows]
    same = there & (history_categories[member_rows] == categories[:, None])
    has = categories != NONE
    count = np.where(has, same.sum(axis=1), np.nan)
    liked = np.where(has, (same & (actions.signs[member_rows] > 0)).sum(axis=1), np.nan)
    newest = np.where(same, actions.times[member_rows], np.iinfo(np.int64).min).max(axis=1)
    hours = np.full(len(items), np.nan)
    known = has & same.any(axis=1)
    hours[known] = (now[member_rows][known] - newest[known]) / HOUR_US
    seen = (there & (actions.items[member_rows] == items[:, None])).sum(axis=1)
    return {
        "pair.seen": seen.astype(np.float32),
        "pair.category_actions": count.astype(np.float32),
        "pair.category_liked": liked.astype(np.float32),
        "pair.category_hours": hours.astype(np.float32),
    }


def on_clocks(now: NDArray[np.int64], zones: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Return times as the members' clocks show them, microseconds since 1970, int64 [members].

    >>> noon = 12 * HOUR_US
    >>> local = on_clocks(np.array([noon] * 3), ["Asia/Tokyo", "nowhere", None])
    >>> (local // HOUR_US).tolist()
    [21, 12, 12]

    Args:
        now: Microseconds since 1970.
        zones: IANA time zone of each; where it is none, as one that is missing, UTC.
    """
    offsets = [
        0 if (zone := _zone(name)) is None else _offset(zone, at)
        for name, at in zip(zones, now.tolist(), strict=True)
    ]
    return now + np.array(offsets, np.int64)


def _offset(zone: ZoneInfo, at: int) -> int:
    offset = timestamp_of(at).astimezone(zone).utcoffset()
    return 0 if offset is None else offset // MICROSECOND


@lru_cache(maxsize=4_096)
def _zone(name: Any) -> ZoneInfo | None:
    if not isinstance(name, str):
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return None


def moments(now: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the time of day and the weekday as points on a circle: float32 [members] each.

    >>> {name: round(float(x[0]), 2) for name, x in moments(np.array([6 * HOUR_US])).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'member.hour_sin': 1.0, 'member.hour_cos': 0.0, 'member.weekday_sin': 0.43,
     'member.weekday_cos': -0.9}

    Args:
        now: Microseconds since 1970, in the member's time; 1970 began on a Thursday.
    """
    hour = 2 * np.pi * (now % DAY_US) / DAY_US
    weekday = 2 * np.pi * ((now // DAY_US + 3) % 7) / 7
    return {
        "member.hour_sin": np.sin(hour).astype(np.float32),
        "member.hour_cos": np.cos(hour).astype(np.float32),
        "member.weekday_sin": np.sin(weekday).astype(np.float32),
        "member.weekday_cos": np.cos(weekday).astype(np.float32),
    }
