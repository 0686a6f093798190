"""Redis Streams as a bus: a consumer group; an entry is acknowledged after the write.

Entries go to whichever worker asks first. Entries of a dead worker are claimed by the others once
they have been unacknowledged for CLAIM_AFTER seconds.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import redis

from serving.answers import refusal
from serving.stream.bus.protocol import DEAD, DEAD_LONGEST, BusGoneError, Message
from transformations.errors import InputError

FIELD = b"event"
CLAIM_AFTER = 15.0
WAIT = 0.5
AT_ONCE = 1_000
"""Entries that are looked through at once."""
# People read the dead letters; beyond this number the oldest are trimmed.
DEAD_KEPT = 100_000

# KEYS: the stream; ARGV: the group, the consumer.
LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""

SETTINGS = {
    "password": "the password before the host, redis://:***@host:port",
    "certificate": "the server's certificate",
    "tls": "TLS: rediss:// where the server asks for it, else redis://",
    "rights": "the user's rights: streams and their groups",
    "address": "host and port, and whether the server runs",
}

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
        # The client must not retry silently: the worker logs that it is waiting.
        self.url = url
        self._client = redis.Redis.from_url(
            url, retry=None, socket_timeout=WAIT + 5, socket_connect_timeout=5
        )
        self._stream, self._group, self._consumer = stream, group, consumer
        self._claim_after = claim_after
        self._own_first = True
        self._joined = False
        self._claimed_at = 0.0

    def ask(self) -> None:
        """Ask for the type of the stream's key, and refuse one that is no stream."""
        try:
            answer: Any = self._client.type(self._stream)
            kind = answer.decode()
        except (redis.exceptions.RedisError, OSError, ValueError) as error:
            raise refusal("Redis", error, SETTINGS) from None
        if kind not in ("stream", "none"):
            raise InputError(
                f"expected the key {self._stream!r} to be a Redis stream, got a {kind}; name "
                "another one: ?stream=NAME"
            )

    def read(self, limit: int, linger: float) -> list[Message]:
        """Return unacknowledged entries of this consumer, else of a dead one, else new entries."""

        def ask() -> list[Message]:
            self._join()
            if self._own_first:
                own = self._entries("0", limit)
                if own:
                    return own
                self._own_first = False
            left = self._claim(limit)
            if left:
                return left
            found = self._entries(">", limit, block=int(WAIT * 1000))
            if found and len(found) < limit and linger > 0:
                time.sleep(linger)
                found += self._entries(">", limit - len(found))
            return found

        return self._asked(ask)

    def done(self, messages: Sequence[Message]) -> None:
        """Acknowledge the entries."""
        if messages:
            entries = [message.position for message in messages]
            self._asked(lambda: self._client.xack(self._stream, self._group, *entries))

    def refuse(self, messages: Sequence[tuple[Message, str]]) -> None:
        """Append to `<stream>.dead`: the value, the reason and the entry's id."""

        def add() -> None:
            with self._client.pipeline(transaction=False) as pipe:
                for message, reason in messages:
                    pipe.xadd(
                        self._stream + DEAD,
                        {
                            FIELD: message.value[:DEAD_LONGEST],
                            "reason": reason,
                            "id": message.position,
                        },
                        maxlen=DEAD_KEPT,
                    )
                pipe.execute()

        self._asked(add)

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Append; a stream has one order, so the keys are not needed."""

        def add() -> None:
            with self._client.pipeline(transaction=False) as pipe:
                for _, value in messages:
                    pipe.xadd(self._stream, {FIELD: value})
                pipe.execute()

        self._asked(add)

    def forget(self, is_theirs: Callable[[bytes], bool]) -> dict[str, int] | None:
        """Delete entries of the stream and of its dead letters."""

        def delete(stream: str) -> int:
            removed, start = 0, "-"
            while True:
                entries: Any = self._client.xrange(stream, start, "+", count=AT_ONCE)
                theirs = [entry for entry, held in entries if is_theirs(held.get(FIELD, b""))]
                if theirs:
                    deleted: Any = self._client.xdel(stream, *theirs)
                    removed += deleted
                if len(entries) < AT_ONCE:
                    return removed
                start = f"({entries[-1][0].decode()}"

        streams = (self._stream, self._stream + DEAD)
        return self._asked(lambda: {stream: delete(stream) for stream in streams})

    def rewind(self, timestamp: datetime) -> None:
        """Set the group back to the last entry before `timestamp`."""

        def set_back() -> None:
            self._join()
            start = f"{max(int(timestamp.timestamp() * 1000) - 1, 0)}-0"
            self._client.xgroup_setid(self._stream, self._group, start)

        self._asked(set_back)

    def reset(self) -> None:
        """Start again with the unacknowledged entries of this consumer."""
        self._own_first, self._joined = True, False

    def close(self) -> None:
        """Leave the group and close the connections.

        A consumer with unacknowledged entries stays in the group, so that the others can claim
        them.
        """
        if self._joined:
            with suppress(redis.exceptions.RedisError, OSError):
                self._client.eval(LEAVE, 1, self._stream, self._group, self._consumer)
        self._client.close()

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (redis.exceptions.RedisError, OSError) as error:
            # Join the group again after any error: a server that came back empty has no group.
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

    def _entries(self, start: str, limit: int, block: int | None = None) -> list[Message]:
        answer: Any = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: start}, count=limit, block=block
        )
        entries = [entry for _, entries in answer or [] for entry in entries]
        return [_message(entry, fields) for entry, fields in entries]

    def _claim(self, limit: int) -> list[Message]:
        now = time.monotonic()
        if now - self._claimed_at < self._claim_after / 2:
            return []
        answer: Any = self._client.xautoclaim(
            self._stream,
            self._group,
            self._consumer,
            min_idle_time=int(self._claim_after * 1000),
            count=limit,
        )
        entries = [_message(entry, fields) for entry, fields in answer[1]]
        if not entries:
            self._claimed_at = now
        return entries


def _message(entry: bytes, fields: dict[bytes, bytes] | None) -> Message:
    # An entry without the field, or one trimmed while it waited, is later refused as not JSON.
    value = (fields or {}).get(FIELD, b"")
    return Message(value, int(entry.split(b"-")[0]) * 1000, entry)
