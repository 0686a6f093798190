"""The kinds of online store: one table, over which the suites run, with what each kind can do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import postgres_options

SPACES = ("plain", "ours")


@dataclass(frozen=True)
class Kind:
    """One kind of online store.

    `options(request, folder, space)` returns the options of an empty store, its server running. Two
    spaces are two stores beside each other on one server; None is a store alone.
    """

    name: str
    ours: str  # class path of the plug-in
    feasts: str  # `type` of plain Feast's store
    options: Callable[[pytest.FixtureRequest, Path, str | None], dict[str, Any]]
    marks: tuple[pytest.MarkDecorator, ...]
    server: bool  # reads cross a network, so round trips and lost connections count
    tables: bool  # one SQL table per view, which `feast apply` creates
    asynchronous: bool  # Feast has get_online_features_async for it


def _sqlite(_: pytest.FixtureRequest, folder: Path, space: str | None) -> dict[str, Any]:
    return {"path": str(folder / f"{space or 'online'}.db")}


def _redis(request: pytest.FixtureRequest, _: Path, space: str | None) -> dict[str, Any]:
    address = request.getfixturevalue("redis_server")
    database = "" if space is None else f",db={SPACES.index(space)}"
    return {"connection_string": address + database}


def _postgres(request: pytest.FixtureRequest, _: Path, space: str | None) -> dict[str, Any]:
    options = postgres_options(request.getfixturevalue("postgres_url"))
    return options if space is None else options | {"db_schema": space}


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="sqlite",
            ours="stores.sqlite.ColumnarSqliteOnlineStore",
            feasts="sqlite",
            options=_sqlite,
            marks=(),
            server=False,
            tables=True,
            asynchronous=False,
        ),
        Kind(
            name="redis",
            ours="stores.redis.ColumnarRedisOnlineStore",
            feasts="redis",
            options=_redis,
            marks=(pytest.mark.redis,),
            server=True,
            tables=False,
            asynchronous=True,
        ),
        Kind(
            name="postgres",
            ours="stores.postgres.ColumnarPostgreSQLOnlineStore",
            feasts="postgres",
            options=_postgres,
            marks=(pytest.mark.postgres,),
            server=True,
            tables=True,
            asynchronous=True,
        ),
    )
}


def each_kind(flag: str | None = None) -> list[Any]:
    """Return the names of the kinds (of those with a flag) as parameters, with their marks."""
    return [
        pytest.param(kind.name, marks=kind.marks)
        for kind in KINDS.values()
        if flag is None or getattr(kind, flag)
    ]
