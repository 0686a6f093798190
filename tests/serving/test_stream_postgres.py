"""The stream on PostgreSQL: its states lie in the same database, for workers of all machines."""

import gc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy.engine import make_url

from serving.stream.states.protocol import StateLostError
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
from tests.worlds.states import STATES

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
def live(tmp_path: Path, request: pytest.FixtureRequest, before: list[Event]) -> Iterator[Live]:
    live = Live(tmp_path, STATES["postgres"].online(tmp_path, request))
    live.build(before, midnight())
    yield live
    live.close()


def ask(url: str, statement: str) -> list[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def state_tables(url: str) -> list[str]:
    query = "select tablename from pg_tables where tablename ~ '^activity_(base|states)' order by 1"
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
        worker.updater.apply([], [1])
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
