"""Workspaces on one registry and one online store, and what those hold, row by row."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
import yaml
from feast import FeatureStore
from feast.infra.registry.sql import SqlRegistry

from serving import publish
from tests.worlds import online, plain_feast
from tests.worlds.applied import World, utc
from tests.worlds.kinds import KINDS

TODAY = utc(2)
Rows = dict[str, list[Any]]


class Shared:
    """One registry and one online store of a kind, outside every workspace's data folder."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
        self.kind = KINDS[kind]
        self.folder = folder
        self.options = self.kind.options(request, folder, None)
        self.registry = f"sqlite:///{folder / 'registry.db'}"
        self._opened: list[FeatureStore] = []
        if kind == "postgres":
            self.registry = request.getfixturevalue("postgres_url")

    def workspace(
        self, name: str, project: str = "shared", files: bool = False, **more: Any
    ) -> World:
        """Make a workspace with a snapshot of two members and two items.

        Args:
            files: Whether the registry is a file, and not SQL.
        """
        folder = self.folder / name
        folder.mkdir()
        world = World(folder, **more)
        registry: Any = {"registry_type": "sql", "path": self.registry, "cache_ttl_seconds": 60}
        if files:
            registry = {"registry_type": "file", "path": str(self.folder / "registry.pb")}
        settings = {
            "project": project,
            "provider": "local",
            "registry": registry,
            "offline_store": {"type": "stores.duckdb_asof.DuckDBAsofOfflineStore"},
            "online_store": {"type": self.kind.ours, **self.options},
            "batch_engine": {"type": "stores.columnar.ColumnarComputeEngine"},
            "entity_key_serialization_version": 3,
        }
        text = plain_feast.settings(yaml.safe_dump(settings))
        (folder / "feature_store.yaml").write_text(text)
        one, two = (1, 10) if world.id_type == "int64" else ("1", "10")
        world.snapshot(TODAY, {one: [(two, "APPLY", utc(1))], two: []})
        world.items("part-0", {one: utc(1), two: utc(1)})
        return world

    def open(self, world: World) -> FeatureStore:
        """Open a workspace's store, until `close`."""
        self._opened.append(publish.open_store(world.config))
        return self._opened[-1]

    def close(self) -> None:
        """Close what Feast leaves open."""
        for store in self._opened:
            online.close(store)
            if isinstance(store.registry, SqlRegistry):
                store.registry.write_engine.dispose()

    def applied(self, world: World) -> FeatureStore:
        """Register a workspace's views; return the store."""
        store = self.open(world)
        publish.apply(world.config, store, world.aggregators)
        return store

    def published(self, world: World) -> FeatureStore:
        """Do what `activity run` does with Feast; return the store."""
        store = self.applied(world)
        publish.publish(world.config, store, TODAY, world.aggregators)
        publish.read_back(world.config, store, TODAY, world.aggregators)
        return store

    def rows(self) -> Rows:
        """Return all rows of registry and online store, by table or key."""
        found = _tables(self.registry)
        if self.kind.name == "sqlite":
            found |= _tables(f"sqlite:///{self.options['path']}")
        if self.kind.name == "redis":
            with self.client() as client:
                for key in client.scan_iter():
                    found[repr(key)] = [client.dump(key)]
        return found

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A client of the Redis online store."""
        host, port = self.options["connection_string"].split(":")
        with redis.Redis(host=host, port=int(port)) as client:
            yield client


def of_project(rows: Rows, project: str) -> Rows:
    """Keep the rows of one project: registry rows by their project_id, online ones by name."""
    found = {}
    for name, table in rows.items():
        if name.startswith(f"{project}_") or name.endswith(f"{project}'"):
            found[name] = table
        else:
            some = [row for row in table if isinstance(row, tuple) and project in row]
            if some:
                found[name] = some
    return found


def _tables(url: str) -> Rows:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            # By the driver: Feast's SQLite columns of the type timestamp hold integers.
            return {
                name: sorted(
                    map(tuple, connection.exec_driver_sql(f'select * from "{name}"')), key=repr
                )
                for name in sa.inspect(engine).get_table_names()
            }
    finally:
        engine.dispose()
