"""The rule of sql/packed_sequences.sql for a few more events: insert, dedupe, clip, expire.

Pure functions over flat arrays, vectorised over the members of a micro-batch. What they keep of a
member is exact however the events come, because the last `length` actions of a set are those of
the last `length` of a part of it and the rest, and because what has left the window never comes
back. The same events in any order, in any parts and any number of times therefore end in the same
state, as long as as_of does not go back.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transformations.errors import RunFailedError
from transformations.names import count_column
from transformations.rules import Rules

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")
NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Actions:
    """Actions of several members: flat arrays of equal length, in any order.

    Attributes:
        member: int64, the member's place in the micro-batch, from 0.
        item: int64, or object (str) where `id_type` is string.
        code: int64, `rules.action_code` of the action.
        moment: int64, the event_timestamp in microseconds since 1970.
    """

    member: NDArray[np.int64]
    item: NDArray[Any]
    code: NDArray[np.int64]
    moment: NDArray[np.int64]

    @classmethod
    def of(cls, rules: Rules, member: Any, item: Any, code: Any, moment: Any) -> Self:
        """Make arrays of the right types from anything that numpy takes."""
        kind = np.int64 if rules.id_type == "int64" else object
        return cls(
            np.asarray(member, np.int64),
            np.asarray(item, kind),
            np.asarray(code, np.int64),
            np.asarray(moment, np.int64),
        )

    @classmethod
    def joined(cls, *parts: "Actions") -> Self:
        """Return the actions of all parts, one after the other."""
        return cls(
            np.concatenate([part.member for part in parts]),
            np.concatenate([part.item for part in parts]),
            np.concatenate([part.code for part in parts]),
            np.concatenate([part.moment for part in parts]),
        )

    def take(self, chosen: NDArray[Any]) -> "Actions":
        """Return those that a mask or an array of places chooses."""
        return Actions(
            self.member[chosen], self.item[chosen], self.code[chosen], self.moment[chosen]
        )

    def counts(self, members: int) -> NDArray[np.int64]:
        """Return how many actions each member has; int64 [members]."""
        return np.bincount(self.member, minlength=members)

    def __len__(self) -> int:
        return len(self.member)


@dataclass(frozen=True)
class States:
    """What is known of each member of a micro-batch.

    Attributes:
        actions: The sequences: member after member, oldest first.
        held: Actions that were not before as_of, in the same order; they count once they are.
        last: int64 [members], the newest action's moment, that of one that has left the window
            included; NEVER for a member that no snapshot and no stream has had in its window.
    """

    actions: Actions
    held: Actions
    last: NDArray[np.int64]

    @classmethod
    def empty(cls, rules: Rules, members: int) -> Self:
        """Return the state of members of whom nothing is known."""
        nothing = Actions.of(rules, [], [], [], [])
        return cls(nothing, nothing, np.full(members, NEVER))

    def of_members(self, chosen: NDArray[np.int64]) -> "States":
        """Return the states of the members at these places, ascending, as places from 0 on."""
        place = np.full(len(self), -1)
        place[chosen] = np.arange(len(chosen))
        parts = []
        for part in (self.actions, self.held):
            some = part.take(place[part.member] >= 0)
            parts.append(Actions(place[some.member], some.item, some.code, some.moment))
        return States(parts[0], parts[1], self.last[chosen])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which members there is anything to keep of; bool [members]."""
        return (self.last != NEVER) | (self.held.counts(len(self)) > 0)

    def __len__(self) -> int:
        return len(self.last)


@dataclass(frozen=True)
class Folded:
    """What a fold made of the events that arrived.

    Attributes:
        states: The members' new states.
        applied: How many events are in a sequence now that were not before, or were held.
        duplicates: How many were there already, or came twice.
        expired: How many lie before the window.
        clipped: How many are older than the newest `length`.
        held: How many are not before as_of, and were not held yet.
    """

    states: States
    applied: int
    duplicates: int
    expired: int
    clipped: int
    held: int


def microseconds(moment: datetime) -> int:
    """Return a moment in microseconds since 1970.

    >>> microseconds(datetime(1970, 1, 2, tzinfo=UTC))
    86400000000
    """
    return (moment - EPOCH) // MICROSECOND


def moment_of(us: int) -> datetime:
    """Return the moment of so many microseconds since 1970; the opposite of `microseconds`."""
    return EPOCH + us * MICROSECOND


def fold(rules: Rules, states: States, arrived: Actions, as_of: int) -> Folded:
    """Return the states as of a moment, with what arrived in its place.

    The rule is that of a snapshot: `as_of - window <= event_timestamp < as_of`, in the order of
    event_timestamp, item_id and action; exact duplicates count once; the last `length` stay.

    Args:
        arrived: Events of these members, in any order; any of them may be known already.
        as_of: In microseconds since 1970; not before that of any earlier fold of these members.
    """
    every = Actions.joined(states.actions, states.held, arrived)
    got = np.arange(len(every)) >= len(states.actions) + len(states.held)
    was_held = ~got & (np.arange(len(every)) >= len(states.actions))
    order, is_first = _order(rules, every)
    duplicates = int((got[order] & ~is_first).sum())
    order = order[is_first]
    every, got, was_held = every.take(order), got[order], was_held[order]

    future = every.moment >= as_of
    past = every.moment < as_of - rules.window // MICROSECOND
    inside = ~future & ~past
    actions = every.take(inside)
    ends = np.cumsum(actions.counts(len(states)))
    kept = np.arange(len(actions)) >= ends[actions.member] - rules.length
    new = (got | was_held)[inside]

    # An action from before the window makes nobody known, but a known member's last action it may
    # be: a lapsed member's row says when that was, as the snapshot does.
    last = states.last.copy()
    in_window = np.zeros(len(states), bool)
    in_window[actions.member] = True
    counts = ~future & ((last != NEVER) | in_window)[every.member]
    np.maximum.at(last, every.member[counts], every.moment[counts])
    return Folded(
        states=States(actions.take(kept), every.take(future), last),
        applied=int((new & kept).sum()),
        duplicates=duplicates,
        expired=int((got & past).sum()),
        clipped=int((new & ~kept).sum()),
        held=int((got & future).sum()),
    )


def _order(rules: Rules, actions: Actions) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the order of a sequence, and which in it are the first of equal ones."""
    # By name, as the SQL orders them; codes are in the order of the configuration.
    names = sorted(rules.actions)
    rank = np.array([0, *(names.index(name) for name in rules.actions)])[actions.code]
    item = actions.item
    if item.dtype == object:
        _, item = np.unique(item, return_inverse=True)
    keys = (rank, item, actions.moment, actions.member)
    order = np.lexsort(keys)
    is_first = np.ones(len(order), bool)
    if len(order) > 1:
        ordered = [key[order] for key in keys]
        is_first[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    return order, is_first


def differ(left: States, right: States) -> NDArray[np.bool_]:
    """Return which members' sequences are not the same in both; bool [members].

    >>> differ(before, after).tolist()  # doctest: +SKIP
    [False, True, False]
    """
    found = left.actions.counts(len(left)) != right.actions.counts(len(right))
    mine = left.actions.take(~found[left.actions.member])
    yours = right.actions.take(~found[right.actions.member])
    # Of equal counts and ordered alike, so they lie side by side.
    unlike = (
        (mine.moment != yours.moment) | (mine.item != yours.item) | (mine.code != yours.code)
    ).astype(bool)
    found[mine.member[unlike]] = True
    return found


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
    ids = pa.int64() if rules.id_type == "int64" else pa.string()
    names = pa.array(["", *rules.actions]).take(pa.array(actions.code))
    columns = {
        "member_id": member_ids,
        "event_timestamp": pa.repeat(pa.scalar(as_of, pa.int64()), members).cast(MOMENT),
        "created_timestamp": pa.repeat(pa.scalar(created, MOMENT), members),
        "item_ids": pa.ListArray.from_arrays(offsets, pa.array(actions.item, ids)),
        "actions": pa.ListArray.from_arrays(offsets, names),
        "event_timestamps": pa.ListArray.from_arrays(
            offsets, pa.array(actions.moment).cast(MOMENT)
        ),
        "n_actions": pa.array(counts, pa.int64()),
    }
    for name in rules.actions:
        chosen = actions.code == rules.action_code(name)
        counted = np.bincount(actions.member[chosen], minlength=members)
        columns[count_column(name)] = pa.array(counted, pa.int64())
    columns["last_action_at"] = pa.array(states.last, mask=states.last == NEVER).cast(MOMENT)
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
            "present activity.yaml"
        )
    nothing = Actions.of(rules, [], [], [], [])
    last = pc.fill_null(rows["last_action_at"].cast(pa.int64()), int(NEVER))
    actions = Actions.of(
        rules,
        np.arange(rows.num_rows).repeat(lengths),
        lists.flatten().to_numpy(zero_copy_only=False),
        codes.to_numpy(zero_copy_only=False) + 1,
        rows["event_timestamps"].flatten().cast(pa.int64()).to_numpy(zero_copy_only=False),
    )
    return States(actions, nothing, last.to_numpy(zero_copy_only=False).astype(np.int64))
