"""Recommendations while a real Redis is away: every answer is there in time."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import redis

from serving.recommend.asked import Answer, Request
from serving.recommend.parts import open_parts
from serving.recommend.recommend import Recommender
from tests.pipelines.test_candidates import CANDIDATES, DECAY, ENCODERS
from tests.pipelines.test_item_spaces import market
from tests.worlds.servers import running_redis
from tests.worlds.workspace import AVERAGE, END, Workspace

LATE = 3.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, str]]:
    with running_redis() as address:
        workspace = market(tmp_path_factory.mktemp("away"), AVERAGE)
        store = workspace.root / "feature_store.yaml"
        sqlite = "{type: stores.sqlite.ColumnarSqliteOnlineStore, path: data/online.db}"
        assert sqlite in store.read_text()
        online = f"{{type: stores.redis.ColumnarRedisOnlineStore, connection_string: {address!r}}}"
        store.write_text(store.read_text().replace(sqlite, online))
        settings = f"recommend: {{deadline: {LATE * 1000:.0f}ms, keep: 0s}}"
        workspace.setting("fit_holdback:", f"{settings}\nfit_holdback:")
        workspace.lines(AVERAGE, DECAY, encoders=ENCODERS, candidates=CANDIDATES[:4])
        workspace.run(END)
        yield workspace, address


@pytest.mark.redis
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_store_that_is_away_is_not_waited_for(world: tuple[Workspace, str], how: int) -> None:
    """100 answers of 100 within the deadline: from what is popular, in memory."""
    workspace, address = world
    host, port = address.split(":")
    with redis.Redis(host=host, port=int(port)) as connection:
        process = connection.info()["process_id"]
    config, store = workspace.config, workspace.store
    assert config.recommend.deadline == timedelta(seconds=LATE)
    with Recommender(config, open_parts(config, store)) as recommender:
        recommender.warm_up()
        assert recommender.of(Request(3, 5)).path == "votes"

        def ask(number: int) -> tuple[Answer, float]:
            began = time.monotonic()
            return recommender.of(Request(number, 5)), time.monotonic() - began

        os.kill(process, how)
        try:
            with ThreadPoolExecutor(20) as pool:
                answers = [*pool.map(ask, range(100))]
        finally:
            if how == signal.SIGSTOP:
                os.kill(process, signal.SIGCONT)
        assert max(seconds for _, seconds in answers) < LATE
        assert {answer.path for answer, _ in answers} == {"popular"}
        assert {len(answer.items) for answer, _ in answers} == {5}
        if how == signal.SIGSTOP:
            until = time.monotonic() + 60
            while recommender.of(Request(3, 5)).path != "votes":
                assert time.monotonic() < until
