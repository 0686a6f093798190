"""Members' sequences as of now: those of the online store and a request's events, folded.

transformations/stream.py has the rule, as in the stream. Feast keeps timestamps online in whole
seconds, so a stored action is up to a second (1.2e-5 days) older here than in the batch. If as_of
is a whole second, no action crosses an edge of the window because of that. `in_order` preserves the
order of the actions of one second.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from stores.ids import IdError, ids_of
from stores.read import Features, Reader
from transformations import clock
from transformations.attributes import problem
from transformations.config import Config
from transformations.errors import ActivityError, InputError, RunFailedError
from transformations.ids import LONGEST, is_id
from transformations.names import SEQUENCE_VIEW
from transformations.rules import Rules
from transformations.searches import RESERVED, is_search, read
from transformations.stream import Actions, States, fold, to_sequences
from transformations.timestamps import NO_TIME, microseconds

FIELDS = ("item_ids", "actions", "event_timestamps", "last_action_at")
SECOND = 1_000_000  # microseconds
ARROW_IDS = {"int64": pa.int64(), "string": pa.string()}

Id = int | str


class Event(NamedTuple):
    """An action that the online store may not have yet; on an item, or with a text."""

    member_id: Id
    item_id: Id | None
    action: str
    event_timestamp: datetime
    attributes: Mapping[str, Any] = {}
    text: str | None = None


class Latest(NamedTuple):
    """Sequences of members as of a time.

    Attributes:
        rows: Of member_sequences, one for each member.
        sequence_at: datetime64[us] [members] in UTC: the online row's timestamp (its whole
            second), NaT where the store has none.
        texts: Id → normalized text, of the events that have one.
        held_back: How many of the events are at or after as_of, and so do not count.
    """

    as_of: datetime
    rows: pa.RecordBatch
    sequence_at: NDArray[np.datetime64]
    texts: dict[Id, str]
    held_back: int


class LatestSequences:
    """Sequences of members with events that the online store need not have; threads may share it.

    Raises:
        stores.read.ReadError: the kind of the online store cannot be read.
        feast.errors.FeastObjectNotFoundException: the view was never applied.
    """

    def __init__(self, config: Config, store: FeatureStore) -> None:
        self._config = config
        fields = [f"{SEQUENCE_VIEW}:{name}" for name in (*FIELDS, *config.rules.attributes)]
        self._reader = Reader(store, fields, event_timestamps=True)

    def of(
        self, members: Sequence[Id], events: Sequence[Event] = (), as_of: datetime | None = None
    ) -> Latest:
        """Return the members' sequences; of a member without a row, that of its events.

        Args:
            members: Ids of the configured type, each once.
            events: Of these members. One that the store has (same item and action in the same
                second) counts once.
            as_of: Default: now.

        Raises:
            InputError: an event as `unseen` and `on_items` refuse it, or an as_of before a stored
                row.
        """
        rules = self._config.rules
        timestamp = clock.now() if as_of is None else as_of.astimezone(UTC)
        stored = self._reader.read({"member_id": list(members)})
        ids = pa.array(members, ARROW_IDS[rules.member_id_type])
        sequence_at = stored.event_timestamps[SEQUENCE_VIEW]
        if as_of is not None:
            _refuse_past(ids, sequence_at, timestamp)
        states = stored_states(rules, stored)
        events, texts = on_items(rules, events)
        index = {member: row for row, member in enumerate(members)}
        arrived, now = unseen(rules, states.actions, events, index), microseconds(timestamp)
        folded = fold(rules, states, arrived, now)
        rows = to_sequences(rules, ids, folded.states, now, timestamp)
        return Latest(timestamp, rows, sequence_at, texts, folded.held)

    def close(self) -> None:
        """Close the connections to the online store."""
        self._reader.close()


def _refuse_past(ids: pa.Array, sequence_at: NDArray[np.datetime64], as_of: datetime) -> None:
    late = np.flatnonzero(sequence_at > np.datetime64(as_of.replace(tzinfo=None), "us"))
    if len(late):
        at = sequence_at[late[0]]
        raise InputError(
            f"expected an as_of of {at} UTC or later, the timestamp of the stored sequence of "
            f"member {ids[int(late[0])].as_py()!r}, got {as_of:%Y-%m-%dT%H:%M:%S.%f}; for earlier "
            "times use snapshots (activity backfill) and training joins"
        )


def stored_states(rules: Rules, stored: Features) -> States:
    """Return the members' sequences from FIELDS of the sequence view, as they were read.

    Raises:
        RunFailedError: a sequence holds an action that is missing in the configuration.
    """
    items, names, timestamps = ([_listed(cell) for cell in stored[name]] for name in FIELDS[:3])
    actions = Actions.of(
        rules,
        np.arange(len(timestamps)).repeat([len(row) for row in timestamps]),
        [item for row in items for item in row],
        _coded(rules, [name for row in names for name in row], RunFailedError),
        [int(timestamp.timestamp()) * SECOND for row in timestamps for timestamp in row],
        {
            # A row of before the attribute was configured has no list of it.
            name: [
                value
                for cell, row in zip(stored[name], timestamps, strict=True)
                for value in ([None] * len(row) if cell is None else cell)
            ]
            for name in rules.attributes
        },
    )
    nothing = Actions.of(rules, [], [], [], [])
    last = stored["last_action_at"].astype("M8[us]").astype(np.int64)
    known = stored.present["last_action_at"]
    return States(in_order(rules, actions), nothing, np.where(known, last, NO_TIME))


def unseen(
    rules: Rules, stored: Actions, events: Sequence[Event], index: Mapping[Id, int]
) -> Actions:
    """Return a request's events without those that the store has in the same second.

    Args:
        index: Each member's index in the request.

    Raises:
        InputError: an event of another member, an unknown action, or an id of another type.
    """
    items = checked_ids(rules, "item", [event.item_id for event in events])
    for item, event in zip(items, events, strict=True):
        if rules.texts and event.action not in rules.texts and is_search(item):
            raise InputError(f"{RESERVED}: got {item!r} of a {event.action}")
    members = checked_ids(rules, "member", [event.member_id for event in events])
    for member in members:
        if member not in index:
            raise InputError(f"expected events of the requested members, got one of {member!r}")
    arrived = Actions.of(
        rules,
        [index[member] for member in members],
        items,
        _coded(rules, [event.action for event in events], InputError),
        [microseconds(event.event_timestamp) for event in events],
        given_attributes(rules, [event.attributes for event in events]),
    )
    seen = set(_in_seconds(stored)) if events else set()
    new = [key not in seen for key in _in_seconds(arrived)]
    return arrived.take(np.array(new, bool))


def on_items(rules: Rules, events: Sequence[Event]) -> tuple[list[Event], dict[Id, str]]:
    """Give each event with a text the id of that text.

    Returns:
        The events, all with an item_id; id → normalized text, of those that have one.

    Raises:
        InputError: an action that needs a text or an item has none, a text cannot be read, or an
            item has an id that only a text may have.
    """
    given: list[Event] = []
    texts: dict[Id, str] = {}
    for event in events:
        if event.action in rules.texts:
            search = read(rules.item_id_type, event.action, event.text)
            if search.item_id is None or search.text is None:
                raise InputError(f"{search.problem}: got {event.text!r:.60}")
            texts[search.item_id] = search.text
            event = event._replace(item_id=search.item_id)
        elif event.item_id is None:
            raise InputError(f"expected an item_id of each {event.action}, got none")
        given.append(event)
    return given, texts


def checked_ids(rules: Rules, what: str, ids: Sequence[Any]) -> list[Id]:
    """Return the ids of members or items as the configured type (stores/ids.py).

    Args:
        what: member or item.

    Raises:
        InputError: one of them is not an id of that type.
    """
    id_type = rules.member_id_type if what == "member" else rules.item_id_type
    try:
        found = ids_of(list(ids), id_type, f"{what}_id")
    except IdError as error:
        raise InputError(str(error)) from None
    for one in found if id_type == "string" else ():
        if not is_id(one) and (one or what == "item"):  # the member without a letter is nobody
            raise InputError(
                f"{what}_id: expected a text of at most {LONGEST} characters, not blank and "
                f"without NUL, got {one!r:.60}"
            )
    return found


def given_attributes(rules: Rules, given: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each attribute's values, None where an event lacks it.

    Raises:
        InputError: an attribute that is not configured, or a value that the batch would refuse.
    """
    for attributes in given:
        for name, value in attributes.items():
            if name not in rules.attributes:
                known = ", ".join(rules.attributes) or "none is configured"
                raise InputError(f"expected attributes among {known}, got {name!r}")
            wrong = None if value is None else problem(name, rules.attributes[name], value)
            if wrong:
                raise InputError(f"{wrong}: got {value!r}")
    return {name: [one.get(name) for one in given] for name in rules.attributes}


def _listed(cell: Any) -> Sequence[Any]:
    """Return a stored list; Feast stores an empty list as null, as if there were no row."""
    return [] if cell is None else cell


def in_order(rules: Rules, actions: Actions) -> Actions:
    """Return stored actions with distinct timestamps that sort them in their stored order.

    The fold sorts by timestamp, item_id and action. Within one whole second it would therefore
    reorder the actions, and drop two of one kind as duplicates. An action that does not sort after
    the one before it starts a step: it and the rest of its second get one microsecond more.

        member  item  timestamp   step  steps so far  before its second  timestamp returned
        1       7     5_000_000   0     0             0                  5_000_000
        1       4     5_000_000   1     1             0                  5_000_001
        1       4     5_000_000   1     2             0                  5_000_002
        1       4     6_000_000   0     2             2                  6_000_000
    """
    member, item, timestamp = actions.member, actions.item, actions.timestamp
    same_second = (member[1:] == member[:-1]) & (timestamp[1:] == timestamp[:-1])
    if not same_second.any():
        return actions
    names = sorted(rules.actions)
    rank = np.array([0, *(names.index(name) for name in rules.actions)])[actions.code]
    sorts_after = (item[1:] > item[:-1]) | ((item[1:] == item[:-1]) & (rank[1:] > rank[:-1]))
    steps = np.cumsum(np.concatenate([[False], same_second & ~sorts_after]))
    first_of_second = np.flatnonzero(np.concatenate([[True], ~same_second]))
    second = np.concatenate([[0], np.cumsum(~same_second)])
    before = steps[first_of_second][second]
    return replace(actions, timestamp=timestamp + steps - before)


def _in_seconds(actions: Actions) -> Iterable[tuple[int, Id, int, int]]:
    return zip(
        actions.member.tolist(),
        actions.item.tolist(),
        actions.code.tolist(),
        (actions.timestamp // SECOND).tolist(),
        strict=True,
    )


def _coded(rules: Rules, names: Sequence[str], error: type[ActivityError]) -> list[int]:
    codes = {name: rules.action_code(name) for name in rules.actions}
    try:
        return [codes[name] for name in names]
    except KeyError as unknown:
        raise error(f"expected actions among {', '.join(codes)}, got {unknown}") from None
