"""Events from a database: chunks, marks, what is refused, and no password anywhere."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tests.worlds.events import AS_OF, DAY, Event, at, configure, read_activity
from transformations.config import Config
from transformations.duck import TableReport, connect
from transformations.errors import InputError, RunFailedError
from transformations.sources import sql_source, stage_activity
from transformations.sources.marks import Mark

TABLE = """
create table events (
    seq bigint, member_id bigint, item_id text, action text,
    event_timestamp {time}, ingested_at {time}
)
"""


class Database:
    """One of the two databases, with the table `events`."""

    def __init__(self, url: str, time: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        self.execute(TABLE.format(time=time))

    def execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def insert(self, *rows: str) -> None:
        self.execute(f"insert into events values {', '.join(f'({row})' for row in rows)}")

    def config(self, folder: Path, **events: Any) -> Config:
        """Read this database, by its column `seq` unless told otherwise."""
        defaults = {
            "source": self.url,
            "table": "events",
            "incremental_column": "seq",
            "columns": {"ingested_at": "ingested_at"},
            "max_refused_share": 1,
        }
        return configure(folder, events=defaults | events)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "postgres":
        one = Database(request.getfixturevalue("postgres_url"), "timestamp with time zone")
    else:
        one = Database(f"sqlite:///{tmp_path}/events.db", "datetime")
    yield one
    one.engine.dispose()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    one = Database(postgres_url, "timestamp with time zone")
    yield one
    one.engine.dispose()


def stage(config: Config, days: int = 0) -> TableReport:
    with connect(config) as con:
        return stage_activity(config, con, AS_OF + days * DAY)


def staged(config: Config) -> list[Event]:
    return [event for rows in read_activity(config).values() for event in rows]


GOOD = "1, 1, '10', 'SAVE', '2026-03-01 10:00:00', '2026-03-01 11:00:00'"


def test_rows_become_events(database: Database, tmp_path: Path) -> None:
    database.insert(GOOD, "2, 2, '20', 'APPLY', '2026-03-02 00:00:00.123456', null")
    report = stage(config := database.config(tmp_path))

    assert (report.rows_in, report.rows_out, report.refused) == (2, 2, {})
    assert staged(config) == [
        Event(1, 10, "SAVE", at("2026-03-01 10:00"), at("2026-03-01 11:00")),
        Event(2, 20, "APPLY", at("2026-03-02 00:00:00.123456")),
    ]


def test_what_cannot_be_read_is_refused_as_it_came(database: Database, tmp_path: Path) -> None:
    database.insert(
        GOOD,
        "2, null, '1', 'SAVE', '2026-03-01', null",
        "3, 1, 'x', 'SAVE', '2026-03-01', null",
        "4, 1, '1', 'VIEW', '2026-03-01', null",
        "5, 1, '1', 'SAVE', null, null",
        "6, 1, '1', 'SAVE', '2027-03-01', null",
    )
    config = database.config(tmp_path)

    assert stage(config).refused == {
        "action is unknown": 1,
        "event_timestamp cannot be read": 1,
        "event_timestamp is in the future": 1,
        "item_id is not of the id type": 1,
        "member_id is null": 1,
    }
    (file,) = config.layout.quarantine.glob("*/*.parquet")
    rows = pq.ParquetFile(file).read().to_pylist()
    assert {row["source"] for row in rows} == {"events"}
    assert "x" in {row["item_id"] for row in rows}


def test_a_later_run_reads_from_the_mark_on(database: Database, tmp_path: Path) -> None:
    config = database.config(tmp_path)
    database.insert(GOOD, "9, 2, 'bad', 'SAVE', '2026-03-01', null")
    first = stage(config)
    again = stage(config)
    database.insert(
        "9, 3, '3', 'SAVE', '2026-03-02', null",  # as large as the mark
        "10, 3, '4', 'SAVE', '2026-03-02', null",
        "null, 3, '5', 'SAVE', '2026-03-02', null",
        "8, 3, '6', 'SAVE', '2026-03-02', null",  # below: promised never to come
    )
    more = stage(config)

    assert [r.rows_in for r in (first, again, more)] == [2, 1, 4]
    assert [r.rows_out for r in (first, again, more)] == [1, 0, 3]
    assert {e.item_id for e in staged(config)} == {10, 3, 4, 5}
    # The refused row was read three times, and is there once.
    (file,) = config.layout.quarantine.glob("*/*.parquet")
    assert pq.read_metadata(file).num_rows == 1


@pytest.mark.parametrize("column", ["ingested_at", "item_id"])
def test_marks_of_other_types(database: Database, tmp_path: Path, column: str) -> None:
    config = database.config(tmp_path, incremental_column=column)
    database.insert(
        "1, 1, '10', 'SAVE', '2026-03-01', '2026-03-01 10:00:00.000001'",
        "1, 1, '20', 'SAVE', '2026-03-01', '2026-03-01 10:00:00.000002'",
    )
    stage(config)
    database.insert("1, 1, '30', 'SAVE', '2026-03-01', '2026-03-01 10:00:00.000003'")

    assert stage(config).rows_in == 2
    assert len(staged(config)) == 3


# Values of `seq`, each the newest of a run, in the order in which they come.
GROWING = {
    "integers": ("bigint", [1, 2**53, 2**53 + 1, 2**62]),
    "negative": ("bigint", [-(2**63) + 1, -5, 0, 3]),
    "floats of 17 digits": (
        "double precision",
        [0.1, 0.30000000000000004, 1772323200.1234567, 1772323200.1234570],
    ),
    "large and small floats": ("double precision", [1e-300, 1.5, 1e22, 1.0000000000000002e22]),
    "decimals": ("numeric(30, 10)", ["1.0000000001", "1.0000000002", "99999999.5", "1e12"]),
    "texts": ("text", ["'a'", "'b'", "'ba'", "'é'"]),
    "digits in texts": ("text", ["'1'", "'15'", "'2'", "'30'"]),
    "times": (
        "timestamp",
        [f"'2026-03-01 10:00:0{second}.00000{second}'" for second in range(4)],
    ),
    "dates": ("date", [f"'2026-03-0{day}'" for day in range(1, 5)]),
}
UNTYPED = {
    "untyped integers": ("", [1, 2, 30, 400]),
    "untyped floats": ("", [0.5, 1.5, 1.5000000000000002, 20]),
    "untyped texts": ("", ["'a'", "'b'", "'c'", "'d'"]),
    "untyped digits": ("", ["'1'", "'2'", "'3'", "'4'"]),
}


def grown(database: Database, folder: Path, kind: str) -> Config:
    """The table with `seq` of another type."""
    database.execute("drop table events")
    database.execute(TABLE.format(time="text").replace("seq bigint", f"seq {kind}"))
    return database.config(folder)


def add(database: Database, number: int, seq: object) -> None:
    database.insert(f"{seq}, {number}, '{number}', 'SAVE', '2026-03-01', null")


def read_growing(database: Database, folder: Path, kind: str, values: list[Any]) -> None:
    """Add a row, read, and so on: each reading gives the new row, and the one at the mark again."""
    config = grown(database, folder, kind)
    columns = {"events.columns.member_id": "member_id"}
    source = sql_source.TableSource("events", database.url, "events", columns, {}, "seq")
    mark = None
    for number, value in enumerate([*values, None]):
        if value is not None:
            add(database, number, value)
        spooled = sql_source.spool(config, source, folder, mark)
        mark = spooled.mark and Mark(**json.loads(json.dumps(asdict(spooled.mark))))
        found = pq.read_table(folder / "table.parquet")["member_id"].to_pylist()
        new = [str(number)] if value is not None else []
        assert sorted(found) == [*([str(number - 1)] if number else []), *new]


@pytest.mark.parametrize(("kind", "values"), GROWING.values(), ids=GROWING)
def test_a_mark_of_any_type_skips_nothing_and_reads_little_again(
    database: Database, tmp_path: Path, kind: str, values: list[Any]
) -> None:
    read_growing(database, tmp_path, kind, values)


@pytest.mark.parametrize(("kind", "values"), UNTYPED.values(), ids=UNTYPED)
def test_a_column_of_sqlite_without_a_type_has_a_mark_too(
    tmp_path: Path, kind: str, values: list[Any]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/events.db", "text")
    read_growing(database, tmp_path, kind, values)
    database.engine.dispose()


ENDLESS = {
    "infinity": ("timestamp", "'infinity'", "'2026-03-01'", "'2026-03-02'"),
    "infinite dates": ("date", "'infinity'", "'2026-03-01'", "'2026-03-02'"),
    "NaN": ("double precision", "'NaN'", 1.5, 2.5),
    "infinite floats": ("double precision", "'Infinity'", 1.5, 2.5),
    "NaN beside infinity": ("double precision", "'NaN'), ('Infinity'", 1.5, 2.5),
    "numeric NaN": ("numeric", "'NaN'", "1.5", "2.5"),
}


@pytest.mark.postgres
@pytest.mark.parametrize("case", ENDLESS)
def test_a_value_without_end_ends_no_reading(postgres: Database, tmp_path: Path, case: str) -> None:
    kind, endless, first, later = ENDLESS[case]
    config = grown(postgres, tmp_path, kind)
    for number, seq in enumerate(endless.split("), (")):
        add(postgres, 10 + number, seq)
    add(postgres, 1, first)
    stage(config)
    add(postgres, 2, later)
    stage(config)
    assert {event.member_id for event in staged(config)} >= {1, 2, 10}


def test_an_infinite_number_of_sqlite_ends_no_reading(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/events.db", "text")
    config = grown(database, tmp_path, "real")
    for number, seq in enumerate(("9e999", 1.5, 2.5)):
        add(database, number, seq)
        stage(config)
    database.engine.dispose()
    assert len(staged(config)) == 3


def test_a_table_made_again_is_said_and_nothing_is_read(database: Database, tmp_path: Path) -> None:
    config = database.config(tmp_path)
    add(database, 1, 900)
    stage(config)
    database.execute("delete from events")
    assert stage(config).rows_in == 0  # empty: nothing can have been skipped
    add(database, 2, 5)
    for _ in range(2):
        with pytest.raises(RunFailedError, match=r"seq = 900, but its largest value is now 5.*rem"):
            stage(config)
    (config.layout.state / "stg_activity.json").unlink()
    stage(config)
    assert {event.member_id for event in staged(config)} == {1, 2}
    add(database, 3, 6)
    assert stage(config).rows_in == 2


def test_a_column_of_another_type_is_read_from_the_start(
    database: Database, tmp_path: Path
) -> None:
    config = database.config(tmp_path)
    add(database, 1, 9)
    stage(config)
    config = grown(database, tmp_path, "text")
    for number, seq in enumerate(("'10'", "'11'", "'2'")):
        add(database, number + 2, seq)
    assert stage(config).rows_in == 3


@pytest.mark.parametrize("values", [(1, "'x'"), ("'2026-03-01'", 5), (1.5, "x'00'")])
def test_numbers_and_texts_in_a_column_of_sqlite_have_no_order(
    tmp_path: Path, values: tuple[object, object]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/events.db", "text")
    config = grown(database, tmp_path, "")
    for number, seq in enumerate(values):
        add(database, number, seq)
    with pytest.raises(InputError, match=r"values of one type in 'seq' of events.*leave"):
        stage(config)
    database.engine.dispose()


def test_a_mark_of_before_is_forgotten(database: Database, tmp_path: Path) -> None:
    """It had no type: the table is read again, and its rows count once."""
    config = database.config(tmp_path)
    add(database, 1, 900)
    stage(config)
    state = config.layout.state / "stg_activity.json"
    state.write_text(re.sub(r'"mark": \{[^}]*\}', '"mark": "900"', state.read_text()))
    add(database, 2, 5)
    assert stage(config).rows_in == 2
    assert len(staged(config)) == 2


def test_without_an_incremental_column_everything_is_read(
    database: Database, tmp_path: Path
) -> None:
    config = database.config(tmp_path, incremental_column=None)
    database.insert(GOOD)
    stage(config)

    assert (stage(config).rows_in, len(staged(config))) == (1, 1)


def test_another_source_starts_without_the_mark(database: Database, tmp_path: Path) -> None:
    database.insert(GOOD)
    stage(database.config(tmp_path))
    database.execute("alter table events rename to moved")
    config = database.config(tmp_path, table="moved")
    database.execute("update moved set seq = 0")

    assert stage(config).rows_in == 1


def test_a_failed_run_keeps_the_mark(database: Database, tmp_path: Path) -> None:
    database.insert(GOOD)
    config = database.config(tmp_path, max_refused_share=0.5)
    stage(config)
    database.insert(*["2, 1, 'bad', 'SAVE', '2026-03-01', null"] * 3)

    for _ in range(2):
        with pytest.raises(RunFailedError, match="3 of the 4 rows"):
            stage(config)


def test_a_row_from_the_future_below_the_mark_is_taken_up(
    database: Database, tmp_path: Path
) -> None:
    database.insert("1, 1, '10', 'SAVE', '2026-03-12', null", GOOD.replace("1,", "5,", 1))
    config = database.config(tmp_path)

    assert [stage(config, days).rows_out for days in range(3)] == [1, 1, 0]


def test_an_empty_table(database: Database, tmp_path: Path) -> None:
    assert stage(database.config(tmp_path)) == TableReport("stg_activity", 0, 0)


def test_integers_as_times(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/events.db", "integer")
    database.insert("1, 1, '10', 'SAVE', 1772323200, null")
    config = database.config(tmp_path, time_unit="s")
    stage(config)
    database.engine.dispose()

    assert [event.event_timestamp for event in staged(config)] == [at("2026-03-01")]


@pytest.mark.postgres
def test_a_session_of_other_habits_reads_the_same(postgres: Database, tmp_path: Path) -> None:
    postgres.insert(GOOD)
    name = sa.make_url(postgres.url).database
    postgres.execute(f"alter database {name} set datestyle = 'SQL, DMY'")
    postgres.execute(f"alter database {name} set timezone = 'Asia/Tokyo'")
    postgres.engine.dispose()
    postgres.execute("update events set event_timestamp = '2026-03-04 09:00:00+09'")
    config = postgres.config(tmp_path)
    stage(config)

    assert [event.event_timestamp for event in staged(config)] == [at("2026-03-04")]


@pytest.mark.postgres
def test_infinity_is_after_the_latest_time(postgres: Database, tmp_path: Path) -> None:
    postgres.insert("1, 1, '10', 'SAVE', 'infinity', null")

    assert stage(postgres.config(tmp_path)).refused == {"event_timestamp is after events.latest": 1}


@pytest.mark.postgres
def test_a_table_of_a_schema(postgres: Database, tmp_path: Path) -> None:
    postgres.insert(GOOD)
    postgres.execute("create schema shop")
    postgres.execute("alter table events set schema shop")

    assert stage(postgres.config(tmp_path, table="shop.events")).rows_out == 1


@pytest.mark.postgres
def test_the_cursor_stays_on_the_server(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two chunks the server holds the cursor open; the client has seen the chunk only."""
    postgres.execute(
        "insert into events select n, n, n, 'SAVE', '2026-03-01' from generate_series(1, 1000) n"
    )
    monkeypatch.setattr(sql_source, "ROWS_AT_ONCE", 10)
    with postgres.engine.connect() as connection:
        parts = sql_source.chunks(connection, sa.select(sa.table("events", sa.column("seq"))))
        first = next(parts)
        raw: Any = connection.connection.cursor()
        raw.execute("select statement from pg_cursors")
        ((statement,),) = raw.fetchall()
        assert statement.startswith("DECLARE")
        assert len(first) == 10
        assert sum(len(part) for part in parts) == 990


@pytest.mark.postgres
@pytest.mark.parametrize("unit", ["timestamp", "ms"])
def test_a_time_of_the_wrong_unit(postgres: Database, tmp_path: Path, unit: str) -> None:
    if unit == "timestamp":
        postgres.execute("alter table events drop column event_timestamp")
        postgres.execute("alter table events add column event_timestamp bigint")

    with pytest.raises(
        InputError, match=rf"events\.columns\.event_timestamp: time_unit {unit} expects"
    ):
        stage(postgres.config(tmp_path, time_unit=unit))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            {"table": "clicks"},
            r"events\.table: expected a table of .*, got \'clicks\'; .* there are: events",
        ),
        (
            {"columns": {"member_id": "who"}},
            r"events\.columns\.member_id: expected a column 'who' in events in .*, which has: seq",
        ),
        ({"incremental_column": "id"}, r"events\.incremental_column: expected a column 'id'"),
    ],
)
def test_what_is_not_there(
    database: Database, tmp_path: Path, events: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stage(database.config(tmp_path, **events))


def test_a_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    config = configure(
        tmp_path, events={"source": f"sqlite:///{tmp_path}/none.db", "table": "events"}
    )

    with pytest.raises(InputError, match=r"events\.source: expected a SQLite file, found none at"):
        stage(config)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("source", ["nosql://:geheim@host/db", "postgresql+none://u:geheim@h/d"])
def test_a_url_of_no_known_kind(tmp_path: Path, source: str) -> None:
    config = configure(tmp_path, events={"source": source, "table": "events"})

    with pytest.raises(InputError, match=r"events\.source: expected a SQLAlchemy URL") as error:
        stage(config)
    assert "geheim" not in str(error.value)


class TestPasswords:
    """A password is neither shown nor kept."""

    @pytest.mark.postgres
    def test_is_in_no_message(self, postgres: Database, tmp_path: Path) -> None:
        url = sa.make_url(postgres.url).set(
            username="nobody", password="geheim", host="127.0.0.1", port=1
        )
        config = postgres.config(tmp_path, source=url.render_as_string(hide_password=False))

        with pytest.raises(
            RunFailedError, match=r"reading events in .*nobody:\*\*\*@.* failed"
        ) as (error):
            stage(config)
        assert "geheim" not in str(error.value)
        assert error.value.__cause__ is None

    def test_may_come_from_the_environment(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database.insert(GOOD)
        monkeypatch.setenv("EVENTS_URL", database.url.split("://")[1])
        scheme = database.url.split("://")[0]
        config = database.config(tmp_path, source=f"{scheme}://${{EVENTS_URL}}")

        assert stage(config).rows_out == 1
        assert database.url not in _all_text(config.data)

    def test_a_variable_that_is_not_set(self, tmp_path: Path) -> None:
        config = configure(
            tmp_path,
            events={"source": "postgresql://${NO_SUCH_VARIABLE}@host/db", "table": "events"},
        )

        with pytest.raises(InputError, match="expected the environment variable NO_SUCH_VARIABLE"):
            stage(config)


def _all_text(folder: Path) -> str:
    files = (path for path in folder.rglob("*") if path.is_file())
    return "\n".join(path.read_text(errors="replace") for path in files)
