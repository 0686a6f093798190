"""One suite, two engines: the same tables from this process, a pool of processes, a Spark cluster.

The cluster is a real one (tests/worlds/spark.py): its executors are other processes, which are
killed here.
"""

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipelines.engine import engine_of
from pipelines.engine.spark import SparkEngine
from tests.worlds import lost_tasks
from tests.worlds.events import (
    AS_OF,
    DAY,
    INTEGERS,
    STRINGS,
    Event,
    Id,
    configure,
    event_logs,
    table,
)
from tests.worlds.lost_tasks import SNAPSHOTS, build_by, lost_once
from tests.worlds.spark import CONF, stop_session
from tests.worlds.workspace import AVERAGE, DECAY, END, SETTINGS, Workspace
from transformations.buckets import bucket_of, spark_sql
from transformations.config import Config
from transformations.duck import TableReport, connect, parquet
from transformations.errors import InputError, RunFailedError
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples
from transformations.files import sweep
from transformations.layout import partition_files, partitions, snapshot_files
from transformations.names import MEMBER_STATS_VIEW, SEQUENCE_VIEW
from transformations.secrets import redact
from transformations.sources import stage_activity
from transformations.tables import build_sequences_of
from transformations.tombstones import Tombstones

WINDOW, BUCKETS = timedelta(days=3), 4
ATTRIBUTES = {"dwell": {"type": "number"}, "seen_on": {"type": "category"}}
LOCAL = {"kind": "local", "workers": 2, "memory": "300MB"}


@pytest.fixture(scope="module")
def spark(spark_cluster: str) -> Iterator[dict]:
    """The engine's settings for the cluster; a process can have one session."""
    stop_session()
    conf = CONF | {"spark.activity.secret": "${ACTIVITY_SPARK_WORD}"}
    given = {"kind": "spark", "master": spark_cluster, "memory": "300MB", "conf": conf}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIVITY_SPARK_WORD", "of the environment")
        yield given
    stop_session()


def configured(folder: Path, source: Path, id_type: str, buckets: int, engine: dict) -> Config:
    config = configure(
        folder,
        id_type=id_type,
        window=WINDOW,
        length=3,
        events={
            "source": str(source),
            "columns": {"ingested_at": "ingested_at"},
            "attributes": ATTRIBUTES,
            "max_refused_share": 1,
        },
        layout={"buckets": buckets},
        engine=engine,
    )
    for note in config.data.glob("*/_layout.json"):  # the first run divides the rows
        note.unlink()
    return config


def write_events(file: Path, events: list[Event], carried: list[tuple], id_type: str) -> None:
    rows = table(events, id_type)
    numbers, words = zip(*carried, strict=True) if carried else ((), ())
    rows = rows.append_column("dwell", pa.array(numbers, pa.float64()))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows.append_column("seen_on", pa.array(words, pa.string())), file)


BY_HAND = """member_id,item_id,action,event_timestamp,ingested_at,dwell,seen_on
7,1,APPLY,2026-03-09 11:00:00,,2.5,a
7,1,SAVE,2026-03-09 12:00:00,2026-03-09 12:30:00,,b
7,1,NOBODY,2026-03-09 12:00:00,,,
7,1,APPLY,2026-05-09 12:00:00,,,
7,1,APPLY,2026-03-09 12:00:00,,long,
FORGOTTEN,1,APPLY,2026-03-09 12:00:00,,,
7,1,APPLY,2026-03-09 12:00:00,,,,x,y
FORGOTTEN,1,APPLY,2026-03-09 12:00:00,,,,x,y
"""


def write_files(
    folder: Path, events: list[Event], carried: list[tuple], id_type: str, forgotten: Id
) -> None:
    """Write events into Parquet files, and a CSV of two line ends with what is refused."""
    for nth in range(3):
        some = slice(nth, None, 3)
        write_events(folder / f"{nth}.parquet", events[some], carried[some], id_type)
    text = BY_HAND.replace("FORGOTTEN", f'"{forgotten}"')
    (folder / "by-hand.csv").write_bytes(text.encode())


def build(config: Config) -> tuple[TableReport, int]:
    """Stage the source and build all snapshots by the configured engine."""
    engine = engine_of(config)
    with connect(config) as con:
        staged = stage_activity(config, con, AS_OF, engine=engine)
        built = build_sequences_of(config, con, SNAPSHOTS, engine=engine)
    return staged, built.rows_out


def rows(files: list[Path]) -> str:
    """Return all rows in order as a text, in which a missing number (NaN) equals another."""
    if not files:
        return ""
    found = duckdb.sql(f"select * from {parquet(files)} order by all").fetchall()
    return "\n".join(map(repr, found))


def tables_of(config: Config) -> dict[str, str]:
    found = {
        "activity": rows(partition_files(config.layout.activity)),
        "quarantine": rows(partition_files(config.layout.quarantine)),
    }
    for as_of in partitions(config.layout.sequences):
        files = snapshot_files(config.layout.sequences, as_of)
        assert len(files) == config.layout.buckets
        found[str(as_of)] = rows(files)
    return found


def examples_of(config: Config) -> tuple[dict, str]:
    """Build training examples by the configured engine; return their figures and rows, in order."""
    chosen = ExampleSettings(min_actions=1, horizon=DAY, random_negatives=2)
    with connect(config) as con:
        made = build_training_examples(config, con, chosen, AS_OF, engine=engine_of(config))
    return made.figures(), "\n".join(map(repr, duckdb.sql(f"from '{made.file}'").fetchall()))


CARRIED = st.tuples(st.none() | st.floats(0, 9, width=16), st.none() | st.sampled_from("ab"))
number = count()


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # an example costs seconds: no shrinking
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_every_engine_gives_the_same_tables(
    id_type: str, data: st.DataObject, spark: dict, tmp_path: Path
) -> None:
    edges = [time for s in SNAPSHOTS for time in (s.as_of, s.previous_as_of)]
    log = data.draw(event_logs(id_type, edges, WINDOW, max_size=120, members=8), label="events")
    carried = data.draw(st.lists(CARRIED, min_size=len(log), max_size=len(log)), label="carried")
    folder = tmp_path / str(next(number))
    source, forgotten = folder / "events", (INTEGERS if id_type == "int64" else STRINGS)[1]
    write_files(source, log, carried, id_type, forgotten)
    found = []
    for name, buckets, engine in (
        ("one", 1, {}),
        ("pool", BUCKETS, LOCAL),
        ("spark", BUCKETS, spark),
    ):
        config = configured(folder / name, source, id_type, buckets, engine)
        Tombstones(config).add([forgotten])
        counted = build(config)
        found.append((counted, tables_of(config), examples_of(config)))
    one, pool, cluster = found
    assert len(one[1]) == 2 + len(SNAPSHOTS)
    assert one[0][0].refused == {
        "action is unknown": 1,
        "event_timestamp is in the future": 1,
        "attribute dwell is not a number": 1,
        "line is malformed": 1,
    }
    assert pool == one
    assert cluster == one


def test_spark_hashes_as_python_does(spark: dict, tmp_path: Path) -> None:
    engine = engine_of(configured(tmp_path, tmp_path, "int64", BUCKETS, spark))
    assert isinstance(engine, SparkEngine)
    assert engine.session.sparkContext.master == spark["master"], "a real cluster"
    assert engine.session.conf.get("spark.activity.secret") == "of the environment"
    assert redact("got of the environment") == "got ***"
    for ids, kind in ((INTEGERS, "bigint"), (STRINGS, "string")):
        frame = engine.session.createDataFrame([(id_,) for id_ in ids], f"id {kind}")
        found = [
            row.bucket for row in frame.selectExpr(f"{spark_sql('id', 7)} as bucket").collect()
        ]
        assert found == [bucket_of(id_, 7) for id_ in ids]


@pytest.mark.parametrize("kind", ["local", "spark"])
def test_results_come_as_tasks_end_and_a_job_that_nobody_wants_is_given_up(
    kind: str, spark: dict, tmp_path: Path
) -> None:
    settings = spark if kind == "spark" else LOCAL
    engine = engine_of(configured(tmp_path, tmp_path, "int64", BUCKETS, settings))
    config = configured(tmp_path, tmp_path, "int64", BUCKETS, {})
    first, second = tmp_path / "first", tmp_path / "second"
    assert engine.where == (f"Spark at {spark['master']}" if kind == "spark" else "")
    second.touch()
    results = engine.run(config, lost_tasks.there, [first, second])
    assert next(results) == (second, "second")
    first.touch()
    assert [*results] == [(first, "first")]
    assert [*engine.run(config, partial(lost_tasks.there), [first])] == [(first, "first")]
    first.unlink()
    results = engine.run(config, lost_tasks.there, [first, second])
    assert next(results) == (second, "second")
    if kind == "local":
        first.touch()  # a process of the pool cannot be told to stop
    results.close()
    both = [(second, "second")] * 2
    assert [*engine.run(config, lost_tasks.there, [second, second])] == both, (
        "nothing is in the way"
    )


EVENTS = [Event(n % 11, n, "APPLY", AS_OF - n * DAY / 20) for n in range(1, 90)]


@pytest.fixture
def expected(tmp_path: Path) -> tuple[Path, dict]:
    """A source, and the tables that it gives."""
    source = tmp_path / "events.parquet"
    write_events(source, EVENTS, [(None, None)] * len(EVENTS), "int64")
    one = configured(tmp_path / "one", source, "int64", 1, {})
    build(one)
    return source, tables_of(one)


def run_workspace(root: Path, buckets: int, engine: dict) -> Workspace:
    """Run one day, and build two of before, as a user does."""
    made = Workspace(root)
    text = yaml.safe_dump({"layout": {"buckets": buckets}, "engine": engine})
    (root / "activity.yaml").write_text(SETTINGS + text)
    made.lines(AVERAGE, DECAY)
    made.run(END)
    made.backfill(END - 2 * DAY, END - DAY)
    return made


def member_tables(made: Workspace) -> dict[str, str]:
    """Return the rows of each member table and snapshot, but for when they could be read."""
    layout, found = made.config.layout, {}
    views = [path.name for path in layout.all_embeddings.iterdir()]
    for view in (SEQUENCE_VIEW, MEMBER_STATS_VIEW, *sorted(views)):
        for as_of in partitions(layout.table(view)):
            files = snapshot_files(layout.table(view), as_of)
            assert len(files) == layout.buckets
            query = f"select * exclude (created_timestamp) from {parquet(files)} order by all"
            found[f"{view} {as_of}"] = "\n".join(map(repr, duckdb.sql(query).fetchall()))
    return found


def created(made: Workspace) -> list[tuple]:
    files = snapshot_files(made.config.layout.sequences, END)
    return duckdb.sql(
        f"select member_id, created_timestamp from {parquet(files)} order by 1"
    ).fetchall()


def joined(made: Workspace) -> pd.DataFrame:
    """Join labels of half a day after the backfilled snapshots."""
    labels = pd.DataFrame(
        [(member, END - day * DAY + DAY / 2) for member in range(8) for day in (1, 2)],
        columns=["member_id", "event_timestamp"],
    )
    features = [
        f"member_activity_average_v1:{name}" for name in ("play_embedding", "stored_n_play")
    ]
    found = made.store.get_historical_features(
        labels, features, filter_by_created_timestamp=True
    ).to_df()
    assert found["play_embedding"].notna().sum() == 7 * 2
    return found


def test_a_workspace_runs_the_same_whoever_builds_its_buckets(spark: dict, tmp_path: Path) -> None:
    one = run_workspace(tmp_path / "one", 1, {})
    truth, online, join = member_tables(one), one.online("ranker_average_v1"), joined(one)
    assert len(truth) == 3 * (2 + 2)
    for name, engine in (("pool", LOCAL), ("spark", spark)):
        other = run_workspace(tmp_path / name, BUCKETS, engine)
        assert member_tables(other) == truth
        assert other.online("ranker_average_v1") == online
        pd.testing.assert_frame_equal(joined(other), join)
    stamps = created(other)
    other.run(END)  # again: what is unchanged keeps the time since when it could be read
    assert member_tables(other) == truth
    assert created(other) == stamps
    assert not list(other.config.data.rglob("*.tmp"))


def test_an_executor_that_is_killed_costs_only_its_tasks(
    expected: tuple[Path, dict], spark: dict, tmp_path: Path
) -> None:
    source, truth = expected
    config = configured(tmp_path / "spark", source, "int64", BUCKETS, spark)
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
    build_by(config, lost_once)
    assert (config.data / "killed").exists()
    assert tables_of(config) == truth
    assert not list(config.data.rglob("*.tmp"))


def test_a_process_of_the_pool_that_is_killed_fails_the_run_and_the_next_is_right(
    expected: tuple[Path, dict], tmp_path: Path
) -> None:
    source, truth = expected
    config = configured(tmp_path / "pool", source, "int64", BUCKETS, LOCAL)
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
    with pytest.raises(RunFailedError, match="was killed, as where memory runs out"):
        build_by(config, lost_once)
    assert partitions(config.layout.sequences) == []
    build_by(config, lost_once)
    assert tables_of(config) == truth


@pytest.mark.parametrize("kind", ["local", "spark"])
def test_a_driver_that_is_killed_leaves_the_last_good_tables(
    kind: str, expected: tuple[Path, dict], spark: dict, tmp_path: Path
) -> None:
    source, truth = expected
    engine = LOCAL if kind == "local" else spark
    config = configured(tmp_path / kind, source, "int64", BUCKETS, engine)
    build(config)
    assert tables_of(config) == truth
    (config.data / "config.pickle").write_bytes(pickle.dumps(config))
    stop_session()  # it holds all cores of the cluster
    run = subprocess.run(
        [sys.executable, "-m", "tests.worlds.lost_tasks", str(config.data)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert tables_of(config) == truth, "as it was before"
    build(config)
    sweep(config.data)
    assert tables_of(config) == truth
    assert not list(config.data.rglob("*.tmp"))


def test_what_a_check_refuses_is_said_as_without_an_engine(
    expected: tuple[Path, dict], spark: dict, tmp_path: Path
) -> None:
    source, _ = expected
    config = configured(tmp_path / "spark", source, "int64", BUCKETS, spark)
    build(config)
    for file in snapshot_files(config.layout.activity, AS_OF) or partition_files(
        config.layout.activity
    ):
        text = pq.read_table(file, partitioning=None)
        pq.write_table(text.set_column(0, "member_id", text["member_id"].cast(pa.string())), file)
    with pytest.raises(InputError, match="activity reset"):
        build_again(config)


def build_again(config: Config) -> None:
    with connect(config) as con:
        build_sequences_of(config, con, SNAPSHOTS, engine=engine_of(config))


@pytest.mark.parametrize("missing", ["pyspark", "java"])
def test_what_is_missing_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, tmp_path, "int64", BUCKETS, {"kind": "spark"})
    if missing == "pyspark":
        monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    else:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"\[spark\]" if missing == "pyspark" else "Java 17"):
        next(SparkEngine(config.engine).run(config, lost_once, [1]))


def test_spark_needs_buckets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layout\.buckets of 2 or more"):
        configure(tmp_path, engine={"kind": "spark"})
