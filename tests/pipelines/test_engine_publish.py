"""Published from tasks: the same rows online whoever writes them, here or on a Spark cluster."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import redis
import yaml
from feast import FeatureStore

from benchmarks.servers import postgres_options
from operations.fits import chosen
from pipelines.engine import engine_of
from serving import publish
from serving.publish.tasks import WriteTask, write_files
from tests.worlds import lost_tasks
from tests.worlds.servers import running_redis
from tests.worlds.spark import CONF, PASSWORD, stop_session
from tests.worlds.workspace import AVERAGE, DECAY, END, SETTINGS, STORE, Workspace
from transformations.config import Config
from transformations.errors import InputError, RunFailedError
from transformations.tasks import Engine

BUCKETS, MEMBERS = 4, 7
VIEW = "member_activity_average_v1"
LOCAL = {"kind": "local", "workers": 2, "memory": "300MB"}


@pytest.fixture(scope="module")
def event_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("event-logs")


@pytest.fixture(scope="module")
def spark(spark_cluster: str, event_logs: Path) -> Iterator[dict[str, Any]]:
    """The engine's settings for the cluster, with Spark's log of all that its pages show."""
    stop_session()
    conf = CONF | {"spark.eventLog.enabled": "true", "spark.eventLog.dir": event_logs.as_uri()}
    conf |= {"spark.eventLog.compress": "false"}
    yield {"kind": "spark", "master": spark_cluster, "memory": "300MB", "conf": conf}
    stop_session()


@pytest.fixture(scope="module")
def built(spark_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a snapshot in buckets, which is online in SQLite."""
    made = Workspace(tmp_path_factory.mktemp("workspace") / "here")
    settle(made, LOCAL)
    made.lines(AVERAGE, DECAY)
    made.run(END)
    return made


@pytest.fixture(scope="module")
def guarded_redis(spark_cluster: str) -> Iterator[str]:
    """A Redis with a password, which workers and driver have in their environment."""
    with running_redis() as address:
        host, port = address.split(":")
        with redis.Redis(host=host, port=int(port)) as client:
            client.config_set("requirepass", os.environ[PASSWORD])
        yield address


def settle(made: Workspace, engine: dict[str, Any]) -> None:
    text = yaml.safe_dump({"layout": {"buckets": BUCKETS}, "engine": engine})
    (made.root / "activity.yaml").write_text(SETTINGS + text)


def use(made: Workspace, online: dict[str, Any], **bounds: int) -> None:
    """Let the workspace publish into a store."""
    settings = yaml.safe_load(STORE) | {"online_store": online}
    settings["batch_engine"] |= bounds
    (made.root / "feature_store.yaml").write_text(yaml.safe_dump(settings))


class Redis:
    """Rows in Redis, as its fields."""

    def __init__(self, made: Workspace, address: str, variable: str = PASSWORD) -> None:
        use(
            made,
            {
                "type": "stores.redis.ColumnarRedisOnlineStore",
                "connection_string": f"{address},password=${{{variable}}}",
            },
        )
        host, port = address.split(":")
        self._client = redis.Redis(host=host, port=int(port), password=os.environ[PASSWORD])

    def empty(self) -> None:
        self._client.flushall()

    def rows(self) -> object:
        found = sorted(self._client.scan_iter(_type="HASH"))
        return {key: self._client.hgetall(key) for key in found}


class Postgres:
    """Rows in PostgreSQL, as its tables."""

    def __init__(self, made: Workspace, url: str) -> None:
        options = postgres_options(url)
        use(made, {"type": "stores.postgres.ColumnarPostgreSQLOnlineStore", **options})
        self._options = {name: options[name] for name in ("host", "port", "user", "password")}
        self._options["dbname"] = options["database"]

    def _each(self, statement: str) -> dict[str, list[tuple[Any, ...]]]:
        with psycopg.connect(**self._options) as connection:
            tables = connection.execute(
                "select tablename from pg_tables where schemaname = 'public' "
                "and tablename like 'fits_member%' order by 1"
            ).fetchall()
            found = {}
            for (table,) in tables:
                done = connection.execute(statement.format(table=table))  # type: ignore[arg-type]
                found[table] = done.fetchall() if done.description else []
            return found

    def empty(self) -> None:
        self._each('delete from "{table}"')

    def rows(self) -> object:
        return self._each('select * from "{table}" order by 1, 2')


def published(made: Workspace, kind: Redis | Postgres, engine: Engine | None) -> object:
    """Publish into an empty store that has one newer row already; return what it holds then."""
    with opened_store(made) as store:
        publish.apply(made.config, store)
        kind.empty()
        newer = END + timedelta(hours=1)
        row = {field.name: None for field in store.get_feature_view(VIEW).features}
        row |= {"member_id": 3, "event_timestamp": newer, "created_timestamp": newer}
        row["stored_n_play"] = 77
        store.write_to_online_store(VIEW, pd.DataFrame([row]))
        told: list[int] = []
        written = publish.publish(
            made.config, store, END, progress=told.append, with_sequences=False, engine=engine
        )
        assert written == sum(told) >= 2 * MEMBERS
        assert publish.read_back(made.config, store, END, with_sequences=False) > 0
        answer = store.get_online_features(
            features=[f"{VIEW}:stored_n_play"], entity_rows=[{"member_id": 3}]
        )
    assert answer.to_dict()["stored_n_play"] == [77], "an older row must not replace a newer one"
    return kind.rows()


@contextmanager
def opened_store(made: Workspace) -> Iterator[FeatureStore]:
    store = made.store
    try:
        yield store
    finally:
        provider: Any = store._get_provider()
        asyncio.run(provider.online_store.close())


class Replaced:
    """An engine that runs another function in its tasks."""

    def __init__(self, engine: Engine, function: Callable[..., Any]) -> None:
        self._engine, self._function, self.slots = engine, function, engine.slots

    def run(self, config: Config, _: object, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        return self._engine.run(config, self._function, tasks)


def opened(kind: str, made: Workspace, request: pytest.FixtureRequest) -> Redis | Postgres:
    if kind == "redis":
        return Redis(made, request.getfixturevalue("guarded_redis"))
    return Postgres(made, request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("postgres", marks=pytest.mark.postgres),
    ],
)
def test_the_same_is_online_whoever_writes_it(
    kind: str, built: Workspace, spark: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    online = opened(kind, built, request)
    truth = published(built, online, None)
    assert truth
    for settings in (LOCAL, spark):
        settle(built, settings)
        engine = engine_of(built.config)
        if kind == "redis" and settings is spark:  # it gives a lost executor's tasks to another
            engine = Replaced(engine, lost_tasks.written_half)
        assert published(built, online, engine) == truth
    assert kind == "postgres" or (built.config.data / "killed").exists()


@pytest.mark.redis
def test_a_variable_that_workers_lack_is_named(
    built: Workspace, spark: dict[str, Any], guarded_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_ALONE_PASSWORD", os.environ[PASSWORD])
    settle(built, spark)
    online = Redis(built, guarded_redis, "HERE_ALONE_PASSWORD")
    with pytest.raises(InputError, match=r"HERE_ALONE_PASSWORD.*in a task"):
        published(built, online, engine_of(built.config))


@pytest.mark.redis
def test_no_password_is_in_what_spark_shows(
    built: Workspace,
    spark: dict[str, Any],
    guarded_redis: str,
    event_logs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settle(built, spark)
    online, engine = Redis(built, guarded_redis), engine_of(built.config)
    assert published(built, online, engine)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(RunFailedError, match=r"cannot log in with \*\*\*") as raised,
    ):
        next(engine.run(built.config, lost_tasks.tells_password, [1]))
    stop_session()  # the log of its events is whole
    cluster = [path for path in tmp_path_factory.getbasetemp().glob("spark*") if path.is_dir()]
    written = {
        file: file.read_bytes()
        for folder in (event_logs, *cluster)
        for file in folder.rglob("*")
        if file.is_file()
    }
    written[Path("what is said here")] = (str(raised.value) + caplog.text).encode()
    assert [file for file, said in written.items() if os.environ[PASSWORD].encode() in said] == []
    told = [file for file, said in written.items() if b"cannot log in with ***" in said]
    assert any(file.is_relative_to(event_logs) for file in told)
    assert any(file.name == "stderr" and b"logging in with ***" in written[file] for file in told)


@pytest.mark.parametrize(
    "setting",
    [{"spark.executorEnv.REDIS_PWD": "x"}, {"spark.executor.extraJavaOptions": "-Dpassword=x"}],
)
def test_a_password_among_sparks_settings_is_refused(
    setting: dict[str, str], built: Workspace
) -> None:
    settle(built, {"kind": "spark", "conf": setting})
    with pytest.raises(InputError, match=r"expected no passwords.*secretKeyRef"):
        next(engine_of(built.config).run(built.config, write_files, [1]))  # type: ignore[list-item]


class Recorded:
    """An engine of three slots that keeps its tasks, and runs none."""

    slots = 3

    def __init__(self) -> None:
        self.tasks: list[WriteTask] = []

    def run(
        self, _: Config, function: Callable[..., Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        assert function is write_files
        self.tasks += tasks
        yield from ((task, 0) for task in tasks)


@pytest.mark.redis
@pytest.mark.parametrize(("rate", "most", "tasks"), [(100, 33, 3), (2, 1, 2)])
def test_the_rate_is_divided_among_the_tasks(
    rate: int, most: int, tasks: int, built: Workspace, redis_server: str
) -> None:
    settle(built, LOCAL)
    online = {"type": "stores.redis.ColumnarRedisOnlineStore", "connection_string": redis_server}
    use(built, online, rows_per_second=rate)
    publish.apply(built.config, built.store)
    engine, config = Recorded(), built.config
    publish.publish(config, built.store, END, with_sequences=False, engine=engine)
    views = publish.views(chosen(config, None), with_sequences=False)
    assert len(engine.tasks) == tasks * len(views)
    for view in {task.view for task in engine.tasks}:
        of_view = [task for task in engine.tasks if task.view == view]
        assert [task.bounds.rows_per_second for task in of_view] == [most] * tasks
        assert len({file for task in of_view for file in task.files}) == BUCKETS


def test_sqlite_is_written_here(built: Workspace) -> None:
    settle(built, LOCAL)
    (built.root / "feature_store.yaml").write_text(STORE)
    engine = Recorded()
    assert publish.publish(built.config, built.store, END, engine=engine) > 0
    assert engine.tasks == []
