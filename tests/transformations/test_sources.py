"""stage_activity and stage_items: files in, typed days and quarantine out."""

import gzip
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.events import (
    AS_OF,
    DAY,
    MICROSECOND,
    Event,
    at,
    configure,
    distinct,
    event_logs,
    read_activity,
    write_source,
)
from transformations import read_so_far as state
from transformations.buckets import bucket_of
from transformations.config import Config
from transformations.duck import TableReport, check, connect
from transformations.errors import InputError, RunFailedError
from transformations.seals import MANIFEST
from transformations.sources import stage_activity, stage_items

EARLY = "event_timestamp is before events.earliest"
LATE = "event_timestamp is after events.latest"

HEADER = "member_id,item_id,action,event_timestamp,ingested_at"
COLUMNS = {"ingested_at": "ingested_at"}


def from_files(folder: Path, source: str = "source", **settings: Any) -> Config:
    """Configure a source in `folder`; every share of refused rows is allowed unless set."""
    events: dict[str, Any] = {"max_refused_share": 1, "columns": COLUMNS}
    events |= settings.pop("events", {})
    return configure(folder, events=events | {"source": str(folder / source)}, **settings)


def stage(config: Config, as_of: datetime = AS_OF) -> TableReport:
    """Stage once, on a new connection."""
    with connect(config) as con:
        return stage_activity(config, con, as_of)


def staged(config: Config) -> list[Event]:
    """All of `activity`, day after day."""
    return [event for rows in read_activity(config).values() for event in rows]


def quarantined(config: Config) -> list[dict[str, Any]]:
    """All of `quarantine`."""
    files = sorted(config.layout.quarantine.glob("period=*/*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def write_csv(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def log(count: int, day: datetime = AS_OF - DAY) -> list[Event]:
    """Distinct good events of one day."""
    return [Event(n % 7, n, "APPLY", day + n * MICROSECOND, day) for n in range(count)]


class TestFiles:
    """Where the rows come from, and into which days they go."""

    def test_one_partition_a_day_in_order(self, tmp_path: Path) -> None:
        events = [
            Event(2, 10, "SAVE", at("2026-03-01 23:59:59.999999")),
            Event(1, 20, "APPLY", at("2026-03-02 00:00")),
            Event(1, 30, "APPLY", at("2026-03-01 08:00"), at("2026-03-05 01:00")),
            Event(1, 10, "APPLY", at("2026-03-01 08:00")),
        ]
        write_source(tmp_path / "source.parquet", events)

        config = from_files(tmp_path, "source.parquet")
        report = stage(config)

        assert report == TableReport("stg_activity", 4, 4, {}, written=("2026-03-01", "2026-03-02"))
        assert read_activity(config) == {
            at("2026-03-01").date(): [events[3], events[2], events[0]],
            at("2026-03-02").date(): [events[1]],
        }

    def test_columns_and_their_types(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source.parquet", log(1))
        config = from_files(tmp_path, "source.parquet", id_type="string")
        stage(config)

        (file,) = config.layout.activity.glob("*/*.parquet")
        assert {field.name: str(field.type) for field in pq.read_schema(file)} == {
            "member_id": "string",
            "item_id": "string",
            "action": "string",
            "event_timestamp": "timestamp[us, tz=UTC]",
            "ingested_at": "timestamp[us, tz=UTC]",
        }

    def test_a_folder_of_any_depth_and_both_kinds(self, tmp_path: Path) -> None:
        events = log(6)
        write_source(tmp_path / "source" / "date=2026-03-09" / "a.parquet", events[:2])
        write_source(tmp_path / "source" / "b.parquet", events[2:4])
        lines = [",".join(map(str, event)) for event in events[4:]]
        write_csv(tmp_path / "source" / "more" / "c.csv", lines[0])
        with gzip.open(tmp_path / "source" / "more" / "d.csv.gz", "wt") as file:
            file.write(f"{HEADER}\n{lines[1]}\n")
        (tmp_path / "source" / "_SUCCESS").write_text("")
        (tmp_path / "source" / ".hidden.csv").write_text("nothing,of,ours\n")

        config = from_files(tmp_path)
        report = stage(config)

        assert (report.rows_in, report.refused) == (6, {})
        assert staged(config) == distinct(events)

    def test_files_with_columns_of_other_names_types_and_orders(self, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        timestamps = [datetime(2026, 3, 8), datetime(2026, 3, 9)]
        pq.write_table(
            pa.table({"who": ["1"], "what": [2.0], "did": ["SAVE"], "when": [timestamps[0]]}),
            tmp_path / "source" / "a.parquet",
        )
        pq.write_table(
            pa.table({"when": [timestamps[1]], "did": ["SAVE"], "what": [2], "who": [3], "x": [0]}),
            tmp_path / "source" / "b.parquet",
        )
        names = {"member_id": "who", "item_id": "what", "action": "did", "event_timestamp": "when"}
        config = from_files(tmp_path, events={"columns": names})
        stage(config)

        assert staged(config) == [
            Event(1, 2, "SAVE", at("2026-03-08")),
            Event(3, 2, "SAVE", at("2026-03-09")),
        ]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_csv_of_any_usual_delimiter(self, tmp_path: Path, delimiter: str) -> None:
        line = delimiter.join(["1", "2", "SAVE", "2026-03-01", '"2026-03-02"'])
        header = "\ufeff" + HEADER.replace(",", delimiter)
        write_csv(tmp_path / "source.csv", line, header=header)
        config = from_files(tmp_path, "source.csv")
        report = stage(config)

        assert report.refused == {}
        assert staged(config) == [Event(1, 2, "SAVE", at("2026-03-01"), at("2026-03-02"))]

    def test_lines_may_end_like_on_windows(self, tmp_path: Path) -> None:
        (tmp_path / "source.csv").write_bytes(f"{HEADER}\r\n1,2,SAVE,2026-03-01,\r\n".encode())
        config = from_files(tmp_path, "source.csv")
        report = stage(config)

        assert report.refused == {}
        assert staged(config) == [Event(1, 2, "SAVE", at("2026-03-01"))]


class TestValues:
    """What counts as an id and as a time."""

    @pytest.mark.parametrize(
        ("text", "id_type", "expected"),
        [
            ("12", "int64", 12),
            (" 12 ", "int64", 12),
            ("-12", "int64", -12),
            ("12.0", "int64", 12),
            ("9223372036854775807", "int64", 2**63 - 1),
            ("9007199254740993.0", "int64", 2**53 + 1),
            ("9223372036854775808", "int64", "member_id is not of the id type"),
            ("12.5", "int64", "member_id is not of the id type"),
            ("1e3", "int64", "member_id is not of the id type"),
            ("0x10", "int64", "member_id is not of the id type"),
            ("nan", "int64", "member_id is not of the id type"),
            ("1_000", "int64", "member_id is not of the id type"),
            ("", "int64", "member_id is null"),
            ('"  "', "int64", "member_id is null"),
            ("0012", "string", "0012"),
            ("日本", "string", "日本"),
            ('"a,""b"', "string", 'a,"b'),
            ("", "string", "member_id is null"),
            ('" "', "string", "member_id is null"),
        ],
    )
    def test_ids_as_text(
        self, tmp_path: Path, text: str, id_type: str, expected: int | str
    ) -> None:
        write_csv(tmp_path / "source.csv", f"{text},1,SAVE,2026-03-01,")
        config = from_files(tmp_path, "source.csv", id_type=id_type)
        report = stage(config)

        found = [event.member_id for event in staged(config)] or list(report.refused)
        assert found == [expected]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (pa.array([12.0, None, 0.5, 2.0**53 - 1, 2.0**53, float("nan")]), [12, 2**53 - 1]),
            (pa.array([2**63 - 1, 2**63], pa.uint64()), [2**63 - 1]),
            (pa.array([True, False]), InputError),
            (pa.array([datetime(2026, 3, 1)]), InputError),
        ],
    )
    def test_ids_of_other_types(
        self, tmp_path: Path, values: pa.Array, expected: list[int] | type[InputError]
    ) -> None:
        good = write_source(tmp_path / "source.parquet", log(len(values)))
        data = pq.read_table(good).set_column(0, "member_id", values)
        pq.write_table(data, good)
        config = from_files(tmp_path, "source.parquet")
        if expected is InputError:
            with pytest.raises(InputError, match=r"events\.columns\.member_id: expected integers"):
                stage(config)
            return
        stage(config)
        assert [event.member_id for event in staged(config)] == expected

    @pytest.mark.parametrize(
        ("text", "unit", "expected"),
        [
            ("2026-03-01", "timestamp", at("2026-03-01")),
            ("2026-03-01 10:00", "timestamp", at("2026-03-01 10:00")),
            ("2026-03-01T10:00:00Z", "timestamp", at("2026-03-01 10:00")),
            ("2026-03-01T01:00:00+02:00", "timestamp", at("2026-02-28 23:00")),
            ("2026-03-01 10:00:00.1234569", "timestamp", at("2026-03-01 10:00:00.123456")),
            ("1772323200", "timestamp", "event_timestamp cannot be read"),
            ("2026-02-30", "timestamp", "event_timestamp cannot be read"),
            ("yesterday", "timestamp", "event_timestamp cannot be read"),
            ("", "timestamp", "event_timestamp cannot be read"),
            ("1989-12-31 23:59:59.999999", "timestamp", EARLY),
            ("1990-01-01", "timestamp", at("1990-01-01")),
            ("2026-03-11", "timestamp", at("2026-03-11")),
            ("2026-03-11 00:00:00.000001", "timestamp", "event_timestamp is in the future"),
            ("2027-03-10", "timestamp", "event_timestamp is in the future"),
            ("2027-03-10 00:00:00.000001", "timestamp", LATE),
            ("infinity", "timestamp", LATE),
            ("1772323200", "s", at("2026-03-01")),
            ("1772323200.0", "s", at("2026-03-01")),
            ("1772323200001", "ms", at("2026-03-01 00:00:00.001")),
            ("1772323200000001", "us", at("2026-03-01 00:00:00.000001")),
            ("1772323200000001999", "ns", at("2026-03-01 00:00:00.000001")),
            ("1772323200.5", "s", "event_timestamp cannot be read"),
            ("2026-03-01", "s", "event_timestamp cannot be read"),
            ("-1", "ns", EARLY),
            ("0", "s", EARLY),
            ("1772323200", "ms", EARLY),
            ("1772323200", "us", EARLY),
            ("1772323200000", "us", EARLY),
            ("1772323200000000", "ns", EARLY),
            ("1772323200000", "ns", EARLY),
            ("1772323200000", "s", LATE),
            ("9223372036854775807", "s", LATE),
        ],
    )
    def test_times_as_text(
        self, tmp_path: Path, text: str, unit: str, expected: datetime | str
    ) -> None:
        write_csv(tmp_path / "source.csv", f"1,1,SAVE,{text},")
        config = from_files(tmp_path, "source.csv", events={"time_unit": unit})
        report = stage(config)

        found = [event.event_timestamp for event in staged(config)] or list(report.refused)
        assert found == [expected]

    @pytest.mark.parametrize(
        ("values", "unit", "expected"),
        [
            (pa.array([datetime(2026, 3, 1, 5)], pa.timestamp("ns")), "timestamp", 5),
            (pa.array([datetime(2026, 3, 1, 5)], pa.timestamp("ms")), "timestamp", 5),
            (pa.array([datetime(2026, 3, 1, 5)], pa.timestamp("s")), "timestamp", 5),
            (pa.array([datetime(2026, 3, 1, 5)], pa.timestamp("ns", "UTC")), "timestamp", 5),
            (pa.array([datetime(2026, 3, 1)], pa.date32()), "timestamp", 0),
            (pa.array([1772341200]), "s", 5),
            (pa.array([1772341200.0]), "s", 5),
            (pa.array([1772341200], pa.uint32()), "s", 5),
        ],
    )
    def test_times_of_other_types(
        self, tmp_path: Path, values: pa.Array, unit: str, expected: int
    ) -> None:
        good = write_source(tmp_path / "source.parquet", log(1))
        pq.write_table(pq.read_table(good).set_column(3, "event_timestamp", values), good)
        config = from_files(tmp_path, "source.parquet", events={"time_unit": unit, "columns": {}})
        stage(config)

        assert [e.event_timestamp for e in staged(config)] == [at(f"2026-03-01 {expected:02}:00")]

    def test_nanoseconds_do_not_round_up(self, tmp_path: Path) -> None:
        good = write_source(tmp_path / "source.parquet", log(1))
        values = pa.array([1772323200_000_001_999], pa.timestamp("ns"))
        pq.write_table(pq.read_table(good).set_column(3, "event_timestamp", values), good)
        config = from_files(tmp_path, "source.parquet")
        stage(config)

        assert [e.event_timestamp for e in staged(config)] == [at("2026-03-01 00:00:00.000001")]


@pytest.mark.parametrize(
    ("unit", "zeros", "said"),
    [
        ("ms", "", r"so early are mostly integers of a larger unit .* is ms: .* January 1970"),
        ("s", "000", r"so late are mostly integers of a smaller unit .* is s: .* far year"),
    ],
)
def test_another_unit_is_noticed(tmp_path: Path, unit: str, zeros: str, said: str) -> None:
    write_csv(tmp_path / "source.csv", *(f"{n},1,SAVE,177232320{n}{zeros}," for n in range(5)))
    config = from_files(tmp_path, "source.csv", events={"time_unit": unit, "max_refused_share": 0})
    with pytest.raises(RunFailedError, match=said):
        stage(config)


def test_the_earliest_time_is_the_users(tmp_path: Path) -> None:
    rows = ("1,1,SAVE,1985-05-05,", "2,1,SAVE,2026-03-01,1985-05-05", "3,1,SAVE,2026-03-01,")
    write_csv(tmp_path / "source.csv", *rows)
    refused = stage(from_files(tmp_path, "source.csv")).refused
    assert refused == {EARLY: 1, "ingested_at is before events.earliest": 1}
    old = from_files(tmp_path, "source.csv", events={"earliest": date(1980, 1, 1)})
    assert stage(old).refused == {}


def test_the_latest_time_is_the_users(tmp_path: Path) -> None:
    write_csv(tmp_path / "source.csv", "1,1,SAVE,2026-03-13,", "2,1,SAVE,2026-03-01,2026-03-13")
    short = from_files(tmp_path, "source.csv", events={"latest": "2d"})
    assert stage(short).refused == {LATE: 1, "ingested_at is after events.latest": 1}
    assert stage(short, AS_OF + DAY).rows_out == 0
    assert stage(short, AS_OF + 2 * DAY).rows_out == 1  # its time has come
    long = from_files(tmp_path, "source.csv")
    assert stage(long).refused == {"event_timestamp is in the future": 1}


class TestRefused:
    """Unusable rows go to quarantine, with their raw values and a reason."""

    def test_every_reason(self, tmp_path: Path) -> None:
        write_csv(
            tmp_path / "source.csv",
            ",2,SAVE,2026-03-01,",
            "x,2,SAVE,2026-03-01,",
            "1,,SAVE,2026-03-01,",
            "1,2.5,SAVE,2026-03-01,",
            "1,2,VIEW,2026-03-01,",
            "1,2,,2026-03-01,",
            "1,2,SAVE,soon,",
            "1,2,SAVE,1969-12-31,",
            "1,2,SAVE,2026-03-12,",
            "1,2,SAVE,2026-03-01,never",
            "1,2,SAVE",
            "1,2,SAVE,2026-03-01,,more",
            "1,2,SAVE,2026-03-01,2026-03-02",
        )
        config = from_files(tmp_path, "source.csv")
        report = stage(config)

        assert (report.rows_in, report.rows_out) == (13, 1)
        assert report.refused == {
            "action is unknown": 2,
            "event_timestamp cannot be read": 1,
            "event_timestamp is before events.earliest": 1,
            "event_timestamp is in the future": 1,
            "ingested_at cannot be read": 1,
            "item_id is not of the id type": 1,
            "item_id is null": 1,
            "line is malformed": 2,
            "member_id is not of the id type": 1,
            "member_id is null": 1,
        }
        rows = quarantined(config)
        assert {row["source"] for row in rows} == {"source.csv"}
        assert [tuple(row.values()) for row in rows if "ingested" in row["reason"]] == [
            (
                *("1", "2", "SAVE", "2026-03-01", "never", None, None, None),
                *("ingested_at cannot be read", "source.csv"),
            )
        ]
        assert {row["line"] for row in rows} == {None, "1,2,SAVE", "1,2,SAVE,2026-03-01,,more"}

    def test_a_quote_that_is_never_closed_is_kept_as_it_came(self, tmp_path: Path) -> None:
        write_csv(
            tmp_path / "source.csv",
            "1,2,SAVE,2026-03-01,",
            '3,"4,SAVE,2026-03-01,',
            "5,6,SAVE,2026-03-01,",
        )
        config = from_files(tmp_path, "source.csv")
        report = stage(config)

        assert report.refused == {"line is malformed": 1}
        assert [event.member_id for event in staged(config)] == [1]
        assert '3,"4,SAVE' in quarantined(config)[0]["line"]

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "source.csv").write_bytes(
            f"{HEADER}\n1,2,SAVE,2026-03-01,\n3,\xff,SAVE,2026-03-01,\n".encode("latin-1")
        )
        config = from_files(tmp_path, "source.csv")
        report = stage(config)

        assert report.refused == {"line is malformed": 1}
        assert [event.member_id for event in staged(config)] == [1]

    def test_the_source_is_named_within_its_folder(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "source" / "a" / "b.csv", "x,1,SAVE,2026-03-01,", "1")
        config = from_files(tmp_path)
        stage(config)

        assert [row["source"] for row in quarantined(config)] == ["a/b.csv", "a/b.csv"]

    def test_alike_rows_of_a_file_each_count_but_only_once_each(self, tmp_path: Path) -> None:
        bad, broken, good = "x,1,SAVE,2026-03-01,", "1", "1,1,SAVE,2026-03-01,"
        file = write_csv(tmp_path / "source" / "a.csv", bad, bad, broken, broken, good)
        write_csv(tmp_path / "source" / "b.csv", bad)
        config = from_files(tmp_path)

        stage(config)
        first = Counter(row["source"] for row in quarantined(config))
        stage(config)
        _forget(config)
        stage(config, AS_OF + DAY)
        again = Counter(row["source"] for row in quarantined(config))
        with file.open("a") as more:
            more.write(f"{bad}\n{bad}\n")
        stage(config, AS_OF + DAY)

        assert first == again == {"a.csv": 4, "b.csv": 1}
        assert Counter(row["source"] for row in quarantined(config)) == {"a.csv": 6, "b.csv": 1}
        # What was added later lies under the day of that run.
        later = config.layout.quarantine / "period=2026-03-11" / "part-0.parquet"
        assert pq.read_metadata(later).num_rows == 2

    def test_too_many_fail_the_run_before_anything_changes(self, tmp_path: Path) -> None:
        lines = [f"{n},1,SAVE,2026-03-01," for n in range(90)]
        write_csv(tmp_path / "source" / "a.csv", *lines)
        config = from_files(tmp_path, events={"max_refused_share": 0.1})
        stage(config)
        before = _files(config.layout.activity)
        new = [f"{n},2,SAVE,2026-03-01," for n in range(89)]
        write_csv(tmp_path / "source" / "b.csv", *["x,1,SAVE,2026-03-01,"] * 11, *new)

        for _ in range(2):  # and fails again until it is mended
            with pytest.raises(RunFailedError, match=r"11 of the 100 rows.*10\.0%.*id type: 11"):
                stage(config)

        assert _files(config.layout.activity) == before
        assert len(quarantined(config)) == 11

    def test_as_many_as_allowed_do_not(self, tmp_path: Path) -> None:
        lines = [f"{n},1,SAVE,2026-03-01," for n in range(90)]
        write_csv(tmp_path / "source.csv", *lines, *["x,1,SAVE,2026-03-01,"] * 10)
        config = from_files(tmp_path, "source.csv", events={"max_refused_share": 0.1})

        assert stage(config).rows_out == 90

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_a_row_from_the_future_is_taken_up_when_its_time_has_come(
        self, tmp_path: Path, suffix: str
    ) -> None:
        early = Event(1, 2, "SAVE", AS_OF + 2 * DAY, AS_OF)
        if suffix == "csv":
            write_csv(tmp_path / "source.csv", ",".join(map(str, early)))
        else:
            write_source(tmp_path / "source.parquet", [early])
        config = from_files(tmp_path, f"source.{suffix}")

        reports = [stage(config, AS_OF + n * DAY) for n in range(3)]

        assert [report.refused for report in reports] == [
            {"event_timestamp is in the future": 1},
            {},
            {},
        ]
        assert [report.rows_out for report in reports] == [0, 1, 0]
        assert staged(config) == [early]
        assert len(quarantined(config)) == 1

    def test_the_checks_find_what_may_not_be(self, tmp_path: Path) -> None:
        with connect(from_files(tmp_path)) as con:
            con.execute(
                "create view quarantine as select null as reason, 'f' as source, 1 as "
                "member_id, 1 as item_id, 1 as action, 1 as event_timestamp, null as line"
            )
            with pytest.raises(RunFailedError, match=r"quarantine.*\n.*reason is not null"):
                check(con, "quarantine", {})
            con.execute(
                "create view good as select 1 as member_id, 2 as item_id, 'SAVE' as action,"
                " timestamptz '2026-03-01 10:00' as event_timestamp"
            )
            for rule, query in {
                "are unique": "from good union all from good",
                "ids are not null": "select * replace (null as item_id) from good",
                "action is not null": "select * replace (null as action) from good",
                "is since 1970": "select * replace (timestamptz '1969-01-01' as "
                "event_timestamp) from good",
                "lies in the period": "select * replace (timestamptz '2026-03-02' as "
                "event_timestamp) from good",
                "lies in the bucket": "from good",
            }.items():
                con.execute(f"create or replace view activity_of_period as {query}")
                start = {"period": "day", "start": at("2026-03-01").date()}
                buckets = (
                    {"bucket": (bucket_of(1, 4) + 1) % 4, "buckets": 4} if "bucket" in rule else {}
                )
                with pytest.raises(RunFailedError, match=f"stg_activity.*\n.*{rule}"):
                    check(con, "stg_activity", start | {"bucket": 0, "buckets": 1} | buckets)


class TestAgain:
    """Reading again changes nothing; what changes is rewritten and nothing else."""

    def test_an_unchanged_source_is_not_read_again(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source.parquet", log(5))
        config = from_files(tmp_path, "source.parquet")
        stage(config)
        before = _files(config.layout.activity)

        assert stage(config) == TableReport("stg_activity", 0, 0)
        assert _files(config.layout.activity) == before

    def test_reading_it_again_all_the_same_changes_nothing(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source.parquet", log(5))
        config = from_files(tmp_path, "source.parquet")
        stage(config)
        before = _files(config.layout.activity)
        _forget(config)

        assert stage(config) == TableReport("stg_activity", 5, 0)
        assert _files(config.layout.activity) == before

    def test_a_late_row_rewrites_its_day_only(self, tmp_path: Path) -> None:
        days = [at(f"2026-03-0{n}") for n in (1, 2, 3)]
        write_source(tmp_path / "source" / "a.parquet", [e for day in days for e in log(3, day)])
        config = from_files(tmp_path)
        stage(config)
        before = _files(config.layout.activity)
        late = Event(9, 9, "DISMISS", days[1], AS_OF)
        write_source(tmp_path / "source" / "b.parquet", [late, *log(3, days[0])])

        report = stage(config)

        assert report == TableReport("stg_activity", 4, 1, {}, written=("2026-03-02",))
        after = _files(config.layout.activity)
        changed = {path for path in after if after[path] != before[path]}
        assert changed == {
            config.layout.activity / "period=2026-03-02" / name
            for name in ("part-0.parquet", MANIFEST)
        }
        assert late in staged(config)

    @pytest.mark.parametrize(
        ("known", "got", "kept"), [(2, 1, 1), (1, 2, 1), (None, 1, 1), (1, None, 1)]
    )
    def test_the_earliest_known_ingested_at_is_kept(
        self, tmp_path: Path, known: int | None, got: int | None, kept: int
    ) -> None:
        for name, hours in (("a", known), ("b", got)):
            time = None if hours is None else at(f"2026-03-05 0{hours}:00")
            write_source(
                tmp_path / "source" / f"{name}.parquet",
                [Event(1, 2, "SAVE", at("2026-03-01"), time)],
            )
            config = from_files(tmp_path)
            stage(config)

        assert [event.ingested_at for event in staged(config)] == [at(f"2026-03-05 0{kept}:00")]

    def test_a_file_that_grew_is_read(self, tmp_path: Path) -> None:
        file = write_csv(tmp_path / "source.csv", "1,2,SAVE,2026-03-01,")
        config = from_files(tmp_path, "source.csv")
        stage(config)
        with file.open("a") as more:
            more.write("1,3,SAVE,2026-03-01,\n")

        assert (stage(config).rows_out, len(staged(config))) == (1, 2)

    def test_other_settings_read_everything_again(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "source.csv", "1,2,VIEW,2026-03-01,", "1,2,SAVE,2026-03-01,")
        stage(from_files(tmp_path, "source.csv"))
        more = {"SAVE": "positive", "VIEW": "positive"}
        config = from_files(tmp_path, "source.csv", actions=more)

        assert (stage(config).rows_out, len(staged(config))) == (1, 2)

    def test_a_day_that_was_removed_is_made_again(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source.parquet", [*log(3), *log(3, AS_OF - 2 * DAY)])
        config = from_files(tmp_path, "source.parquet")
        stage(config)
        everything = staged(config)
        shutil.rmtree(config.layout.activity / "period=2026-03-08")

        assert stage(config).written == ("2026-03-08",)
        assert staged(config) == everything

    def test_a_run_that_was_killed_between_two_days_is_made_good(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = [AS_OF - n * DAY for n in (3, 2, 1)]
        write_source(tmp_path / "source.parquet", [e for day in days for e in log(3, day)])
        config = from_files(tmp_path, "source.parquet")
        original = Path.replace
        done = []

        def killed_at_the_second(path: Path, target: Path) -> Path:
            if "activity" in target.parts and target.suffix == ".parquet":
                done.append(target)
                if len(done) == 2:
                    raise KeyboardInterrupt
            return original(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed_at_the_second)
            with pytest.raises(KeyboardInterrupt):
                stage(config)
        assert len(state.periods(config)) == 1
        assert state.load(config) == state.ReadSoFar()

        assert stage(config).written == ("2026-03-08", "2026-03-09")
        assert len(staged(config)) == 9
        assert not list(config.data.rglob("*.tmp"))


class TestWrongInput:
    """Errors name the key, what was expected and what was got."""

    def test_a_missing_column(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source.parquet", log(1))
        columns = {"member_id": "user_id"}
        config = from_files(tmp_path, "source.parquet", events={"columns": columns})

        with pytest.raises(InputError) as error:
            stage(config)
        assert str(error.value) == (
            f"events.columns.member_id: expected a column 'user_id' in {tmp_path}/source.parquet, "
            "which has: member_id, item_id, action, event_timestamp, ingested_at"
        )

    @pytest.mark.parametrize(
        ("unit", "values", "message"),
        [
            ("timestamp", pa.array([1]), "expected timestamps or text.*BIGINT.*time_unit"),
            ("timestamp", pa.array([1.5]), "expected timestamps or text.*DOUBLE"),
            ("s", pa.array([AS_OF]), "time_unit s expects integers.*TIMESTAMP.*set.*timestamp"),
            ("ms", pa.array([AS_OF.date()]), "time_unit ms expects integers.*DATE"),
        ],
    )
    def test_a_time_of_the_wrong_unit(
        self, tmp_path: Path, unit: str, values: pa.Array, message: str
    ) -> None:
        good = write_source(tmp_path / "source.parquet", log(1))
        pq.write_table(pq.read_table(good).set_column(3, "event_timestamp", values), good)
        config = from_files(tmp_path, "source.parquet", events={"time_unit": unit, "columns": {}})

        with pytest.raises(InputError, match=rf"events\.columns\.event_timestamp: {message}"):
            stage(config)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("missing.parquet", None, r"events\.source: expected a file or a folder, found noth"),
            ("source.json", b"{}", r"events\.source: expected files that end in \.parquet, \.csv"),
            ("source.parquet", b"PAR0", "cannot be read as Parquet"),
            ("source.csv", b"", r"source\.csv: expected a header with the names of its columns"),
            ("source.csv", b"\xff\xfe", "cannot be read as CSV in UTF-8"),
            (
                "source.csv",
                b"member_id,member_id,b\n",
                "expected one column 'member_id' in .*, got",
            ),
        ],
    )
    def test_files_that_are_none(
        self, tmp_path: Path, name: str, content: bytes | None, message: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)

        with pytest.raises(InputError, match=message):
            stage(from_files(tmp_path, name))

    def test_a_file_that_is_damaged_further_down(self, tmp_path: Path) -> None:
        file = write_source(tmp_path / "source.parquet", log(1000))
        data = bytearray(file.read_bytes())
        data[40:400] = b"x" * 360
        file.write_bytes(data)

        with pytest.raises(RunFailedError, match=r"reading .*source\.parquet failed: "):
            stage(from_files(tmp_path, "source.parquet"))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()

        with pytest.raises(InputError, match=r"events\.source: expected files that end in"):
            stage(from_files(tmp_path))


class TestItems:
    """stage_items: vectors, or text and categories."""

    def staged(self, folder: Path, **items: Any) -> tuple[TableReport, list[dict[str, Any]]]:
        config = configure(folder, dim=2, items={"source": str(folder / "items.csv")} | items)
        with connect(config) as con:
            report = stage_items(config, con, AS_OF)
        table = pq.read_table(config.layout.staged_items)
        for name in ("available_until", "kind"):
            if name not in items:
                table = table.drop_columns(name)
        return report, table.to_pylist()

    def test_an_item_may_end(self, tmp_path: Path) -> None:
        write_csv(
            tmp_path / "items.csv",
            "1,Cook,2026-03-05",
            "2,Baker,",
            "3,Smith,soon",
            header="item_id,title,closed",
        )
        report, rows = self.staged(tmp_path, text=["title"], available_until="closed")
        assert [row["available_until"] for row in rows] == [at("2026-03-05"), None]
        assert report.refused == {"available_until cannot be read": 1}

    def test_text_and_categories(self, tmp_path: Path) -> None:
        write_csv(
            tmp_path / "items.csv",
            '2,"Nurse, night",care|health|,remote,2026-03-01',
            "1,Cook,,,2026-03-01",
            "1,Chef,food,,2026-03-02",
            "3,Later,,,2026-03-11",
            header="id,title,tags,place,posted",
        )
        report, rows = self.staged(
            tmp_path,
            item_id="id",
            text=["title", "place"],
            categories=["tags", "place"],
            available_at="posted",
        )

        assert [tuple(row.values()) for row in rows] == [
            (1, at("2026-03-01"), "Cook", []),
            (1, at("2026-03-02"), "Chef", ["tags=food"]),
            (
                *(2, at("2026-03-01"), "Nurse, night remote"),
                ["tags=care", "tags=health", "place=remote"],
            ),
        ]
        assert (report.rows_in, report.rows_out, report.refused) == (3, 3, {})

    def test_categories_as_lists(self, tmp_path: Path) -> None:
        pq.write_table(
            pa.table({"item_id": [1, 2], "tags": [["b", "a", None], None]}),
            tmp_path / "items.parquet",
        )
        _, rows = self.staged(tmp_path, source=str(tmp_path / "items.parquet"), categories=["tags"])

        assert [tuple(row.values()) for row in rows] == [
            (1, at("1970-01-01"), "", ["tags=b", "tags=a"]),
            (2, at("1970-01-01"), "", []),
        ]

    @pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
    def test_vectors(self, tmp_path: Path, kind: pa.DataType) -> None:
        vectors = [[1.0, 2.0], None, [1.0, float("nan")], [3.0, float("inf")], [0.5, -1.0]]
        pq.write_table(
            pa.table({"item_id": ["1", "2", "3", "4", "1"], "v": pa.array(vectors, kind)}),
            tmp_path / "items.parquet",
        )
        report, rows = self.staged(
            tmp_path,
            source=str(tmp_path / "items.parquet"),
            embedding="v",
        )

        # Of two rows for the same item and time the smaller is kept, in every run.
        assert [tuple(row.values()) for row in rows] == [
            (1, at("1970-01-01"), "", [], [[0.5, -1.0]])
        ]
        assert report.refused == {"embedding is no list of dim finite numbers": 3}

    def test_refused_items_are_counted(self, tmp_path: Path) -> None:
        write_csv(
            tmp_path / "items.csv",
            "1,Cook,2026-03-01",
            ",Cook,2026-03-01",
            "x,Cook,2026-03-01",
            "2,Cook,",
            "3",
            header="item_id,title,posted",
        )
        report, rows = self.staged(tmp_path, text=["title"], available_at="posted")

        assert len(rows) == report.rows_out == 1
        assert report.rows_in == 5
        assert report.refused == {
            "available_at is null or cannot be read": 1,
            "item_id is not of the id type": 1,
            "item_id is null": 1,
            "line is malformed": 1,
        }

    def test_all_refused_fails(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"item_id": [1], "v": [[1.0]]}), tmp_path / "items.parquet")

        with pytest.raises(RunFailedError, match=r"none of the 1 items.*list of dim.*: 1"):
            self.staged(
                tmp_path,
                source=str(tmp_path / "items.parquet"),
                embedding="v",
            )

    def test_a_missing_column(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "items.csv", "1", header="item_id")

        with pytest.raises(InputError, match=r"items\.text\.0: expected a column 'title' in .*csv"):
            self.staged(tmp_path, text=["title"])


def _forget(config: Config) -> None:
    """Make the next run read everything again."""
    (config.layout.state / "stg_activity.json").unlink()


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files below a folder, with what changes when one is rewritten, even with the same."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_split_into_files_and_runs_gives_the_same_activity(
    id_type: str, data: st.DataObject
) -> None:
    events = data.draw(event_logs(id_type, [AS_OF], 3 * DAY, max_size=25), label="events")
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=4).map(sorted), label="cuts")
    stops = data.draw(st.sets(st.integers(0, len(cuts))), label="stage after file")
    read_again = data.draw(st.booleans(), label="read everything again")
    parts: Sequence[list[Event]] = [
        events[start:end] for start, end in pairwise([0, *cuts, len(events)])
    ]
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = from_files(folder, id_type=id_type)
        for number, part in enumerate(parts):
            write_source(folder / "source" / f"{number}.parquet", part, id_type)
            if number in stops:
                stage(config)
        if read_again and stops:
            _forget(config)
        stage(config)

        accepted = [e for e in distinct(events) if e.event_timestamp <= AS_OF + DAY]
        days = sorted({event.event_timestamp.date() for event in accepted})
        assert read_activity(config) == {
            day: [e for e in accepted if e.event_timestamp.date() == day] for day in days
        }
        # The log ends a day after AS_OF, so that nothing of it is refused.
        assert accepted == distinct(events)
