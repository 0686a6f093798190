"""Redis Streams as a bus: a consumer group; an entry is acknowledged after the write.

Entries go to whichever worker asks first. Those of a worker that died are claimed by the others
once they have lain unacknowledged for CLAIM_AFTER.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import redis

from serving.stream.bus.protocol import DEAD, BusGoneError, Message

FIELD = b"event"
CLAIM_AFTER = 15.0
WAIT = 0.5
# A worker's dead letters are read by people; older ones than so many are trimmed.
DEAD_KEPT = 100_000

# KEYS: the stream; ARGV: the group, the consumer.
LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""

T = TypeVar("T")


class RedisBus:
    """One stream and one consumer group."""

    def __init__(
        self,
        url: str,
        stream: str,
        group: str,
        consumer: str,
        claim_after: float = CLAIM_AFTER,
    ) -> None:
        # No retries of the client's own: the worker says in its log that it is waiting.
        self.url = url
        self._client = redis.Redis.from_url(
            url, retry=None, socket_timeout=WAIT + 5, socket_connect_timeout=5
        )
        self._stream, self._group, self._consumer = stream, group, consumer
        self._claim_after = claim_after
        self._own_first = True
        self._joined = False
        self._claimed_at = 0.0

    def read(self, most: int, linger: float) -> list[Message]:
        """Return what this consumer has not acknowledged, what a dead one left, or new entries."""

        def ask() -> list[Message]:
            self._join()
            if self._own_first:
                own = self._entries("0", most)
                if own:
                    return own
                self._own_first = False
            left = self._claim(most)
            if left:
                return left
            found = self._entries(">", most, block=int(WAIT * 1000))
            if found and len(found) < most and linger > 0:
                time.sleep(linger)
                found += self._entries(">", most - len(found))
            return found

        return self._asked(ask)

    def done(self, messages: Sequence[Message]) -> None:
        """Acknowledge."""
        if messages:
            places = [message.place for message in messages]
            self._asked(lambda: self._client.xack(self._stream, self._group, *places))

    def refuse(self, messages: Sequence[tuple[Message, str]]) -> None:
        """Add to `<stream>.dead`: the value, the reason and the entry's id."""

        def add() -> None:
            with self._client.pipeline(transaction=False) as pipe:
                for message, reason in messages:
                    pipe.xadd(
                        self._stream + DEAD,
                        {FIELD: message.value, "reason": reason, "id": message.place},
                        maxlen=DEAD_KEPT,
                    )
                pipe.execute()

        self._asked(add)

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Append; a stream has one order, so that the keys are not needed."""

        def add() -> None:
            with self._client.pipeline(transaction=False) as pipe:
                for _, value in messages:
                    pipe.xadd(self._stream, {FIELD: value})
                pipe.execute()

        self._asked(add)

    def rewind(self, moment: datetime) -> None:
        """Set the group back to the last entry before `moment`."""

        def set_back() -> None:
            self._join()
            start = f"{max(int(moment.timestamp() * 1000) - 1, 0)}-0"
            self._client.xgroup_setid(self._stream, self._group, start)

        self._asked(set_back)

    def reset(self) -> None:
        """Begin again with what this consumer has not acknowledged."""
        self._own_first, self._joined = True, False

    def close(self) -> None:
        """Leave the group and close the connections.

        A consumer with entries that it has not acknowledged stays in the group: the others claim
        them from it.
        """
        if self._joined:
            with suppress(redis.exceptions.RedisError, OSError):
                self._client.eval(LEAVE, 1, self._stream, self._group, self._consumer)
        self._client.close()

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (redis.exceptions.RedisError, OSError) as error:
            # Whatever it was, the group is looked for again: a server that came back empty has
            # none.
            self.reset()
            raise BusGoneError(f"Redis, stream {self._stream}: {error}") from error

    def _join(self) -> None:
        if self._joined:
            return
        try:
            self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._joined = True

    def _entries(self, start: str, most: int, block: int | None = None) -> list[Message]:
        answer: Any = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: start}, count=most, block=block
        )
        entries = [entry for _, entries in answer or [] for entry in entries]
        return [_message(place, fields) for place, fields in entries]

    def _claim(self, most: int) -> list[Message]:
        now = time.monotonic()
        if now - self._claimed_at < self._claim_after / 2:
            return []
        answer: Any = self._client.xautoclaim(
            self._stream,
            self._group,
            self._consumer,
            min_idle_time=int(self._claim_after * 1000),
            count=most,
        )
        entries = [_message(place, fields) for place, fields in answer[1]]
        if not entries:
            self._claimed_at = now
        return entries


def _message(place: bytes, fields: dict[bytes, bytes] | None) -> Message:
    # An entry without the field, or one that was trimmed while it waited, is refused as not JSON.
    value = (fields or {}).get(FIELD, b"")
    return Message(value, int(place.split(b"-")[0]) * 1000, place)
