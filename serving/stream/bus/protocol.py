"""What the stream needs of a bus. A new one implements `Bus` and gets a line in `open.py`."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from transformations.errors import RunFailedError

GROUP = "activity-stream"
TOPIC = "activity"
DEAD = ".dead"
DEAD_LONGEST = 64 * 1024
"""Bytes of a message that its dead letter holds: every bus takes that many."""


class BusGoneError(RunFailedError):
    """The bus does not answer; a later try may succeed."""


class Message(NamedTuple):
    """One message: content, arrival at the bus (microseconds since 1970), position on the bus."""

    value: bytes
    sent: int
    position: Any


class Bus(Protocol):
    """A log of messages that a group of consumers shares, with delivery at least once."""

    def ask(self) -> None:
        """Ask the bus once, before a worker begins.

        Raises:
            InputError: it does not answer as it must; the message says what to look at.
        """

    def read(self, limit: int, linger: float) -> list[Message]:
        """Return up to `limit` messages; those that are never `done` are redelivered.

        Without any message it returns after half a second.

        Args:
            linger: Seconds to wait for further messages after the first.

        Raises:
            BusGoneError: the bus does not answer.
        """

    def done(self, messages: Sequence[Message]) -> None:
        """Acknowledge all messages that the last read returned.

        Raises:
            BusGoneError: the bus does not answer; they are redelivered.
        """

    def refuse(self, messages: Sequence[tuple[Message, str]]) -> None:
        """Copy refused messages to the dead letters, each with its reason.

        Of a message longer than DEAD_LONGEST the beginning is copied; its position says where it
        lies whole.

        Raises:
            BusGoneError: the bus does not answer.
        """

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Append messages, each with its key; messages of one key stay in order.

        Raises:
            BusGoneError: the bus does not answer; some messages may have been appended.
        """

    def forget(self, is_theirs: Callable[[bytes], bool]) -> dict[str, int] | None:
        """Remove messages, and dead letters, of forgotten members; None where a bus cannot.

        Args:
            is_theirs: Whether a message is one of theirs.

        Returns:
            Log or dead letters → how many were removed.

        Raises:
            BusGoneError: the bus does not answer; some may have been removed.
        """

    def rewind(self, timestamp: datetime) -> None:
        """Let the group read again at least what arrived at `timestamp` or later."""

    def reset(self) -> None:
        """Forget what was read but not acknowledged: it is redelivered; reconnect if needed."""

    def close(self) -> None:
        """Leave the group and close the connections."""
