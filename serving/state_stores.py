"""Where the states lie: in the online store's Redis or PostgreSQL, or in a file of this machine."""

import fcntl
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import redis
from feast import FeatureStore
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from numpy.typing import NDArray

from serving.state import NONE, Id, StateLostError, StateStore, digest
from serving.state_postgres import PostgresStates
from transformations.config import Config
from transformations.errors import InputError

AT_ONCE = 2_000
LOCKED_FOR = 15.0  # seconds that a lock outlives whoever died with it

# KEYS: the base, the held index, then members; ARGV: whether it is being seeded, then for each
# member its id, the version it must have ('' for no value), its value and when it is due ('').
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
    """States in the online store's own Redis: what loses the one loses the other.

    All keys share a hash tag, so that on a cluster they lie in one slot.
    """

    def __init__(self, config: Config, client: Any, project: str) -> None:
        self._client = client
        self._is_text = config.id_type == "string"
        self._name = f"{{activity:{project}:{digest(config)}}}"
        self._base = f"{self._name}:base"
        self._held = f"{self._name}:held"
        self._replace = client.register_script(REPLACE)

    def base(self) -> str | None:
        """Return which snapshot all members' states include."""
        base = self._client.get(self._base)
        return None if base is None else base.decode()

    def set_base(self, base: str) -> None:
        """Note which snapshot all members' states include."""
        self._client.set(self._base, base)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Be the only one who rebuilds: a lock that is kept alive, and ends soon without that."""
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
        """Replace the values whose version is still the one given; return which ones were."""
        written: list[int] = []
        versions = ["" if v == NONE else v.to_bytes(8, "little", signed=True)
                    for v in replaced.tolist()]  # fmt: skip
        moments = ["" if d == NONE else d for d in due.tolist()]
        # The server answers nobody else while a script runs: a few hundred members are a fraction
        # of a millisecond.
        for start in range(0, len(members), 256):
            some = slice(start, start + 256)
            keys = [self._key(member) for member in members[some]]
            rows = zip(members[some], versions[some], values[some], moments[some], strict=True)
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

    def due(self, now: int, most: int) -> list[Id]:
        """Return members with a held action from before now."""
        found = self._client.zrange(self._held, "-inf", f"({now}", byscore=True, offset=0, num=most)
        return [member.decode() if self._is_text else int(member) for member in found]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _key(self, member: Id) -> str:
        return f"{self._name}:m:{member}"


class SqliteStates:
    """States in a file of this machine, as the SQLite online store is one."""

    def __init__(self, config: Config, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = file.with_suffix(".lock")
        self._con = sqlite3.connect(file, timeout=60, isolation_level=None)
        self._con.execute("pragma journal_mode = wal")
        self._con.execute("pragma synchronous = normal")
        name = digest(config)
        self._members, self._note = f"members_{name}", f"base_{name}"
        # `member` has no type, so that a number stays one and a text stays one.
        self._con.execute(
            f"create table if not exists {self._members} (member primary key, version integer, "
            "value blob, due integer) without rowid"
        )
        self._con.execute(
            f"create index if not exists {self._members}_due on {self._members} (due) "
            "where due is not null"
        )
        self._con.execute(f"create table if not exists {self._note} (base text)")

    def base(self) -> str | None:
        """Return which snapshot all members' states include."""
        row = self._con.execute(f"select base from {self._note}").fetchone()
        return None if row is None else row[0]

    def set_base(self, base: str) -> None:
        """Note which snapshot all members' states include."""
        with self._con:
            self._con.execute("begin immediate")
            self._con.execute(f"delete from {self._note}")
            self._con.execute(f"insert into {self._note} values (?)", (base,))

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Be the only one who rebuilds: a lock on a file, which ends with the process."""
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def clear(self) -> None:
        """Remove everything."""
        with self._con:
            self._con.execute("begin immediate")
            for table in (self._note, self._members):
                self._con.execute(f"delete from {table}")

    def read(self, members: Sequence[Id], seeding: bool = False) -> list[bytes | None]:
        """Return the members' values."""
        if not seeding and self.base() is None:
            raise StateLostError
        query = f"select value from {self._members} where member = ?"
        rows = [self._con.execute(query, (member,)).fetchone() for member in members]
        return [None if row is None else row[0] for row in rows]

    def write(
        self,
        members: Sequence[Id],
        replaced: NDArray[np.int64],
        values: Sequence[bytes],
        due: NDArray[np.int64],
        seeding: bool = False,
    ) -> NDArray[np.bool_]:
        """Replace the values whose version is still the one given; return which ones were."""
        rows = zip(members, replaced.tolist(), values, due.tolist(), strict=True)
        insert = (
            f"insert or ignore into {self._members} (version, value, due, member) "
            "values (?, ?, ?, ?)"
        )
        update = (
            f"update {self._members} set version = ?, value = ?, due = ? "
            "where member = ? and version = ?"
        )
        written = []
        with self._con:
            self._con.execute("begin immediate")
            if not seeding and self.base() is None:
                raise StateLostError
            for member, version, value, moment in rows:
                (new,) = struct.unpack_from("<q", value)
                row = (new, value, None if moment == NONE else moment, member)
                if version == NONE:
                    cursor = self._con.execute(insert, row)
                else:
                    cursor = self._con.execute(update, (*row, version))
                written.append(cursor.rowcount == 1)
        return np.array(written, bool)

    def due(self, now: int, most: int) -> list[Id]:
        """Return members with a held action from before now."""
        query = f"select member from {self._members} where due < ? order by due limit ?"
        return [member for (member,) in self._con.execute(query, (now, most))]

    def close(self) -> None:
        """Close the file."""
        self._con.close()


def open_states(config: Config, store: FeatureStore) -> StateStore:
    """Open the states that belong to an online store.

    Raises:
        InputError: an online store of another kind, which workers could not share the states of.
    """
    online: Any = store._get_provider().online_store
    if isinstance(online, RedisOnlineStore):
        # A client of its own, made as the store makes its client.
        client = type(online)()._get_client(store.config.online_store)
        return RedisStates(config, client, store.project)
    if isinstance(online, PostgreSQLOnlineStore):
        return PostgresStates(config, store.config.online_store, store.project)
    if isinstance(online, SqliteOnlineStore):
        return SqliteStates(config, config.state_dir / "stream.db")
    raise InputError(
        "expected a Redis, PostgreSQL or SQLite online store for the stream, which keeps its "
        f"states beside it, came {type(online).__name__}"
    )
