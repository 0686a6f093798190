"""States in a local file, beside a SQLite online store."""

import fcntl
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.stream.states.protocol import NONE, Id, StateLostError, digest
from stores.sqlite import BUSY_SECONDS
from stores.writing.write_ahead import scrub, write_ahead
from transformations.config import Config


class SqliteStates:
    """States in a local file, shared by the workers of this machine."""

    def __init__(self, config: Config, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = file.with_suffix(".lock")
        self._con = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
        write_ahead(self._con, BUSY_SECONDS)
        self._con.execute("pragma synchronous = normal")
        name = digest(config.rules)
        self._members, self._note = f"members_{name}", f"base_{name}"
        # `member` has no type, so a number stays a number and a text stays a text.
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
        """Return the note of the snapshot that all states include."""
        row = self._con.execute(f"select base from {self._note}").fetchone()
        return None if row is None else row[0]

    def set_base(self, base: str) -> None:
        """Note which snapshot all states include."""
        with self._con:
            self._con.execute("begin immediate")
            self._con.execute(f"delete from {self._note}")
            self._con.execute(f"insert into {self._note} values (?)", (base,))

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Hold a lock on a file, which ends with the process."""
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
        """Replace the values whose version is still `replaced`; return which ones were."""
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
            for member, version, value, timestamp in rows:
                (new,) = struct.unpack_from("<q", value)
                row = (new, value, None if timestamp == NONE else timestamp, member)
                if version == NONE:
                    cursor = self._con.execute(insert, row)
                else:
                    cursor = self._con.execute(update, (*row, version))
                written.append(cursor.rowcount == 1)
        return np.array(written, bool)

    def forget(self, members: Sequence[Id]) -> int:
        """Remove the members' values, those under rules of before too, and what SQLite left."""
        names = "select name from sqlite_master where type = 'table' and name like 'members%'"
        tables = [name for (name,) in self._con.execute(names)]
        removed = 0
        with self._con:
            self._con.execute("begin immediate")
            for table in tables:
                for member in members:
                    query = f'delete from "{table}" where member = ?'
                    removed += self._con.execute(query, (member,)).rowcount
        if removed:
            scrub(self._con)
        return removed

    def due(self, now: int, limit: int) -> list[Id]:
        """Return members with a held action before now."""
        query = f"select member from {self._members} where due < ? order by due limit ?"
        return [member for (member,) in self._con.execute(query, (now, limit))]

    def close(self) -> None:
        """Close the file."""
        self._con.close()
