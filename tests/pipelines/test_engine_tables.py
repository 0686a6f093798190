"""A table read by tasks, range by range: the same rows as of one statement of one process."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipelines.engine import engine_of
from pipelines.engine.spark import SparkEngine
from tests.worlds.archive import Table
from tests.worlds.events import AS_OF, DAY, configure
from tests.worlds.spark import CONF, PASSWORD, stop_session
from transformations import archive
from transformations.config import Config
from transformations.duck import TableReport, connect, parquet
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition_files
from transformations.sources import stage_activity, table_ranges
from transformations.sources.marks import Mark
from transformations.sources.sql_source import Spooled, TableSource, plain_writer, spool
from transformations.sources.table_ranges import Range, RangeTask, Rest, read_range, read_table
from transformations.tasks import Engine, InTurn
from transformations.tombstones import Tombstones

BUCKETS = 4
LOCAL = {"kind": "local", "workers": 2, "memory": "300MB"}
FORGOTTEN = 5


@pytest.fixture(scope="module")
def spark(spark_cluster: str) -> Iterator[dict[str, Any]]:
    """The engine's settings for the cluster; a process can have one session."""
    stop_session()
    yield {"kind": "spark", "master": spark_cluster, "memory": "300MB", "conf": CONF}
    stop_session()


@pytest.fixture(autouse=True)
def few_rows_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_ranges, "ROWS_PER_RANGE", 1)


class Told:
    """An engine of a given number of slots, which notes what it was given to do."""

    def __init__(self, engine: Engine, slots: int) -> None:
        self._engine, self.slots = engine, slots
        self.ranges: list[Range | Rest] = []

    def run(
        self, config: Config, function: Callable[..., Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        self.ranges += [task.rows for task in tasks if isinstance(task, RangeTask)]
        return self._engine.run(config, function, tasks)


def stage(config: Config, engine: Engine | None = None, days: int = 0) -> TableReport:
    with connect(config) as con:
        return stage_activity(config, con, AS_OF + days * DAY, engine=engine)


def rows(files: Sequence[Path]) -> list[tuple[Any, ...]]:
    if not files:
        return []
    return duckdb.sql(f"from {parquet([*files])} order by all").fetchall()


def held(config: Config) -> list[list[tuple[Any, ...]]]:
    """Return the rows of each read in the archive."""
    assert list(archive.damage(config)) == []
    return [
        duckdb.sql(
            f"from {parquet([config.layout.archived(str(read.sha256))])} order by all"
        ).fetchall()
        if read.sha256
        else []
        for read in archive.reads(config)
    ]


def left_by(config: Config) -> dict[str, Any]:
    """Return all that staging leaves."""
    assert not list(config.data.rglob("*.tmp"))
    noted = json.loads((config.layout.state / "stg_activity.json").read_text())["read"]
    return {
        "activity": rows(partition_files(config.layout.activity)),
        "quarantine": rows(partition_files(config.layout.quarantine)),
        "mark": noted["mark"],
        "archive": held(config),
    }


def workspace(folder: Path, given: dict[str, Any], engine: dict[str, Any] | None) -> Config:
    """Return a workspace in buckets; without an engine the driver alone reads, into one."""
    more = {"layout": {"buckets": BUCKETS}, "engine": engine} if engine else {}
    config = configure(folder, **given, **more)
    if engine:
        for note in config.data.glob("*/_layout.json"):  # the first run divides the rows
            note.unlink()
    Tombstones(config).add([FORGOTTEN])
    return config


TIMES = [f"2026-03-0{day} 10:00:00" for day in range(1, 9)]
ORDERED = {
    "numbers": st.integers(-2, 4) | st.sampled_from([1.5, -0.0, 2.0**60, float("inf")]),
    "texts": st.sampled_from(TIMES[:3]),
}


def table_rows(kind: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Draw rows with ties and nulls in the incremental column, and some that are refused."""
    row = st.tuples(
        st.none() | ORDERED[kind],
        st.integers(1, FORGOTTEN),
        st.sampled_from(["1", "2", "x"]),
        st.sampled_from(["SAVE", "APPLY", "NOBODY"]),
        st.sampled_from([*TIMES, "2027-01-01", "soon"]),
        st.none() | st.sampled_from(TIMES),
    )
    return st.lists(row, max_size=30)


number = count()


def texts(spooled: Spooled) -> list[tuple[Any, ...]]:
    return rows([file for group in spooled.groups for file in group.files])


def expect_equal_reads(source: str, folder: Path, slots: int, mark: Mark | None) -> Mark | None:
    """Read a table whole, and by ranges in tasks here; return the mark."""
    config = configure(folder, **events(source))
    columns = {f"events.columns.{key}": key for key in ("member_id", "item_id", "action")}
    table = TableSource("events", source, "events", columns, {}, "seq")
    (folder / "whole").mkdir(parents=True, exist_ok=True)
    whole = spool(config, table, folder / "whole", mark)
    with duckdb.connect() as con:
        engine = Told(InTurn(con), slots)
        ranges = read_table(config, table, folder, mark, engine, plain_writer)
    assert ranges.mark == whole.mark
    assert texts(ranges) == texts(whole)
    return whole.mark


@pytest.mark.parametrize("kind", ORDERED)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ranges_hold_each_row_once(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / str(next(number))
    table, mark = Table(folder), None
    table.execute("alter table events rename column who to member_id")
    table.execute("alter table events rename column job to item_id")
    for run in range(2):
        table.insert(*data.draw(table_rows(kind), label=f"rows of run {run}"))
        slots = data.draw(st.integers(2, 9), label="slots")
        mark = expect_equal_reads(f"sqlite:///{table.file}", folder / str(run), slots, mark)


@pytest.mark.parametrize("kind", ORDERED)
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # an example costs seconds: no shrinking
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_table_of_sqlite_gives_a_pool_what_it_gives_the_driver(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    folder = tmp_path / str(next(number))
    table = Table(folder)
    one = workspace(folder / "one", table.settings, None)
    many = workspace(folder / "many", table.settings, LOCAL)
    engine = Told(engine_of(many), data.draw(st.integers(3, 6), label="slots"))
    table.insert(*(at_hand(n, kind) for n in range(12)))
    for run in range(2):
        assert reported(stage(many, engine, run)) == reported(stage(one, days=run))
        assert left_by(many) == left_by(one)
        # Late rows too, below the mark: it is promised that none come, so nobody reads them.
        table.insert(*data.draw(table_rows(kind), label="rows of a second run"))
    assert {type(rows) for rows in engine.ranges} == {Range, Rest}


def at_hand(number: int, kind: str) -> tuple[Any, ...]:
    seq = number // 3 if kind == "numbers" else TIMES[number // 3]
    item = "x" if number == 7 else str(number)
    return seq, 1 + number % FORGOTTEN, item, "SAVE", TIMES[number % 8], None


def test_few_rows_and_rows_without_an_order_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path)
    table.insert(*(at_hand(n, "numbers") for n in range(12)))
    whole = table.settings["events"] | {"incremental_column": None}
    for name, settings_, least in (
        ("few", table.settings, 7),
        ("unordered", {"events": whole}, 1),
    ):
        monkeypatch.setattr(table_ranges, "ROWS_PER_RANGE", least)
        config = workspace(tmp_path / name, settings_, LOCAL)
        with connect(config) as con:
            engine = Told(InTurn(con), 3)
            assert stage(config, engine).rows_in == 12 - 2  # of the forgotten
        assert engine.ranges == []


def test_a_table_of_forgotten_members_alone_is_a_read_of_nothing(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.insert(*((n, FORGOTTEN, str(n), "SAVE", TIMES[0], None) for n in range(9)))
    config = workspace(tmp_path / "here", table.settings, LOCAL)
    with connect(config) as con:
        engine = Told(InTurn(con), 3)
        assert stage(config, engine).rows_in == 0
    assert len(engine.ranges) == 3 + 1
    assert left_by(config)["archive"] == [[]]


def test_a_task_that_cannot_log_in_tells_no_password(tmp_path: Path) -> None:
    url = "postgresql+psycopg://nobody:geheim@127.0.0.1:1/shop"
    config = workspace(tmp_path, events(url), LOCAL)
    source = TableSource("events", url, "events", {}, {}, "seq")
    tasks = [RangeTask(source, Rest(), None, tmp_path / "table.parquet")]
    with pytest.raises(RunFailedError, match=r"reading events in .*nobody:\*\*\*@.*") as error:
        list(engine_of(config).run(config, read_range, tasks))
    assert "geheim" not in str(error.value)


def reported(report: TableReport) -> tuple[Any, ...]:
    return report.rows_in, report.rows_out, report.refused


SEQ = "case when mod(n, 9) = 0 then null when mod(n, 50) = 1 then {endless} else {value} end"
COLUMNS = {
    "timestamp with time zone": (
        "'infinity'",
        "timestamptz '2026-03-01 00:00:00.123456+09' + (n / 3) * interval '1 hour'",
    ),
    "double precision": ("'NaN'", "exp(n / 10)"),  # most of the range holds few rows
    "numeric": ("'NaN'", "n / 7.0"),
    "text": ("'~'", "mod(n, 60)::text"),
}


class Postgres:
    """A table `events` of PostgreSQL with a column `seq` of some type."""

    def __init__(self, url: str, kind: str) -> None:
        self.engine = sa.create_engine(url)
        endless, value = COLUMNS[kind]
        self._seq = SEQ.format(endless=endless, value=value)
        self._execute(
            f"create table events (seq {kind}, member_id bigint, item_id text, action text, "
            "event_timestamp timestamp with time zone, ingested_at timestamp with time zone)"
        )

    def add(self, start: int, end: int) -> None:
        self._execute(
            f"insert into events select {self._seq}, mod(n, 11), case when mod(n, 17) = 0 then 'x' "
            "else n::text end, 'SAVE', timestamptz '2026-03-01' + n * interval '1 minute', null "
            f"from generate_series({start}, {end}) n"
        )

    def _execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)


def events(source: str) -> dict[str, Any]:
    given = {"source": source, "table": "events", "incremental_column": "seq"}
    return {"events": given | {"columns": {"ingested_at": "ingested_at"}, "max_refused_share": 1}}


def with_password(url: str) -> str:
    """Return the URL with the variable that the workers of the cluster have in its password."""
    whole = sa.make_url(url)
    whole = whole.set(username=whole.username or "postgres", password="WORD")
    return whole.render_as_string(hide_password=False).replace("WORD", f"${{{PASSWORD}}}")


@pytest.mark.postgres
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_any_order_is_divided(kind: str, postgres_url: str, tmp_path: Path) -> None:
    table, mark = Postgres(postgres_url, kind), None
    for run in range(2):
        table.add(1 + 300 * run, 300 + 100 * run)
        mark = expect_equal_reads(postgres_url, tmp_path / str(run), 5, mark)
    table.engine.dispose()


@pytest.mark.postgres
def test_ranges_hold_as_many_rows_however_values_lie(postgres_url: str, tmp_path: Path) -> None:
    table = Postgres(postgres_url, "double precision")
    table.add(1, 450)
    config = workspace(tmp_path, events(postgres_url), LOCAL)
    engine = Told(engine_of(config), 4)
    stage(config, engine)
    with table.engine.connect() as connection:
        held = [
            connection.exec_driver_sql(
                "select count(*) from events where seq <> 'NaN' and "
                f"seq >= {rows.low.value if rows.low else -1} and "
                f"seq < {rows.high.value if rows.high else 'Infinity'!r}"
            ).scalar_one()
            for rows in engine.ranges
            if isinstance(rows, Range)
        ]
    table.engine.dispose()
    assert len(held) == 4
    assert max(held) - min(held) <= 2 * 10, "ten rows share each value"


@pytest.mark.postgres
def test_spark_reads_a_table_of_postgres_as_the_driver_does(
    spark: dict[str, Any], postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "of-the-driver")  # workers have another value of their own
    given = events(with_password(postgres_url))
    table = Postgres(postgres_url, "timestamp with time zone")
    table.add(1, 300)
    one = workspace(tmp_path / "one", given, None)
    many = workspace(tmp_path / "many", given, spark)
    engine = Told(engine_of(many), engine_of(many).slots)
    for run in range(2):
        assert reported(stage(many, engine, run)) == reported(stage(one, days=run))
        assert left_by(many) == left_by(one)
        table.add(301, 400)
    table.engine.dispose()
    assert len(engine.ranges) == 2 * (2 + 1)

    monkeypatch.setenv("ACTIVITY_ONLY_HERE", "hidden-word")
    source = given["events"]["source"].replace(PASSWORD, "ACTIVITY_ONLY_HERE")
    config = workspace(tmp_path / "refused", events(source), spark)
    with pytest.raises(InputError, match=r"variable ACTIVITY_ONLY_HERE.*in a task.*docs/spark"):
        stage(config, engine)
    assert not config.layout.archive.exists()


CATALOGUE = {"source": "spark://", "table": "default.actions", "incremental_column": "seq"}
LATER = "(9, 'x', 'SAVE', timestamp '2026-03-04 10:00:00 UTC', 9, 5), "
LATER += "(9, '9', 'SAVE', timestamp '2026-03-04 10:00:00 UTC', null, 5)"


def test_spark_reads_a_table_of_its_catalogue(spark: dict[str, Any], tmp_path: Path) -> None:
    given = {"events": CATALOGUE | {"max_refused_share": 1}}
    config = workspace(tmp_path / "here", given, spark)
    engine = engine_of(config)
    assert isinstance(engine, SparkEngine)
    session = engine.session
    session.sql("drop table if exists actions")
    session.sql(
        "create table actions (member_id bigint, item_id string, action string, event_timestamp "
        "timestamp, seq double, `not read` int) using parquet "
        f"location '{(tmp_path / 'lake').as_uri()}'"
    )
    try:
        with pytest.raises(InputError, match=r"got 'default.clicks'; .* of default are: actions"):
            stage(workspace(tmp_path / "clicks", with_table("default.clicks"), spark), engine)
        assert stage(config, engine).rows_in == 0
        session.sql(
            "insert into actions select id % 7, string(id), 'SAVE', timestamp_micros("
            "1772323200123456 + id * 3600000000), if(id % 5 = 0, double('NaN'), id / 10), 1 "
            "from range(70)"
        )
        table = session.table("actions").drop("not read").toArrow()
        pq.write_table(table, tmp_path / "same.parquet")
        files = {"events": {"source": str(tmp_path / "same.parquet"), "max_refused_share": 1}}
        one = workspace(tmp_path / "one", files, None)
        assert reported(stage(config, engine)) == reported(stage(one))
        found, expected = left_by(config), left_by(one)
        assert found["activity"] == expected["activity"] != []
        assert found["mark"] == {"kind": "double", "value": "6.9"}
        session.sql(f"insert into actions values {LATER}")
        again = stage(config, engine)
        # The row at the mark, 14 without an end, two that are new; of those one is no event.
        assert (again.rows_in, again.rows_out) == (1 + 14 - 2 + 2, 1)
        assert {row[-1] for row in left_by(config)["quarantine"]} == {"default.actions"}
    finally:
        session.sql("drop table if exists actions")


def with_table(name: str) -> dict[str, Any]:
    return {"events": CATALOGUE | {"table": name}}


def test_a_table_of_a_catalogue_needs_spark(tmp_path: Path) -> None:
    config = workspace(tmp_path, with_table("a.b.c"), LOCAL)
    with pytest.raises(InputError, match=r"expected engine.kind: spark, which reads a\.b\.c .*got"):
        stage(config, engine_of(config))
    with pytest.raises(ValueError, match=r"got 'spark://a.b'; Spark's address is `engine.master`"):
        configure(tmp_path, events={"source": "spark://a.b", "table": "c"})
    with pytest.raises(ValueError, match="only a table of events is read"):
        configure(tmp_path, items={"source": "spark://", "table": "c", "text": ["title"]})
