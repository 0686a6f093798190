"""What a member did last: the stored sequence, and the actions that a request brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.request.sequences import Event, checked_ids, given_attributes, on_items
from serving.times import out_of_bounds
from transformations.attributes import as_values
from transformations.durations import said
from transformations.errors import InputError
from transformations.rules import Rules
from transformations.signs import read_by_signs, signs_of
from transformations.timestamps import microseconds


@dataclass(frozen=True)
class Member:
    """A member's last actions, oldest first.

    Attributes:
        items: Their ids.
        signs: int32 [actions].
        actions: Their names.
        times: Stored ones are cut to whole seconds.
        row_at: The event_timestamp of the online row; None of a member that has none.
    """

    items: Sequence[Any]
    signs: NDArray[np.int32]
    actions: Sequence[str] = ()
    times: Sequence[datetime] = ()
    row_at: datetime | None = None

    def acted_since(self, since: datetime, actions: Sequence[str] = ()) -> frozenset[Any]:
        """Return the items of these actions, or of all, from a time on."""
        rows = zip(self.items, self.actions, self.times, strict=True)
        return frozenset(
            item for item, action, at in rows if at >= since and (not actions or action in actions)
        )


NOBODY = Member([], np.zeros(0, np.int32))


def checked_events(
    rules: Rules, member: Any, events: Sequence[Event], now: datetime
) -> list[Event]:
    """Return a request's events with ids of the configured types, without those after now.

    Raises:
        InputError: an event of another member or of an unknown action, an attribute or a text that
            cannot be read, or a time out of bounds.
    """
    given, _ = on_items(rules, events)
    items = checked_ids(rules, "item", [event.item_id for event in given])
    checked = []
    for event, item in zip(given, items, strict=True):
        if checked_ids(rules, "member", [event.member_id]) != [member]:
            raise InputError(
                f"expected events of the member {member!r}, got one of {event.member_id!r}"
            )
        if event.action not in rules.actions:
            raise InputError(
                f"expected actions among {', '.join(rules.actions)}, got {event.action!r}"
            )
        wrong = out_of_bounds(rules, microseconds(event.event_timestamp), now)
        if wrong is not None:
            raise InputError(
                f"event_timestamp {event.event_timestamp.isoformat()} {wrong}: expected a time "
                f"from {rules.earliest:%Y-%m-%d} to {said(rules.latest)} ahead; integers are "
                "microseconds"
            )
        checked.append(event._replace(member_id=member, item_id=item))
    given_attributes(rules, [event.attributes for event in checked])
    return [event for event in checked if event.event_timestamp <= now]


def with_events(rules: Rules, known: Member, events: Sequence[Event]) -> Member:
    """Return the member as it is with these checked events; what is stored already counts once."""
    rows = zip(known.items, known.actions, known.times, strict=True)
    stored = {(item, action, _second(at)) for item, action, at in rows}
    new = [
        event
        for event in events
        if (event.item_id, event.action, _second(event.event_timestamp)) not in stored
    ]
    if not new:
        return known
    codes = np.array([rules.action_code(event.action) for event in new], np.int32)
    values = given_attributes(rules, [event.attributes for event in new])
    read = {
        name: as_values(rules.attributes[name], pa.array(values[name]))
        for name in read_by_signs(rules)
    }
    times = [*known.times, *(event.event_timestamp.astimezone(UTC) for event in new)]
    order = sorted(range(len(times)), key=times.__getitem__)[-rules.length :]
    items = [*known.items, *(event.item_id for event in new)]
    actions = [*known.actions, *(event.action for event in new)]
    signs = np.concatenate([known.signs, signs_of(rules, codes, read)])
    return Member(
        [items[row] for row in order],
        signs[order].astype(np.int32),
        [actions[row] for row in order],
        [times[row] for row in order],
        known.row_at,
    )


def _second(at: datetime) -> datetime:
    return at.astimezone(UTC) - timedelta(microseconds=at.microsecond)
