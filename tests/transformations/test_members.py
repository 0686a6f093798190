"""`members`: a source of profiles, typed; what is refused lies in quarantine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tests.worlds.events import AS_OF, DAY, configure
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition_files
from transformations.sources import stage_members
from transformations.stats.columns import profile_columns

HEAD = "user,Years of work,Field,since"


def config_of(folder: Path, **members: Any) -> Config:
    settings = {
        "source": str(folder / "people.csv"),
        "id": "user",
        "numeric": ["Years of work"],
        "categorical": ["Field"],
        "available_at": "since",
    }
    return configure(folder, members={k: v for k, v in (settings | members).items() if v})


def staged(config: Config, as_of: datetime = AS_OF) -> tuple[list[dict[str, Any]], dict[str, int]]:
    with connect(config) as con:
        report = stage_members(config, con, as_of)
    rows = pq.read_table(config.layout.members).to_pylist()
    assert report.rows_out == len(rows)
    return rows, report.refused


def refused(config: Config) -> list[dict[str, Any]]:
    files = partition_files(config.layout.quarantine)
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def write(folder: Path, *lines: str) -> None:
    (folder / "people.csv").write_text("\n".join([HEAD, *lines]) + "\n")


def test_rows_are_typed_and_the_rest_is_in_quarantine(tmp_path: Path) -> None:
    write(
        tmp_path,
        "1,3.5,law,2026-03-01",
        "1,4,law,2026-03-05 12:00:00",
        "2,, ,2026-03-01",
        "3,9,art,2026-03-11",  # later than as_of
        ",1,law,2026-03-01",
        "x,1,law,2026-03-01",
        "4,many,law,2026-03-01",
        "5,1,law,soon",
    )
    config = config_of(tmp_path)
    assert profile_columns(config) == {"years_of_work": "number", "field": "category"}
    rows, reasons = staged(config)
    first = datetime(2026, 3, 1, tzinfo=UTC)
    names = ("member_id", "available_at", "years_of_work", "field")
    assert rows == [
        dict(zip(names, values, strict=True))
        for values in (
            (1, first, 3.5, "law"),
            (1, datetime(2026, 3, 5, 12, tzinfo=UTC), 4.0, "law"),
            (2, first, None, None),
        )
    ]
    assert reasons == {
        "attribute years_of_work is not a number": 1,
        "available_at is null or cannot be read": 1,
        "member_id is not of the id type": 1,
        "member_id is null": 1,
    }
    (row,) = [row for row in refused(config) if row["member_id"] == "4"]
    assert row["attributes"] == '{"years_of_work":"many","field":"law"}'
    assert row["source"] == "members: people.csv"
    again, _ = staged(config, AS_OF + 2 * DAY)
    assert [row["member_id"] for row in again] == [1, 1, 2, 3]
    assert len(refused(config)) == 4  # read twice, kept once


def test_equal_rows_are_one_and_without_a_time_all_are_known(tmp_path: Path) -> None:
    write(tmp_path, "1,3,law,", "1,2,law,", "1,3,law,")
    rows, _ = staged(config_of(tmp_path, available_at=None))
    (row,) = rows
    assert row["years_of_work"] == 2
    assert row["available_at"] == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_line_that_is_no_csv(tmp_path: Path) -> None:
    write(tmp_path, "1,3,law,2026-03-01", "2,3,law,2026-03-01,more,and,more")
    config = config_of(tmp_path)
    _, reasons = staged(config)
    assert reasons == {"line is malformed": 1}
    assert refused(config)[0]["line"] == "2,3,law,2026-03-01,more,and,more"


def test_parquet_and_a_table_of_a_database_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "people.parquet"
    columns: dict[str, list[Any]] = {"user": [1, 2], "age": [30, None], "field": ["law", None]}
    pq.write_table(pa.table(columns), file)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/people.db")
    with engine.begin() as connection:
        connection.execute(sa.text("create table people (user integer, age real, field text)"))
        connection.execute(sa.text("insert into people values (1, 30, 'law'), (2, null, null)"))
    engine.dispose()
    common = {"numeric": ["age"], "categorical": ["field"], "available_at": None}
    database = {"source": f"sqlite:///{tmp_path}/people.db", "table": "people"}
    found = [
        staged(config_of(tmp_path, **common, **source))[0]
        for source in ({"source": str(file)}, database)
    ]
    assert found[0] == found[1]
    assert [row["age"] for row in found[0]] == [30.0, None]


def test_no_usable_row_at_all_fails(tmp_path: Path) -> None:
    write(tmp_path, "x,1,law,2026-03-01")
    with pytest.raises(RunFailedError, match="none of the 1 members"):
        staged(config_of(tmp_path))


def test_a_missing_column_and_a_list_are_said(tmp_path: Path) -> None:
    write(tmp_path, "1,1,law,2026-03-01")
    with pytest.raises(InputError, match=r"members\.numeric\.0.*'age'"):
        staged(config_of(tmp_path, numeric=["age"]))
    file = tmp_path / "people.parquet"
    pq.write_table(pa.table({"user": [1], "skills": [["a", "b"]]}), file)
    lists = {"numeric": [], "categorical": ["skills"], "available_at": None, "source": str(file)}
    with pytest.raises(InputError, match="expected one number or text in column 'skills'"):
        staged(config_of(tmp_path, **lists))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"numeric": ["age"]}, "expected `source`"),
        ({"source": "a.csv"}, "at least one column"),
        ({"source": "a.csv", "numeric": ["Age", "age"]}, "each once"),
        ({"source": "a.csv", "numeric": ["member_id"]}, "'member_id', which is taken"),
        ({"source": "a.csv", "categorical": ["is_y"]}, "stores drop"),
        ({"source": "sqlite:///a.db", "numeric": ["age"]}, "needs `table`"),
        ({"time_zone": "zone"}, "expected `source`"),
        (
            {"source": "a.csv", "categorical": ["field"], "time_zone": "zone"},
            r"expected a column of `categorical` \(field\), got 'zone'",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, members: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        configure(tmp_path, members=members)
