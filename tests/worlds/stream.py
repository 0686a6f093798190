"""Events folded by the stream's rule, and the rows they make."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from tests.worlds.events import Event, Id
from transformations.config import Config
from transformations.stream import Actions, Folded, States, fold, to_sequences
from transformations.timestamps import NO_TIME, microseconds, timestamp_of


def actions(config: Config, events: Iterable[Event], members: Sequence[Id]) -> Actions:
    """Events as flat arrays, each member by its index in `members`."""
    rows = list(events)
    return Actions.of(
        config.rules,
        [members.index(event.member_id) for event in rows],
        [event.item_id for event in rows],
        [config.rules.action_code(event.action) for event in rows],
        [microseconds(event.event_timestamp) for event in rows],
    )


def folded(
    config: Config, states: States, events: Iterable[Event], members: Sequence[Id], as_of: datetime
) -> Folded:
    """One fold of events of these members."""
    return fold(config.rules, states, actions(config, events, members), microseconds(as_of))


def rows(
    config: Config, states: States, members: Sequence[Id], as_of: datetime
) -> dict[Id, dict[str, Any]]:
    """The known members' rows of member_sequences, by member."""
    ids = pa.array(members, pa.int64() if config.member_id_type == "int64" else pa.string())
    batch = to_sequences(config.rules, ids, states, microseconds(as_of), as_of)
    found = {row.pop("member_id"): row for row in batch.to_pylist()}
    for row in found.values():
        assert row.pop("event_timestamp") == row.pop("created_timestamp") == as_of
    known = np.flatnonzero(states.last != NO_TIME).tolist()
    return {members[index]: found[members[index]] for index in known}


def sequence(states: States, member: int = 0) -> list[tuple[Any, int, datetime]]:
    """One member's (item, code, timestamp), oldest first."""
    chosen = states.actions.take(states.actions.member == member)
    timestamps = map(timestamp_of, chosen.timestamp.tolist())
    return list(zip(chosen.item.tolist(), chosen.code.tolist(), timestamps, strict=True))
