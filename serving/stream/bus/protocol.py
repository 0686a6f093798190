"""Where events come from: what the stream asks of a bus."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from transformations.errors import RunFailedError

GROUP = "activity-stream"
TOPIC = "activity"
DEAD = ".dead"


class BusGoneError(RunFailedError):
    """The bus does not answer, now; a later try may succeed."""


class Message(NamedTuple):
    """One message: what it says, when the bus took it (microseconds since 1970), where it lay."""

    value: bytes
    sent: int
    place: Any


class Bus(Protocol):
    """A log of messages that a group of consumers shares, each message at least once."""

    def read(self, most: int, linger: float) -> list[Message]:
        """Return up to `most` messages; what was returned and is not `done` will come again.

        Args:
            linger: Seconds to wait for more than the first; with none at all, half a second passes.

        Raises:
            BusGoneError: the bus does not answer.
        """

    def done(self, messages: Sequence[Message]) -> None:
        """Note, on the bus, that these were handled: all that the last read returned.

        Raises:
            BusGoneError: the bus does not answer; they will come again.
        """

    def refuse(self, messages: Sequence[tuple[Message, str]]) -> None:
        """Copy messages that cannot be read to the dead letters, each with the reason.

        Raises:
            BusGoneError: the bus does not answer.
        """

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Append messages, each with its key: those of one key stay in order.

        Raises:
            BusGoneError: the bus does not answer; some may have been appended.
        """

    def rewind(self, moment: datetime) -> None:
        """Let the group read again what the bus took at `moment` or later, or more than that."""

    def reset(self) -> None:
        """Forget what was read and not done, so that it comes again; connect anew if need be."""

    def close(self) -> None:
        """Leave the group and close the connections."""
