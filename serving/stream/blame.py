"""Whose error it is when events cannot be written: the store's, or one message's or member's.

No list of exceptions says it: PostgreSQL calls a too long id an OperationalError, as it calls a
lost connection. So the store is asked to write the rows of a member whose rows it took before. If
it takes them, the error belongs to the events, and halving them finds which. One alone is tried
again: the store may have been away for a moment.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serving.outage import STORE_GONE
from serving.stream.bus.messages import StreamEvent
from serving.stream.bus.protocol import BusGoneError
from serving.stream.states.protocol import Id, StateLostError
from serving.stream.updater import Applied, MemberUpdater

logger = logging.getLogger(__name__)

UNWRITABLE = "cannot be written"
TOO_FAR_AHEAD = "too many actions ahead of the clock"
NOT_THEIRS = (BusGoneError, StateLostError)
PROVEN = 3


@dataclass
class Blame:
    """Applies events; those that alone cannot be written are returned with a reason.

    Attributes:
        count: Is told what was applied.
        known: Members that have a row, to ask the store with before any was written.
        proven: Members whose rows were written last.
        set_aside: Members whose held actions cannot be written; they stay in their states.
    """

    updater: MemberUpdater
    count: Callable[[Applied], object]
    known: Callable[[], Iterable[Id]]
    proven: deque[Id] = field(default_factory=lambda: deque(maxlen=PROVEN))
    set_aside: set[Id] = field(default_factory=set)

    def apply(
        self, events: Sequence[StreamEvent], is_again: bool = False
    ) -> list[tuple[StreamEvent, str]]:
        """Fold events in and write their members' rows; return the refused ones with reasons.

        Args:
            is_again: Whether this one was tried before.

        Raises:
            Exception: what the store or the bus raised, if it was not about one of the events.
        """
        try:
            applied = self.updater.apply(events)
        except NOT_THEIRS:
            raise
        except Exception as error:
            self._expect_theirs(error)
            if len(events) == 1 and not is_again:
                return self.apply(events, is_again=True)
            if len(events) == 1:
                logger.warning("one event %s, and goes to the dead letters: %r", UNWRITABLE, error)
                return [(events[0], UNWRITABLE)]
            left, right = _halves(events)
            return self.apply(left) + self.apply(right)
        self.count(applied)
        if applied.members:
            self.proven.appendleft(events[0].member_id)
        return [(event, TOO_FAR_AHEAD) for event in applied.refused]

    def apply_due(self, members: Sequence[Id], is_again: bool = False) -> None:
        """Fold held actions that are due; members for whom it cannot be done are set aside."""
        try:
            self.count(self.updater.apply([], members))
        except NOT_THEIRS:
            raise
        except Exception as error:
            self._expect_theirs(error)
            if len(members) == 1 and not is_again:
                self.apply_due(members, is_again=True)
                return
            if len(members) == 1:
                logger.warning("held actions of one member cannot be written: %r", error)
                self.set_aside.update(members)
                return
            half = len(members) // 2
            self.apply_due(members[:half])
            self.apply_due(members[half:])

    def _expect_theirs(self, error: Exception) -> None:
        """Return if the store takes the rows of a member whose rows it took before.

        Raises:
            Exception: the same error, if it takes none.
        """
        asked = False
        for member in [*self.proven, *([] if self.proven else self.known())]:
            asked = True
            with suppress(Exception):
                if self.updater.apply([], [member]).members:
                    return
        # Of a store that was never seen to work only the kind of the error is known.
        if asked or isinstance(error, STORE_GONE):
            raise error


def _halves(events: Sequence[StreamEvent]) -> tuple[list[StreamEvent], list[StreamEvent]]:
    """Return two halves, which share a member only if they have no other.

    >>> one, two = StreamEvent(1, 7, 1, 0), StreamEvent(2, 7, 1, 0)
    >>> [len(half) for half in _halves([one, two, one])], [len(h) for h in _halves([one, one])]
    ([2, 1], [1, 1])
    """
    members = list(dict.fromkeys(event.member_id for event in events))
    if len(members) == 1:
        half = len(events) // 2
        return list(events[:half]), list(events[half:])
    some = set(members[: len(members) // 2])
    return (
        [event for event in events if event.member_id in some],
        [event for event in events if event.member_id not in some],
    )
