"""The rule of a sequence for a few more events: insert, dedupe, clip, expire.

Pure functions over flat arrays, vectorised over the members of a micro-batch. The result does not
depend on event order: last-k(A | B) = last-k(last-k(A) | B), and expired events never re-enter. The
same events in any order, batches and repetitions end in the same state, if as_of never goes back.

The rule stands in three places: `fold` here, last_actions.py and sql/example_windows.sql.
tests/transformations/test_stream_properties.py, test_sequence_properties.py and
test_example_properties.py prove them equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transformations.attributes import (
    Values,
    arrow_of,
    as_values,
    first_known,
    is_missing,
    missing,
)
from transformations.errors import RunFailedError
from transformations.member_columns import UTC_US, MemberRows, member_columns
from transformations.rules import Rules
from transformations.timestamps import MICROSECOND, NO_TIME

MOST_HELD = 1_000
"""Actions ahead of the clock that are held for one member; a further one is refused."""


@dataclass(frozen=True)
class Actions:
    """Actions of several members: flat arrays of equal length, in any order.

    Attributes:
        member: int64, the member's index in the micro-batch, from 0.
        item: int64, or object (str) where `item_id_type` is string.
        code: int64, `rules.action_code` of the action.
        timestamp: int64, event_timestamp in microseconds since 1970.
        attributes: Configured attribute → its values: float64 with NaN, or object with MISSING.
    """

    member: NDArray[np.int64]
    item: NDArray[Any]
    code: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    attributes: Mapping[str, Values]

    @classmethod
    def of(
        cls,
        rules: Rules,
        member: Any,
        item: Any,
        code: Any,
        timestamp: Any,
        attributes: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make arrays of the right types from anything that numpy takes.

        Args:
            attributes: An attribute that is not among them is missing of all.
        """
        kind = np.int64 if rules.item_id_type == "int64" else object
        member = np.asarray(member, np.int64)
        given = attributes or {}
        return cls(
            member,
            np.asarray(item, kind),
            np.asarray(code, np.int64),
            np.asarray(timestamp, np.int64),
            {
                name: as_values(attribute, given[name])
                if name in given
                else missing(attribute, len(member))
                for name, attribute in rules.attributes.items()
            },
        )

    @classmethod
    def joined(cls, *parts: "Actions") -> Self:
        """Return the actions of all parts, one after the other."""
        return cls(
            np.concatenate([part.member for part in parts]),
            np.concatenate([part.item for part in parts]),
            np.concatenate([part.code for part in parts]),
            np.concatenate([part.timestamp for part in parts]),
            {
                name: np.concatenate([part.attributes[name] for part in parts])
                for name in parts[0].attributes
            },
        )

    def take(self, chosen: NDArray[Any]) -> "Actions":
        """Return those that a mask or an array of indices chooses."""
        return Actions(
            self.member[chosen],
            self.item[chosen],
            self.code[chosen],
            self.timestamp[chosen],
            {name: values[chosen] for name, values in self.attributes.items()},
        )

    def counts(self, members: int) -> NDArray[np.int64]:
        """Return how many actions each member has; int64 [members]."""
        return np.bincount(self.member, minlength=members)

    def __len__(self) -> int:
        return len(self.member)


@dataclass(frozen=True)
class States:
    """The sequence and the held actions of each member of a micro-batch.

    Attributes:
        actions: The sequences, member by member, oldest first.
        held: Actions at or after as_of, in the same order; a later fold counts them.
        last: int64 [members], the newest action's timestamp, even of one that left the window;
            NO_TIME for a member that was never in a window.
    """

    actions: Actions
    held: Actions
    last: NDArray[np.int64]

    @classmethod
    def empty(cls, rules: Rules, members: int) -> Self:
        """Return the states of members without any action."""
        nothing = Actions.of(rules, [], [], [], [])
        return cls(nothing, nothing, np.full(members, NO_TIME))

    def of_members(self, chosen: NDArray[np.int64]) -> "States":
        """Return the states of the members at these ascending indices, which become 0, 1, …"""
        index = np.full(len(self), -1)
        index[chosen] = np.arange(len(chosen))
        parts = []
        for part in (self.actions, self.held):
            some = part.take(index[part.member] >= 0)
            parts.append(replace(some, member=index[some.member]))
        return States(parts[0], parts[1], self.last[chosen])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which members have anything to keep; bool [members]."""
        return (self.last != NO_TIME) | (self.held.counts(len(self)) > 0)

    def __len__(self) -> int:
        return len(self.last)


@dataclass(frozen=True)
class Folded:
    """The result of a fold, and what became of the events that arrived.

    Attributes:
        states: The members' new states.
        applied: Events that are new in a sequence, held ones included.
        duplicates: Events that were there already, or arrived twice.
        expired: Events before the window.
        clipped: Events older than the newest `length`.
        held: Events at or after as_of that were not held yet.
        refused: int64, indices into the arrived events: of members that hold MOST_HELD already.
    """

    states: States
    applied: int
    duplicates: int
    expired: int
    clipped: int
    held: int
    refused: NDArray[np.int64]


def fold(rules: Rules, states: States, arrived: Actions, as_of: int) -> Folded:
    """Return the states as of a timestamp, with the arrived events inserted.

    The rule is that of a snapshot: `as_of - window <= event_timestamp < as_of`, ordered by
    event_timestamp, item_id and action; exact duplicates count once; the last `length` stay. Of
    what is at or after as_of, a member holds MOST_HELD: what it held before, then the earliest.

    Args:
        arrived: Events of these members, in any order; some may be in the states already.
        as_of: In microseconds since 1970; not before that of any earlier fold of these members.
    """
    every = Actions.joined(states.actions, states.held, arrived)
    is_new = np.arange(len(every)) >= len(states.actions) + len(states.held)
    was_held = ~is_new & (np.arange(len(every)) >= len(states.actions))
    order, is_first = _order(rules, every)
    duplicates = int((is_new[order] & ~is_first).sum())
    # Of equal actions, the first copy that has an attribute decides it.
    attributes = {
        name: first_known(values[order], is_first) for name, values in every.attributes.items()
    }
    order = order[is_first]
    every = replace(every.take(order), attributes=attributes)
    is_new, was_held = is_new[order], was_held[order]

    future = every.timestamp >= as_of
    refused = np.flatnonzero(future)[_too_many(every.member[future], is_new[future], len(states))]
    future[refused] = False
    past = every.timestamp < as_of - rules.window // MICROSECOND
    inside = ~past & (every.timestamp < as_of)
    actions = every.take(inside)
    ends = np.cumsum(actions.counts(len(states)))
    kept = np.arange(len(actions)) >= ends[actions.member] - rules.length
    entered = (is_new | was_held)[inside]

    # An action from before the window adds no member, but it may be a lapsed member's last action,
    # which the member's row holds, as in the snapshot.
    last = states.last.copy()
    in_window = np.zeros(len(states), bool)
    in_window[actions.member] = True
    counts = (every.timestamp < as_of) & ((last != NO_TIME) | in_window)[every.member]
    np.maximum.at(last, every.member[counts], every.timestamp[counts])
    return Folded(
        states=States(actions.take(kept), every.take(future), last),
        applied=int((entered & kept).sum()),
        duplicates=duplicates,
        expired=int((is_new & past).sum()),
        clipped=int((entered & ~kept).sum()),
        held=int((is_new & future).sum()),
        refused=order[refused] - len(states.actions) - len(states.held),
    )


def _too_many(
    member: NDArray[np.int64], is_new: NDArray[np.bool_], members: int
) -> NDArray[np.bool_]:
    """Return which new actions a member has no room to hold; ordered by member and time."""
    room = MOST_HELD - np.bincount(member[~is_new], minlength=members)
    so_far = np.cumsum(is_new)
    before = np.cumsum(np.bincount(member[is_new], minlength=members))
    of_earlier = np.concatenate([[0], before])[member]
    return is_new & (so_far - of_earlier > room[member])


def _order(rules: Rules, actions: Actions) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the order of a sequence, and which actions in it are the first among equal ones."""
    # Actions sort by name, as in SQL; their codes follow the configuration.
    names = sorted(rules.actions)
    rank = np.array([0, *(names.index(name) for name in rules.actions)])[actions.code]
    item = actions.item
    if item.dtype == object:
        _, item = np.unique(item, return_inverse=True)
    keys = (rank, item, actions.timestamp, actions.member)
    order = np.lexsort(keys)
    is_first = np.ones(len(order), bool)
    if len(order) > 1:
        ordered = [key[order] for key in keys]
        is_first[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    return order, is_first


def differ(left: States, right: States) -> NDArray[np.bool_]:
    """Return which members' sequences differ; bool [members].

    >>> differ(before, after).tolist()  # doctest: +SKIP
    [False, True, False]
    """
    differs = left.actions.counts(len(left)) != right.actions.counts(len(right))
    mine = left.actions.take(~differs[left.actions.member])
    yours = right.actions.take(~differs[right.actions.member])
    # Equal counts in the same order, so the actions align.
    unlike = (
        (mine.timestamp != yours.timestamp) | (mine.item != yours.item) | (mine.code != yours.code)
    ).astype(bool)
    for name, values in mine.attributes.items():
        other = yours.attributes[name]
        unlike |= (values != other) & ~(is_missing(values) & is_missing(other))
    differs[mine.member[unlike]] = True
    return differs


def to_sequences(
    rules: Rules, member_ids: pa.Array, states: States, as_of: int, created: datetime
) -> pa.RecordBatch:
    """Return the members' rows of member_sequences, in the order of the states.

    Args:
        member_ids: [members], of the configured type.
        as_of: In microseconds since 1970; what the states were folded at.
        created: When the rows can be read online.
    """
    actions, members = states.actions, len(states)
    counts = actions.counts(members)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    ids = pa.int64() if rules.item_id_type == "int64" else pa.string()
    names = pa.array(["", *rules.actions]).take(pa.array(actions.code))
    columns: dict[str, pa.Array] = {
        "member_id": member_ids,
        "event_timestamp": pa.repeat(pa.scalar(as_of, pa.int64()), members).cast(UTC_US),
        "created_timestamp": pa.repeat(pa.scalar(created, UTC_US), members),
        "item_ids": pa.ListArray.from_arrays(offsets, pa.array(actions.item, ids)),
        "actions": pa.ListArray.from_arrays(offsets, names),
        "event_timestamps": pa.ListArray.from_arrays(
            offsets, pa.array(actions.timestamp).cast(UTC_US)
        ),
        **{
            name: pa.ListArray.from_arrays(offsets, arrow_of(attribute, actions.attributes[name]))
            for name, attribute in rules.attributes.items()
        },
    }
    kinds = len(rules.actions) + 1
    each = np.bincount(actions.member * kinds + actions.code, minlength=members * kinds)
    of_kind = list(each.reshape(members, kinds).T[1:])
    rows = MemberRows(counts, of_kind, np.full(members, as_of), states.last, lambda: actions)
    columns |= {column.name: column.array(rows) for column in member_columns(rules)}
    return pa.RecordBatch.from_pydict(columns)


def from_sequences(rules: Rules, rows: pa.RecordBatch) -> States:
    """Return the states that rows of member_sequences hold; the opposite of `to_sequences`.

    Raises:
        RunFailedError: a row holds an action that the configuration does not name.
    """
    lists = rows["item_ids"]
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    names = rows["actions"].flatten()
    codes = pc.index_in(names, value_set=pa.array(list(rules.actions)))
    if codes.null_count:
        raise RunFailedError(
            f"expected actions among {', '.join(rules.actions)}, got "
            f"{names.filter(codes.is_null())[0].as_py()!r} in a snapshot; build it again with the "
            "present configuration"
        )
    nothing = Actions.of(rules, [], [], [], [])
    last = pc.fill_null(rows["last_action_at"].cast(pa.int64()), int(NO_TIME))
    actions = Actions.of(
        rules,
        np.arange(rows.num_rows).repeat(lengths),
        lists.flatten().to_numpy(zero_copy_only=False),
        codes.to_numpy(zero_copy_only=False) + 1,
        rows["event_timestamps"].flatten().cast(pa.int64()).to_numpy(zero_copy_only=False),
        # A snapshot of before an attribute was configured has no list of it.
        {name: rows[name].flatten() for name in rules.attributes if name in rows.schema.names},
    )
    return States(actions, nothing, last.to_numpy(zero_copy_only=False).astype(np.int64))
