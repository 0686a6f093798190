"""Where the mark of a project's owner lies: in the registry, and in each kind of online store."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feast import FeatureStore
from feast.errors import ProjectObjectNotFoundException

from feature_repo.project import marked_project, workspace_in
from operations.workspace import Workspace
from transformations.duck import sql

REGISTRY, ONLINE = "registry", "online store"

_READ = "select workspace, name from {table} where project = {mark}"
_WRITE = "insert into {table} values ({mark}, {mark}, {mark}) on conflict (project) do nothing"
_REMOVE = "delete from {table} where project = {mark}"


class Mark(ABC):
    """The mark of one Feast project in one store."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.project = store.project

    @abstractmethod
    def read(self) -> Workspace | None:
        """Return the workspace that owns the project; None without a mark. Writes nothing."""

    @abstractmethod
    def write(self, workspace: Workspace) -> None:
        """Set the mark."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the mark, if there is one."""

    def _online(self) -> Any:
        return self.store._get_provider().online_store


class RegistryMark(Mark):
    """Two tags of Feast's own Project object."""

    def read(self) -> Workspace | None:
        """Return the workspace that the project's tags name."""
        try:
            project = self.store.registry.get_project(self.project, allow_cache=False)
        except ProjectObjectNotFoundException:
            return None
        return workspace_in(project.tags)

    def write(self, workspace: Workspace) -> None:
        """Register the project with its tags."""
        description = self.store.config.project_description
        self.store.registry.apply_project(
            marked_project(workspace, self.project, description), commit=True
        )

    def remove(self) -> None:
        """Do nothing: the mark goes with the project."""


class RedisMark(Mark):
    """A key of Redis."""

    @property
    def key(self) -> str:
        """The name of the key."""
        return f"activity:{self.project}:owner"

    def read(self) -> Workspace | None:
        """Return the workspace that the key names."""
        text = self._client().get(self.key)
        return None if text is None else Workspace(**json.loads(text))

    def write(self, workspace: Workspace) -> None:
        """Set the key, unless another workspace was first."""
        text = json.dumps({"id": workspace.id, "name": workspace.name})
        self._client().set(self.key, text, nx=True)

    def remove(self) -> None:
        """Delete the key."""
        self._client().delete(self.key)

    def _client(self) -> Any:
        return self._online()._get_client(self.store.config.online_store)


class SqliteMark(Mark):
    """A row of the table `activity_owner` in the online store's file."""

    def read(self) -> Workspace | None:
        """Return the workspace that the row names."""
        if not Path(self._online()._get_db_path(self.store.config)).exists():
            return None
        found = "select 1 from sqlite_master where name = 'activity_owner'"
        with self._connection() as connection:
            if connection.execute(found).fetchone() is None:
                return None
            row = connection.execute(_filled(_READ, "?"), (self.project,)).fetchone()
        return None if row is None else Workspace(*row)

    def write(self, workspace: Workspace) -> None:
        """Insert the row, unless another workspace was first."""
        with self._connection() as connection:
            connection.execute(sql("activity_owner", __file__))
            values = (self.project, workspace.id, workspace.name)
            connection.execute(_filled(_WRITE, "?"), values)

    def remove(self) -> None:
        """Delete the row."""
        if self.read() is not None:
            with self._connection() as connection:
                connection.execute(_filled(_REMOVE, "?"), (self.project,))

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        # The store's own: a new file gets the page size that the store wants.
        with self._online()._get_conn(self.store.config) as connection:
            yield connection


class PostgresMark(Mark):
    """A row of the table `activity_owner` in the online store's schema."""

    def read(self) -> Workspace | None:
        """Return the workspace that the row names."""
        with self._cursor() as (cursor, _):
            if not self._is_there(cursor):
                return None
            row = self._run(cursor, _READ, (self.project,)).fetchone()
        return None if row is None else Workspace(*row)

    def write(self, workspace: Workspace) -> None:
        """Insert the row, unless another workspace was first."""
        from psycopg import sql as composed

        with self._cursor() as (cursor, schema):
            named = composed.Identifier(schema)
            # Feast creates the schema in its first `apply`, which comes after this. "if not exists"
            # alone would ask for the right to create one.
            there = "select 1 from pg_namespace where nspname = %s"
            if cursor.execute(there, (schema,)).fetchone() is None:
                cursor.execute(composed.SQL("create schema if not exists {}").format(named))
            cursor.execute(composed.SQL("set local search_path to {}").format(named))
            cursor.execute(sql("activity_owner", __file__))
            self._run(cursor, _WRITE, (self.project, workspace.id, workspace.name))

    def remove(self) -> None:
        """Delete the row."""
        with self._cursor() as (cursor, _):
            if self._is_there(cursor):
                self._run(cursor, _REMOVE, (self.project,))

    def _run(self, cursor: Any, query: str, values: tuple[str, ...]) -> Any:
        from psycopg import sql as composed

        # With its schema: on the search path `public` follows, which may hold another mark.
        table = composed.Identifier(postgres_schema(self.store), "activity_owner")
        return cursor.execute(
            composed.SQL(query).format(table=table, mark=composed.SQL("%s")), values
        )

    def _is_there(self, cursor: Any) -> bool:
        query = "select 1 from pg_tables where schemaname = %s and tablename = 'activity_owner'"
        return cursor.execute(query, (postgres_schema(self.store),)).fetchone() is not None

    @contextmanager
    def _cursor(self) -> Iterator[tuple[Any, str]]:
        with postgres_connection(self.store) as connection, connection.cursor() as cursor:
            yield cursor, postgres_schema(self.store)


def postgres_schema(store: FeatureStore) -> str:
    """Return the schema of a PostgreSQL online store, as Feast chooses it."""
    return store.config.online_store.db_schema or store.config.online_store.user


def postgres_connection(store: FeatureStore) -> Any:
    """Open a connection to a PostgreSQL online store, as Feast opens its own."""
    import psycopg
    from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo

    settings = store.config.online_store
    return psycopg.connect(_get_conninfo(settings), **_get_conn_kwargs(settings))


# Name of a kind in stores/kinds.py → its mark. Other stores have the registry's mark only.
MARKS: dict[str, type[Mark]] = {
    "sqlite": SqliteMark,
    "redis": RedisMark,
    "postgres": PostgresMark,
}


def online_kind(store: FeatureStore) -> str | None:
    """Return the name of the online store's kind; None for one that stores/kinds.py lacks."""
    from stores.kinds import kind_of

    kind = kind_of(store._get_provider().online_store)
    return None if kind is None else kind.name


def marks_of(store: FeatureStore) -> dict[str, Mark]:
    """Return the project's marks by where they lie: `registry` and, where it has one, the store."""
    marks: dict[str, Mark] = {REGISTRY: RegistryMark(store)}
    kind = MARKS.get(online_kind(store) or "")
    if kind is not None:
        marks[ONLINE] = kind(store)
    return marks


def _filled(query: str, mark: str) -> str:
    return query.format(table="activity_owner", mark=mark)
