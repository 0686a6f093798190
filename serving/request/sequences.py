"""Sequences as the online store returns them, in whole seconds, made ready for the stream's rule.

Feast keeps moments online in whole seconds. A stored action is therefore at most a second (1.2e-5
days) older here than in the batch. Where as_of is a whole second itself, that moves no action over
an edge of the window; `in_order` keeps the actions of one second in their order.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from stores.read import Features
from transformations.errors import ActivityError, InputError, RunFailedError
from transformations.rules import Rules
from transformations.stream import NEVER, Actions, States, microseconds

FIELDS = ("item_ids", "actions", "event_timestamps", "last_action_at")
SECOND = 1_000_000  # microseconds

Id = int | str


class Event(NamedTuple):
    """An action that no store may have seen yet."""

    member_id: Id
    item_id: Id
    action: str
    event_timestamp: datetime


def stored_states(rules: Rules, stored: Features) -> States:
    """Return the members' sequences from FIELDS of the sequence view, as they were read.

    Raises:
        RunFailedError: one holds an action that the configuration does not name.
    """
    items, names, moments = ([_listed(cell) for cell in stored[name]] for name in FIELDS[:3])
    actions = Actions.of(
        rules,
        np.arange(len(moments)).repeat([len(row) for row in moments]),
        [item for row in items for item in row],
        _coded(rules, [name for row in names for name in row], RunFailedError),
        [int(moment.timestamp()) * SECOND for row in moments for moment in row],
    )
    nothing = Actions.of(rules, [], [], [], [])
    last = stored["last_action_at"].astype("M8[us]").astype(np.int64)
    known = stored.present["last_action_at"]
    return States(in_order(rules, actions), nothing, np.where(known, last, NEVER))


def unseen(
    rules: Rules, stored: Actions, events: Sequence[Event], places: Mapping[Id, int]
) -> Actions:
    """Return a request's events but for those that the store has in the same second.

    Args:
        places: Each member's place in the request.

    Raises:
        InputError: an event of another member, of an unknown action, or of another type of id.
    """
    check_ids(rules, "item", [event.item_id for event in events])
    for event in events:
        if event.member_id not in places:
            raise InputError(
                f"expected events of the members asked for, got one of {event.member_id!r}"
            )
    arrived = Actions.of(
        rules,
        [places[event.member_id] for event in events],
        [event.item_id for event in events],
        _coded(rules, [event.action for event in events], InputError),
        [microseconds(event.event_timestamp) for event in events],
    )
    seen = set(_in_seconds(stored)) if events else set()
    new = [key not in seen for key in _in_seconds(arrived)]
    return arrived.take(np.array(new, bool))


def check_ids(rules: Rules, what: str, ids: Sequence[Id]) -> None:
    """Raise InputError unless these ids are of the configured type."""
    kind = int if rules.id_type == "int64" else str
    for value in ids:
        if not isinstance(value, kind):
            raise InputError(f"expected {what} ids of type {rules.id_type}, got {value!r}")


def _listed(cell: Any) -> Sequence[Any]:
    """Return a stored list; Feast keeps one without elements as null, as if there were no row."""
    return [] if cell is None else cell


def in_order(rules: Rules, actions: Actions) -> Actions:
    """Return stored actions with moments that sort them as they lie, all of them distinct.

    Cut to whole seconds, the actions of one second would sort by item_id and action, in whatever
    order they came, and two of one kind would be duplicates. Where they do not lie so, the later
    one and what follows it in that second get a microsecond more.
    """
    member, item, moment = actions.member, actions.item, actions.moment
    same = (member[1:] == member[:-1]) & (moment[1:] == moment[:-1])
    if not same.any():
        return actions
    names = sorted(rules.actions)
    rank = np.array([0, *(names.index(name) for name in rules.actions)])[actions.code]
    tied = (item[1:] == item[:-1]) & (rank[1:] > rank[:-1])
    falls = np.concatenate([[False], same & ~((item[1:] > item[:-1]) | tied)])
    total = np.cumsum(falls)
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    second = np.concatenate([[0], np.cumsum(~same)])
    return Actions(member, item, actions.code, moment + total - total[starts][second])


def _in_seconds(actions: Actions) -> Iterable[tuple[int, Id, int, int]]:
    return zip(
        actions.member.tolist(),
        actions.item.tolist(),
        actions.code.tolist(),
        (actions.moment // SECOND).tolist(),
        strict=True,
    )


def _coded(rules: Rules, names: Sequence[str], error: type[ActivityError]) -> list[int]:
    codes = {name: rules.action_code(name) for name in rules.actions}
    try:
        return [codes[name] for name in names]
    except KeyError as unknown:
        raise error(f"expected actions among {', '.join(codes)}, got {unknown}") from None
