"""States in the online store's PostgreSQL.

State and features share one database, so they are lost or kept together.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo
from numpy.typing import NDArray
from psycopg import Cursor, sql
from psycopg.errors import UndefinedTable

from serving.stream.states.protocol import HEAD, NONE, Id, StateLostError, digest
from transformations.config import Config

_CREATE = (
    # "if not exists" does not stop two workers that start at once from both creating a table.
    "select pg_advisory_xact_lock(hashtext('activity_states'))",
    """create table if not exists {members}
    (member {id} primary key, version bigint not null, value bytea not null, due bigint)""",
    "create index if not exists {due} on {members} (due) where due is not null",
    "create table if not exists {note} (base text not null)",
)

# In one order, so that two workers with the same members cannot deadlock.
_LOCK = "select member from {members} where member = any(%(members)s) order by member for update"

# A row that another worker replaced meanwhile has another version, and a row that it inserted
# conflicts: both stay unchanged and are not returned.
_REPLACE = """
with given as (
    select *
    from unnest(
        %(members)s::{id}[], %(replaced)s::bigint[], %(versions)s::bigint[],
        %(values)s::bytea[], %(due)s::bigint[]
    ) as given (member, replaced, version, value, due)
    order by member
),
updated as (
    update {members} as stored
    set version = given.version, value = given.value, due = given.due
    from given
    where stored.member = given.member and stored.version = given.replaced
    returning stored.member
),
inserted as (
    insert into {members} (member, version, value, due)
    select member, version, value, due from given where replaced = 0
    on conflict (member) do nothing
    returning member
)
select member from updated union all select member from inserted
"""


class PostgresStates:
    """States in tables beside the online store's, shared by the workers of all machines.

    Args:
        settings: The `online_store` settings of feature_store.yaml.
    """

    def __init__(self, config: Config, settings: Any, project: str) -> None:
        name = hashlib.sha256(f"{project} {digest(config.rules)}".encode()).hexdigest()[:16]
        self._name = f"activity_states_{name}"
        self._names = {
            "members": sql.Identifier(self._name),
            "due": sql.Identifier(f"{self._name}_due"),
            "note": sql.Identifier(f"activity_base_{name}"),
            "id": sql.SQL("bigint" if config.member_id_type == "int64" else "text"),
        }
        self._settings = settings
        self._open: psycopg.Connection | None = None
        with self._cursor() as cursor:
            self._create(cursor)

    def base(self) -> str | None:
        """Return the note of the snapshot that all states include."""
        with self._cursor() as cursor:
            return self._base(cursor)

    def set_base(self, base: str) -> None:
        """Note which snapshot all states include."""
        with self._cursor() as cursor:
            cursor.execute(self._sql("delete from {note}"))
            cursor.execute(self._sql("insert into {note} values (%s)"), (base,))

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Hold an advisory lock on a separate connection, which ends with the process."""
        with self._connect() as connection:
            connection.autocommit = True
            connection.execute("select pg_advisory_lock(hashtext(%s))", (self._name,))
            yield

    def clear(self) -> None:
        """Remove everything; recreate the tables if they are gone."""
        with self._cursor() as cursor:
            self._create(cursor)
            cursor.execute(self._sql("truncate {note}, {members}"))

    def read(self, members: Sequence[Id], seeding: bool = False) -> list[bytes | None]:
        """Return the members' values."""
        query = self._sql("select member, value from {members} where member = any(%s)")
        with self._cursor() as cursor:
            self._expect_base(cursor, seeding)
            found: dict[Id, bytes] = dict(cursor.execute(query, (list(members),)).fetchall())
        return [found.get(member) for member in members]

    def write(
        self,
        members: Sequence[Id],
        replaced: NDArray[np.int64],
        values: Sequence[bytes],
        due: NDArray[np.int64],
        seeding: bool = False,
    ) -> NDArray[np.bool_]:
        """Replace the values whose version is still `replaced`; return which ones were."""
        rows = {
            "members": list(members),
            "replaced": replaced.tolist(),
            "versions": [HEAD.unpack_from(value)[0] for value in values],
            "values": list(values),
            "due": [None if when == NONE else when for when in due.tolist()],
        }
        with self._cursor() as cursor:
            self._expect_base(cursor, seeding)
            cursor.execute(self._sql(_LOCK), {"members": rows["members"]})
            cursor.execute(self._sql(_REPLACE), rows)
            written = {member for (member,) in cursor.fetchall()}
        return np.array([member in written for member in members], bool)

    def forget(self, members: Sequence[Id]) -> int:
        """Remove the members' values."""
        query = self._sql("delete from {members} where member = any(%s)")
        with self._cursor() as cursor:
            return cursor.execute(query, (list(members),)).rowcount

    def due(self, now: int, limit: int) -> list[Id]:
        """Return members with a held action before now."""
        query = self._sql("select member from {members} where due < %s order by due limit %s")
        with self._cursor() as cursor:
            return [member for (member,) in cursor.execute(query, (now, limit)).fetchall()]

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        """Run one transaction, on a new connection if the server has closed the last one.

        Raises:
            StateLostError: the tables are gone.
        """
        if self._open is None or self._open.closed:
            self._open = self._connect()
        try:
            with self._open.transaction(), self._open.cursor(binary=True) as cursor:
                yield cursor
        except UndefinedTable:
            raise StateLostError from None

    def _connect(self) -> psycopg.Connection:
        settings = self._settings
        return psycopg.connect(_get_conninfo(settings), **_get_conn_kwargs(settings))

    def _create(self, cursor: Cursor) -> None:
        for statement in _CREATE:
            cursor.execute(self._sql(statement))

    def _base(self, cursor: Cursor) -> str | None:
        row = cursor.execute(self._sql("select base from {note}")).fetchone()
        return None if row is None else row[0]

    def _expect_base(self, cursor: Cursor, seeding: bool) -> None:
        if not seeding and self._base(cursor) is None:
            raise StateLostError

    def _sql(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(**self._names)
