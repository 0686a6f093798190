"""One id has one spelling from every source, and none that a store could choke on."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.recommend.service import Wanted
from serving.request.sequences import checked_ids
from serving.request.service import Question
from serving.stream.bus.messages import MessageError, decode
from tests.worlds.events import AS_OF, DAY, UTC_US, configure, read_activity
from transformations.config import Config
from transformations.duck import TableReport, connect
from transformations.errors import InputError
from transformations.ids import LONGEST, is_id, is_id_sql, spelled
from transformations.readers import id_expression
from transformations.sources import stage_activity

REFUSED = "member_id is not of the id type"
LARGE = "1000000000000000"  # as a double PostgreSQL writes it 1e+15, SQLite 1.0e+15
HUGE = "12345678901234567890123456789012345678"  # more than 64 bits

# What a column holds, as the database's type and literal, and its id where ids are strings.
OF_POSTGRES = [
    ("bigint", "42", "42"),
    ("numeric(12,2)", "42", "42"),
    ("numeric(12,2)", "42.5", None),
    ("numeric(38,0)", HUGE, HUGE),
    ("double precision", "42", "42"),
    ("double precision", "1e15", LARGE),
    ("double precision", "1e16", None),
    ("double precision", "'NaN'", None),
    ("real", "42", "42"),
    ("text", "'42.0'", "42.0"),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
]
OF_SQLITE = [
    ("integer", "42", "42"),
    ("real", "42", "42"),
    ("real", "1e15", LARGE),
    ("real", "42.5", None),
    ("numeric", "42.0", "42"),
    ("", "42.0", "42"),
    ("", "'42.0'", "42.0"),
    ("text", "42", "42"),
    ("blob", "x'3432'", "42"),
    ("blob", "x'ff'", None),
    ("text", "cast(x'ff41' as text)", None),
]
OF_PARQUET = [
    (pa.int16(), 42, "42"),
    (pa.float64(), 42.0, "42"),
    (pa.float32(), 42.0, "42"),
    (pa.float64(), 1e15, LARGE),
    (pa.float64(), 2.0**53 + 2, None),
    (pa.float64(), 42.5, None),
    (pa.float64(), 2.0**53, None),
    (pa.float32(), 2.0**24, None),
    (pa.uint64(), 2**64 - 1, str(2**64 - 1)),
    (pa.decimal128(12, 2), Decimal("42.00"), "42"),
    (pa.decimal128(12, 2), Decimal("42.50"), None),
    (pa.decimal128(38, 0), Decimal(HUGE), HUGE),
    (pa.decimal128(38, 2), Decimal(HUGE[:36]), HUGE[:36]),
    (pa.string(), "42.0", "42.0"),
    (pa.dictionary(pa.int8(), pa.string()), "42", "42"),
]


def stage(folder: Path, days: int = 0, **events: Any) -> tuple[TableReport, list[Any]]:
    """Stage a source of string ids; return the report and the members of `activity`."""
    defaults = {"max_refused_share": 1, "columns": {"ingested_at": None}}
    config = configure(folder, id_type="string", events=defaults | events)
    with connect(config) as con:
        report = stage_activity(config, con, AS_OF + days * DAY)
    return report, [event.member_id for rows in read_activity(config).values() for event in rows]


def expect(got: tuple[TableReport, list[Any]], member: str | None) -> None:
    report, members = got
    assert members == ([] if member is None else [member])
    assert report.refused == ({REFUSED: 1} if member is None else {})


def in_database(url: str, kind: str, value: str) -> None:
    engine = sa.create_engine(url)
    time = "timestamptz" if url.startswith("postgres") else "text"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"create table events (member_id {kind}, item_id text, action text, "
            f"event_timestamp {time})"
        )
        connection.exec_driver_sql(
            f"insert into events values ({value}, 'i', 'SAVE', '2026-03-01 10:00:00+00')"
        )
    engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize(("kind", "value", "member"), OF_POSTGRES)
def test_from_postgres(
    postgres_url: str, tmp_path: Path, kind: str, value: str, member: str | None
) -> None:
    in_database(postgres_url, kind, value)
    expect(stage(tmp_path, source=postgres_url, table="events"), member)


@pytest.mark.parametrize(("kind", "value", "member"), OF_SQLITE)
def test_from_sqlite(tmp_path: Path, kind: str, value: str, member: str | None) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    in_database(url, kind, value)
    expect(stage(tmp_path, source=url, table="events"), member)


def write_parquet(file: Path, kind: pa.DataType, value: Any, days: int = 0) -> None:
    columns = {
        "member_id": pa.array([value], kind),
        "item_id": pa.array(["i"]),
        "action": pa.array(["SAVE"]),
        "event_timestamp": pa.array([AS_OF + (days - 1) * DAY], UTC_US),
    }
    pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize(("kind", "value", "member"), OF_PARQUET)
def test_from_parquet(tmp_path: Path, kind: pa.DataType, value: Any, member: str | None) -> None:
    write_parquet(tmp_path / "events.parquet", kind, value)
    expect(stage(tmp_path, source=str(tmp_path / "events.parquet")), member)


@pytest.mark.parametrize(
    ("kind", "value", "member"), [row for row in OF_PARQUET if row[2] is not None]
)
def test_taken_up_again_from_quarantine(
    tmp_path: Path, kind: pa.DataType, value: Any, member: str
) -> None:
    write_parquet(tmp_path / "events.parquet", kind, value, days=3)
    source = str(tmp_path / "events.parquet")
    assert stage(tmp_path, source=source)[1] == []
    assert stage(tmp_path, days=2, source=source)[1] == [member]


NO_IDS = ["", " ", "\t\n", "\u2003", "a\0b", "\0", "a" * (LONGEST + 1), "ä" * 9_000]
IDS = [" a", "a\tb", "a" * LONGEST, "\N{MATHEMATICAL FRAKTUR CAPITAL U}" * LONGEST, "'[v2]'"]


@pytest.mark.parametrize("text", [*NO_IDS, *IDS])
def test_the_bound_is_the_same_in_batch_stream_and_at_request_time(
    tmp_path: Path, text: str
) -> None:
    config = configure(tmp_path, id_type="string")
    write_parquet(tmp_path / "events.parquet", pa.string(), text)
    _, batch = stage(tmp_path / "batch", source=str(tmp_path / "events.parquet"))
    message = {"schema": 1, "member_id": text, "item_id": "i", "action": "SAVE"}
    message["event_timestamp"] = "2026-03-01T10:00:00Z"
    try:
        streamed = [decode(config.rules, json.dumps(message).encode(), AS_OF).member_id]
    except MessageError:
        streamed = []
    try:
        asked = checked_ids(config.rules, "member", [text])
    except InputError:
        asked = []
    expected = [text] if text in IDS else []
    assert (batch, streamed) == (expected, expected)
    assert asked == ([text] if text in IDS or not text else [])
    assert asked_over_http(config, text) == expected


def asked_over_http(config: Config, text: str) -> list[str]:
    """What POST /embed, POST /recommend and the paths of members take, all of them or none."""
    taken = set()
    for model, body in (
        (Question, {"member_ids": [text]}),
        (Wanted, {"member_id": text}),
        (Wanted, {"member_id": "m", "leave_out": [text]}),
    ):
        try:
            read = model.model_validate(body)
            member = getattr(read, "leave_out", None) or getattr(read, "member_ids", None)
            taken.add(tuple(checked_ids(config.rules, "item", member or [read.member_id])))
        except (ValidationError, InputError):
            taken.add(())
    (one,) = taken
    return list(one)


@given(st.text(st.characters(codec="utf-8"), max_size=LONGEST + 2))
@example("\x1c\x85\u200b")
def test_python_and_sql_agree_on_what_an_id_is(text: str) -> None:
    (found,) = duckdb.execute(f"select {is_id_sql('$text')}", {"text": text}).fetchall()[0]
    assert found == is_id(text)


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_every_kind_of_whole_number_is_spelled_alike(number: int) -> None:
    assert {spelled(kind(number)) for kind in (int, float, Decimal, str)} == {str(number)}


@given(st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(2**64), 2**64))
@example(2**53)
@example(-(2**63))
def test_a_number_in_a_file_is_spelled_as_one_in_a_database(number: int) -> None:
    kinds = {"HUGEINT": number, "BIGINT": number if abs(number) < 2**63 else None}
    kinds |= {"UBIGINT": number if 0 <= number < 2**64 else None, "DECIMAL(38,0)": number}
    kinds |= {"DECIMAL(38,10)": number if abs(number) < 10**27 else None}
    kinds |= {"DOUBLE": number if float(number) == number else None}
    for kind, value in kinds.items():
        if value is not None:
            ids = id_expression("member_id", "id", kind, "string")
            query = f"select {ids} from (select ?::varchar::{kind} as id)"
            (got,) = duckdb.execute(query, [str(value)]).fetchall()[0]
            assert got == spelled(float(value) if kind == "DOUBLE" else value)
