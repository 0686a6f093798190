"""The stream on PostgreSQL: its states lie in the same database, for workers of all machines."""

import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy.engine import make_url

from benchmarks.servers import postgres_options
from serving.stream.states.open import open_states
from serving.stream.states.postgres import PostgresStates
from serving.stream.states.protocol import NONE, StateLostError, pack, unpack
from tests.serving.test_stream_faults import (
    MEMBERS,
    Running,
    all_done,
    one_folds_between,
    since_midnight,
    wait_for,
)
from tests.worlds.events import Event
from tests.worlds.live import Live, drain, midnight, past_events, send
from tests.worlds.stream import folded
from transformations.errors import InputError
from transformations.stream import NEVER, States, microseconds

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.redis,
    # A FeatureStore has no close: the connections of one that is let go are closed with it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let go of them here, and not while a test of another file runs."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def before() -> list[Event]:
    return past_events(np.random.default_rng(7), 200, 18)


@pytest.fixture
def live(tmp_path: Path, postgres_url: str, before: list[Event]) -> Live:
    online = {"type": "stores.postgres.ColumnarPostgreSQLOnlineStore"}
    live = Live(tmp_path, json.dumps(postgres_options(postgres_url) | online))
    live.build(before, midnight())
    return live


def ask(url: str, statement: str) -> list[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def state_tables(url: str) -> list[str]:
    query = "select tablename from pg_tables where tablename like 'activity\\_%' order by 1"
    return [name for (name,) in ask(url, query)]


def test_it_ends_where_the_batch_does_and_is_rebuilt(live, before, redis_server, postgres_url):
    worker = live.worker(f"redis://{redis_server}")
    assert not (live.config.layout.state / "stream.db").exists()
    since = since_midnight(60, 3)
    send(worker.bus, [*since, *since[:20]])
    assert drain(worker) == 80
    live.assert_is_the_batch([*before, *since], MEMBERS)
    # Whoever restores or empties the database takes the states with it.
    note, members = state_tables(postgres_url)
    ask(postgres_url, f"drop table {note}, {members}")
    with pytest.raises(StateLostError, match="activity stream --rebuild"):
        worker.fresh.apply([], [1])
    worker.close()
    again = live.worker(f"redis://{redis_server}")
    assert drain(again) == 80
    live.assert_is_the_batch([*before, *since], MEMBERS)
    again.close()


def test_two_workers_with_the_same_member_lose_nothing(live, before, redis_server):
    one_folds_between(live, before, f"redis://{redis_server}")


@pytest.mark.mended_trap("plain Feast keeps a PostgreSQL connection that the server has closed")
def test_a_server_that_ends_every_session_is_waited_for(live, before, redis_server, postgres_url):
    events = since_midnight(60, 29)
    with closing(live.worker(f"redis://{redis_server}")) as worker:
        send(worker.bus, events[:30])
        drain(worker)
        ask(
            postgres_url,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()",
        )
        send(worker.bus, events[30:])
        running = Running(worker)
        try:
            wait_for(running, lambda: all_done(redis_server))
        finally:  # pytest would wait for the thread
            running.end()
        assert running.error is None
        assert worker.metrics.value("retries_total", what="store") > 0
        live.assert_is_the_batch([*before, *events], MEMBERS)


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_of_two_writers_at_once_each_member_has_one(live, id_type):
    """Eight connections replace the same members, in their own orders, until all have counted."""
    config = live.config.model_copy(update={"id_type": id_type})
    settings = live.store().config.online_store
    members = [member if id_type == "int64" else f"é{member}" for member in range(20)]
    first = PostgresStates(config, settings, "writers")
    first.set_base("a snapshot")

    def count(writer: int) -> None:
        states = PostgresStates(config, settings, "writers")
        rng = np.random.default_rng(writer)
        left = list(members)
        while left:
            asked = [left[place] for place in rng.permutation(len(left))]
            _, versions = unpack(config.rules, states.read(asked))
            nobody = States.empty(config.rules, len(asked))
            values = [
                pack(nobody.of_members(np.array([place])), int(version) + 1)[0]
                for place, version in enumerate(versions)
            ]
            written = states.write(asked, versions, values, np.full(len(asked), NONE))
            left = [member for member, done in zip(asked, written, strict=True) if not done]
        states.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    found, versions = unpack(config.rules, first.read(members))
    assert versions.tolist() == [8] * 20
    assert (found.last == NEVER).all()
    first.clear()
    with pytest.raises(StateLostError):
        first.read(members)
    assert first.read(members, seeding=True) == [None] * 20
    first.close()


def test_members_whose_held_actions_are_due(live):
    config = live.config
    states = PostgresStates(config, live.store().config.online_store, "due")
    states.set_base("a snapshot")
    at = midnight()
    held = [Event(5, 1, "APPLY", at), Event(7, 1, "SAVE", at)]
    state = folded(config, States.empty(config.rules, 2), held, [5, 7], at).states
    due = np.array([microseconds(at), microseconds(at) + 9])
    states.write([5, 7], np.array([NONE, NONE]), pack(state, 1), due)
    assert states.due(microseconds(at), 10) == []
    assert states.due(microseconds(at) + 1, 10) == [5]
    assert states.due(microseconds(at) + 10, 10) == [5, 7]
    assert states.due(microseconds(at) + 10, 1) == [5]
    states.close()


def test_a_store_whose_states_could_not_be_shared_is_refused(live, monkeypatch):
    class Elsewhere:
        pass

    store = live.store()
    monkeypatch.setattr(store, "_provider", type("P", (), {"online_store": Elsewhere()})())
    with pytest.raises(InputError, match=r"Redis, PostgreSQL or SQLite .* Elsewhere"):
        open_states(live.config, store)
