"""States in the online store's Redis: state and features are lost or kept together."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from serving.stream.states.protocol import NONE, Id, StateLostError, digest
from transformations.config import Config

AT_ONCE = 2_000
LOCKED_FOR = 15.0  # seconds that a lock outlives a process that died with it

# KEYS: the base, the held index, then the members. ARGV: whether the states are being seeded; then
# per member its id, the expected version ('' for no value), its value and when it is due ('').
REPLACE = """
if ARGV[1] == '0' and redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOBASE') end
local written = {}
for index = 3, #KEYS do
    local at = (index - 3) * 4 + 1
    local member, version, value, due = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    local stored = redis.call('GETRANGE', KEYS[index], 0, 7)
    if stored == version then
        redis.call('SET', KEYS[index], value)
        if due == '' then redis.call('ZREM', KEYS[2], member)
        else redis.call('ZADD', KEYS[2], due, member) end
        written[index - 2] = 1
    else
        written[index - 2] = 0
    end
end
return written
"""


class RedisStates:
    """States in the online store's Redis.

    All keys share a hash tag, so that on a cluster they lie in one slot.
    """

    def __init__(self, config: Config, client: Any, project: str) -> None:
        self._client = client
        self._is_text = config.member_id_type == "string"
        self._name = f"{{activity:{project}:{digest(config.rules)}}}"
        self._base = f"{self._name}:base"
        self._held = f"{self._name}:held"
        self._replace = client.register_script(REPLACE)

    def base(self) -> str | None:
        """Return the note of the snapshot that all states include."""
        base = self._client.get(self._base)
        return None if base is None else base.decode()

    def set_base(self, base: str) -> None:
        """Note which snapshot all states include."""
        self._client.set(self._base, base)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Hold a lock that expires soon, renewed as long as this process lives."""
        lock = self._client.lock(
            f"{self._name}:rebuilding", LOCKED_FOR, thread_local=False, raise_on_release_error=False
        )
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(LOCKED_FOR / 3):
                with suppress(redis.exceptions.RedisError):
                    lock.reacquire()

        with lock:
            keeping = threading.Thread(target=keep, daemon=True)
            keeping.start()
            try:
                yield
            finally:
                ended.set()
                keeping.join()

    def clear(self) -> None:
        """Remove everything, the base first."""
        self._client.delete(self._base, self._held)
        some: list[bytes] = []
        for key in self._client.scan_iter(match=f"{self._name}:m:*", count=AT_ONCE):
            some.append(key)
            if len(some) == AT_ONCE:
                self._client.delete(*some)
                some = []
        if some:
            self._client.delete(*some)

    def read(self, members: Sequence[Id], seeding: bool = False) -> list[bytes | None]:
        """Return the members' values."""
        found: list[bytes | None] = []
        for start in range(0, len(members), AT_ONCE):
            keys = [self._key(member) for member in members[start : start + AT_ONCE]]
            base, *values = self._client.mget([self._base, *keys])
            if base is None and not seeding:
                raise StateLostError
            found += values
        return found

    def write(
        self,
        members: Sequence[Id],
        replaced: NDArray[np.int64],
        values: Sequence[bytes],
        due: NDArray[np.int64],
        seeding: bool = False,
    ) -> NDArray[np.bool_]:
        """Replace the values whose version is still `replaced`; return which ones were."""
        written: list[int] = []
        versions = ["" if v == NONE else v.to_bytes(8, "little", signed=True)
                    for v in replaced.tolist()]  # fmt: skip
        timestamps = ["" if d == NONE else d for d in due.tolist()]
        # Redis serves nobody else while a script runs; a few hundred members take a fraction of a
        # millisecond.
        for start in range(0, len(members), 256):
            some = slice(start, start + 256)
            keys = [self._key(member) for member in members[some]]
            rows = zip(members[some], versions[some], values[some], timestamps[some], strict=True)
            arguments = [argument for row in rows for argument in row]
            try:
                written += self._replace(
                    [self._base, self._held, *keys], [int(seeding), *arguments]
                )
            except redis.exceptions.ResponseError as error:
                if "NOBASE" in str(error):
                    raise StateLostError from None
                raise
        return np.array(written, bool)

    def forget(self, members: Sequence[Id]) -> int:
        """Remove the members' values and held actions."""
        removed = 0
        for start in range(0, len(members), AT_ONCE):
            some = members[start : start + AT_ONCE]
            self._client.zrem(self._held, *some)
            removed += self._client.delete(*map(self._key, some))
        return removed

    def due(self, now: int, limit: int) -> list[Id]:
        """Return members with a held action before now."""
        members = self._client.zrange(
            self._held, "-inf", f"({now}", byscore=True, offset=0, num=limit
        )
        return [member.decode() if self._is_text else int(member) for member in members]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _key(self, member: Id) -> str:
        return f"{self._name}:m:{member}"
