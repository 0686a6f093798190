"""Every kind of online store that can hold the stream's states, by its name."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.servers import postgres_options
from tests.worlds.live import redis_online, sqlite_online


@dataclass(frozen=True)
class StateKind:
    """One kind of state store.

    Attributes:
        online: Feast's settings of an empty online store of this kind, as JSON.
        lock_expires: Whether the lock of a rebuild has a lifetime and is renewed; else it ends
            with its process or connection.
        marks: Marks of its tests.
    """

    online: Callable[[Path, pytest.FixtureRequest], str]
    lock_expires: bool = False
    marks: tuple[pytest.MarkDecorator, ...] = ()


def _postgres(_: Path, request: pytest.FixtureRequest) -> str:
    plugin = {"type": "stores.postgres.ColumnarPostgreSQLOnlineStore"}
    return json.dumps(postgres_options(request.getfixturevalue("postgres_url")) | plugin)


STATES = {
    "sqlite": StateKind(lambda folder, _: sqlite_online(folder)),
    "redis": StateKind(
        lambda _, request: redis_online(request.getfixturevalue("redis_server")),
        lock_expires=True,
        marks=(pytest.mark.redis,),
    ),
    "postgres": StateKind(_postgres, marks=(pytest.mark.postgres,)),
}


def kinds(lock_expires: bool = False) -> list[object]:
    """Return the kinds as parameters; only those whose lock expires, if asked to."""
    return [
        pytest.param(name, marks=kind.marks)
        for name, kind in STATES.items()
        if kind.lock_expires or not lock_expires
    ]
