"""What the files of a view hold is what a join and a materialization read, whatever it is called.

Each case writes a few files and asks both for what one member sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast import types as ft
from feast.data_format import ParquetFormat
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.asof.job import AsofRetrievalJob
from stores.bytes.values import encode_column
from stores.columnar import encode_rows
from stores.declared import declared_types
from stores.parquet import find_files, folder_keys
from stores.writing.newest import Columns, newest_batches, parquet_path
from tests.worlds.asof import PROJECT, Ours, config, registry

pytestmark = pytest.mark.usefixtures("both_stores")
AT = datetime(2026, 2, 3, 17, 45, tzinfo=UTC)
DAY = timedelta(days=1)
UTC_US = pa.timestamp("us", "UTC")
MEMBER = Entity(name="member", join_keys=["member"], value_type=ValueType.INT64)


def view(path: Path | str, features: Mapping[str, Any], **source: Any) -> FeatureView:
    fields = [Field(name="member", dtype=ft.Int64)]
    fields += [Field(name=name, dtype=dtype) for name, dtype in features.items()]
    file_source = FileSource(
        path=str(path),
        file_format=ParquetFormat(),
        **{"timestamp_field": "event_time", **source},
    )
    return FeatureView(name="rows", entities=[MEMBER], schema=fields, source=file_source)


def write(path: Path, member: Sequence[int] = (1,), **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    given_columns = {"member": member, "event_time": pa.array([AT] * len(member), UTC_US)}
    pq.write_table(pa.table(given_columns | columns), path)
    return path


def joined(
    folder: Path, of: FeatureView, labels: Any = None, at: Any = AT + DAY
) -> dict[str, list[Any]]:
    """What members 1 and 2 see, or the labels given."""
    if labels is None:
        labels = pd.DataFrame({"member": [1, 2], "event_timestamp": [at] * 2})
    job = Ours.kind.get_historical_features(
        config(folder),
        [of],
        [f"{of.name}:{field.name}" for field in of.features],
        labels,
        registry(folder),
        PROJECT,
    )
    assert isinstance(job, AsofRetrievalJob)
    return job.to_arrow().to_pydict()


def online(of: FeatureView, feature: str) -> dict[int, Any]:
    """What materialization writes: member → the value that every store gets."""
    path = parquet_path(of.batch_source, None)
    assert path is not None
    found = {}
    batches = newest_batches(
        path,
        Columns(["member"], [field.name for field in of.features], of.batch_source.timestamp_field,
                None),
        AT - 900 * DAY,
        AT + 900 * DAY,
        declared=declared_types(of),
        batch_rows=100,
        memory_limit="100MB",
        threads=1,
    )  # fmt: skip
    for batch in batches:
        encoded = vars(encode_rows(of, batch).features[feature])["values"]
        for member, value in zip(batch["member"].to_pylist(), encoded, strict=True):
            proto = Value.FromString(value)
            kind = proto.WhichOneof("val")
            got = None if kind is None else getattr(proto, kind)
            found[member] = list(got.val) if hasattr(got, "val") else got
    return found


# --- names ----------------------------------------------------------------------------------------

# DuckDB's names for a row's file and index, and those of our queries.
TAKEN = [
    "filename", "Filename", "FILE_ROW_NUMBER", "file_row_number", "file_index", "file", "FILE",
    "read", "Line", "label", "labels", "label_row", "rowid", "position", "key_0", "seen_at",
    "event_us", "column_0", "Column_1", "feature_0", "folder_0", "number", "__asof_row",
    "__ASOF_ROW", "__asof_id_0", "id_0", "asked", "picked", "narrow_0", "__row", "__files",
    "a'b", 'a"b', "a.b", "select", "é",
]  # fmt: skip


# DuckDB's names have no letter case, so one file has either spelling.
OTHER_SPELLINGS = [
    name for at, name in enumerate(TAKEN) if name.lower() in map(str.lower, TAKEN[:at])
]
FIRST_SPELLINGS = [name for name in TAKEN if name not in OTHER_SPELLINGS]


@pytest.mark.parametrize("names", [FIRST_SPELLINGS, OTHER_SPELLINGS])
def test_a_column_of_any_name_is_only_a_column(tmp_path: Path, names: list[str]) -> None:
    for number in range(2):
        members = [2 * number + 1, 2 * number + 2]
        columns = {name: [float(at), at + 10.0 * number] for at, name in enumerate(names)}
        write(tmp_path / f"{number}.parquet", members, **columns)
    rows = view(tmp_path, dict.fromkeys(names, ft.Float64))
    labels = pd.DataFrame({"member": [4, 3, 2, 1, 9], "event_timestamp": [AT] * 5})
    result = joined(tmp_path, rows, labels)
    for at, name in enumerate(names):
        assert result[name] == [at + 10, at, at, at, None]
    assert online(rows, names[3]) == {1: 3, 2: 3, 3: 3, 4: 13}


@pytest.mark.parametrize("given_as", ["frame", "file", "sql"])
@pytest.mark.parametrize("names", [FIRST_SPELLINGS, OTHER_SPELLINGS])
def test_a_label_frames_column_of_any_name_comes_back(
    tmp_path: Path, names: list[str], given_as: str
) -> None:
    rows = view(write(tmp_path / "rows.parquet", [1, 2], value=[0.5, 1.5]), {"value": ft.Float64})
    texts = {name: [f"b{name}", "a", "c"] for name in names}
    labels: Any = pd.DataFrame({**texts, "member": ["2", "1", "7"], "event_timestamp": [AT] * 3})
    labels["event_timestamp"] = labels["event_timestamp"].dt.as_unit("us")
    if given_as != "frame":
        labels.to_parquet(tmp_path / "labels.parquet", index=False)
        labels = tmp_path / "labels.parquet"
    if given_as == "sql":
        labels = f"select * from {Ours.in_sql(labels)}"
    result = joined(tmp_path, rows, labels)
    assert list(result) == [*names, "member", "event_timestamp", "value"]
    assert {name: result[name] for name in names} == texts
    assert result["value"] == [1.5, 0.5, None]


def test_columns_that_differ_in_letter_case_only_are_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", value=[1.0], Value=[2.0])
    with pytest.raises(ValueError, match=r"one column 'value' in .*, got value, Value"):
        joined(tmp_path, view(file, {"value": ft.Float64}))
    result = joined(tmp_path, view(write(file, Value=[2.0], other=[1.0]), {"other": ft.Float64}))
    assert result["other"] == [1, None]


# --- folders --------------------------------------------------------------------------------------


def test_a_file_overrules_its_folder(tmp_path: Path) -> None:
    """A label of 10:00 must not see the row of 15:00 because its folder says midnight."""
    folder = tmp_path / "rows"
    times = [datetime(2026, 2, 1, 15, tzinfo=UTC)]
    file = folder / "ts=2026-02-01" / "VALUE=9" / "p.parquet"
    write(file, ts=pa.array(times, UTC_US), value=[1.0])
    rows = view(folder, {"value": ft.Float64}, timestamp_field="ts")
    for hour, expected in ((10, None), (15, 1.0)):
        at = datetime(2026, 2, 1, hour, tzinfo=UTC)
        assert joined(tmp_path, rows, at=at)["value"][0] == expected
    assert online(rows, "value") == {1: 1}


@pytest.mark.parametrize("first_has_it", [False, True])
def test_a_folder_gives_what_its_files_lack(tmp_path: Path, first_has_it: bool) -> None:
    """Also only some of them; and only folders below the source."""
    source = tmp_path / "shop=7" / "rows"
    here = {"shop": [5]} if first_has_it else {}
    write(source / "shop=3" / "a.parquet", [1], **here)
    write(source / "shop=4" / "day=2026-02-01" / "b.parquet", [2])
    rows = view(source, {"shop": ft.Int64, "day": ft.String})
    result = joined(tmp_path, rows)
    assert result["shop"] == [5 if first_has_it else 3, 4]
    assert result["day"] == [None, "2026-02-01"]
    assert online(rows, "shop") == {1: 5 if first_has_it else 3, 2: 4}
    below = view(source / "shop=4", {"shop": ft.Int64})
    with pytest.raises(ValueError, match="expected the feature 'shop'"):
        joined(tmp_path, below)


def test_what_folders_say() -> None:
    root = Path("/a=0/rows")
    assert folder_keys(root, "/a=0/rows/b=1/c=x%20y=z/d/p.parquet") == {"b": "1", "c": "x y=z"}
    assert folder_keys(root, "/a=0/rows/b=__HIVE_DEFAULT_PARTITION__/p.parquet") == {"b": None}


# --- which files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*/b.parquet", {1: 2, 2: 4}),
        ("d/x/*.parquet", {1: 2}),
        ("d/**/*.parquet", {1: 2, 2: 4}),
        ("d/[xy]/?.parquet", {1: 2, 2: 4}),
        ("d", {1: 2, 2: 4}),
        ("d/y/b.parquet", {2: 4}),
    ],
)
def test_a_pattern_is_a_pattern_and_a_name_is_a_name(
    tmp_path: Path, pattern: str, expected: dict[int, int]
) -> None:
    folder = tmp_path / "w[v2]"
    write(folder / "d" / "x" / "b.parquet", [1], value=[2.0])
    write(folder / "d" / "y" / "b.parquet", [2], value=[4.0])
    write(tmp_path / "wv" / "d" / "x" / "b.parquet", [1], value=[9.0])
    rows = view(folder / pattern, {"value": ft.Float64})
    if "*" in pattern or "?" in pattern:  # the folder's own name is then a pattern too
        folder.rename(tmp_path / "w")
        rows = view(tmp_path / "w" / pattern, {"value": ft.Float64})
    assert online(rows, "value") == expected
    assert joined(tmp_path, rows)["value"] == [expected.get(1), expected.get(2)]


def test_what_is_not_data_is_passed_over_and_links_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "a.parquet")
    write(folder / "B.PARQUET", [2])
    write(tmp_path / "elsewhere" / "c.parquet", [3])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    for name in ("_delta_log/x.parquet", ".ipynb_checkpoints/a.parquet", "_temporary/1/a.parquet"):
        write(folder / name, [9])
    write(folder / "notes.txt")
    found = find_files(str(folder))
    assert [Path(file).name for file in found] == ["B.PARQUET", "a.parquet", "c.parquet"]


@pytest.mark.parametrize("name", ["none/*.parquet", "none", "empty"])
def test_nothing_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    rows = view(tmp_path / name, {"value": ft.Float64})
    with pytest.raises(FileNotFoundError, match=f"at .*{name.split('/')[0]}"):
        joined(tmp_path, rows)
    with pytest.raises(FileNotFoundError, match=f"at .*{name.split('/')[0]}"):
        online(rows, "value")


# --- types ----------------------------------------------------------------------------------------

NOTHING = pa.nulls(1)
DIFFERING = [
    (ft.Float64, [pa.array([2]), pa.array([2.5])], [2, 2.5]),
    (ft.Float64, [NOTHING, pa.array([2.5])], [None, 2.5]),
    (ft.Float64, [None, pa.array([2.5])], [None, 2.5]),
    (ft.Float64, [pa.array([2], pa.int8()), pa.array([1e300])], [2, 1e300]),
    (ft.Int64, [pa.array([2**60 + 1]), pa.array([2.0])], [2**60 + 1, 2]),
    (ft.Int64, [pa.array([1e15]), pa.array([3], pa.int32())], [10**15, 3]),
    (ft.Int64, [pa.array([float("nan")]), pa.array([3])], [None, 3]),
    (ft.Int64, [NOTHING, pa.array([-(2**63)])], [None, -(2**63)]),
    (ft.String, [pa.array([7]), pa.array(["x"])], ["7", "x"]),
    (ft.String, [pa.array(["a"]).dictionary_encode(), pa.array(["x"])], ["a", "x"]),
    (ft.Bool, [NOTHING, pa.array([True])], [None, True]),
    (ft.Array(ft.Float64), [NOTHING, pa.array([[1.5]])], [None, [1.5]]),
    (ft.Array(ft.Float64), [pa.array([[2]]), pa.array([[1.5]])], [[2], [1.5]]),
    (ft.Array(ft.Float32), [pa.array([[1.5]]), pa.array([[2, 3]])], [[1.5], [2, 3]]),
    (ft.Array(ft.Int64), [pa.array([[2**60 + 1]]), pa.array([[2.0]])], [[2**60 + 1], [2]]),
    (ft.Array(ft.String), [NOTHING, pa.array([["a"]])], [None, ["a"]]),
]


@pytest.mark.parametrize("turned", [False, True])
def test_a_columns_type_is_the_declared_one_over_all_files(tmp_path: Path, turned: bool) -> None:
    for number in range(2):
        columns = {f"v{at}": given[number] for at, (_, given, _) in enumerate(DIFFERING)}
        columns = {name: column for name, column in columns.items() if column is not None}
        write(tmp_path / f"{9 - number if turned else number}.parquet", [number + 1], **columns)
    rows = view(tmp_path, {f"v{at}": dtype for at, (dtype, _, _) in enumerate(DIFFERING)})
    result = joined(tmp_path, rows)
    for at, (_, _, expected) in enumerate(DIFFERING):
        assert result[f"v{at}"] == expected
        assert online(rows, f"v{at}") == dict(enumerate(expected, start=1))


@pytest.mark.parametrize("columns", [[[2], [2.5]], [[2.5], [2]], [[[2]], [[2.5]]]])
def test_a_fraction_in_a_column_of_integers_is_refused_by_name(
    tmp_path: Path, columns: list[Any]
) -> None:
    for number, column in enumerate(columns):
        write(tmp_path / f"{number}.parquet", [number + 1], value=column)
    dtype = ft.Array(ft.Int64) if isinstance(columns[0][0], list) else ft.Int64
    rows = view(tmp_path, {"value": dtype})
    for read in (lambda: joined(tmp_path, rows), lambda: online(rows, "value")):
        with pytest.raises(Exception, match=r"whole numbers in column value, .*got 2\.5"):
            read()


def test_files_of_one_type_keep_it(tmp_path: Path) -> None:
    """As in Feast, whatever the view declares."""
    file = write(tmp_path / "rows.parquet", value=pa.array([2.5], pa.float32()))
    assert joined(tmp_path, view(file, {"value": ft.Int64}))["value"] == [2.5, None]


# --- nanoseconds ----------------------------------------------------------------------------------

NS = 1_770_000_000_123_456_789
CUT = datetime.fromtimestamp(NS // 1_000_000_000, UTC).replace(microsecond=123_456)


NUMBERS = [NS, NS - 289, -1, -1001, -999_999_999_999]


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_times_are_cut_never_later(tmp_path: Path, zone: str | None) -> None:
    kind = pa.timestamp("ns", zone)
    whens = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=n // 1000) for n in NUMBERS]
    members = list(range(len(NUMBERS)))
    file = write(
        tmp_path / "rows.parquet",
        members,
        event_time=pa.array(NUMBERS, kind),
        seen=pa.array(NUMBERS, kind),
        many=pa.array([[number] * 2 for number in NUMBERS], pa.list_(kind)),
    )
    rows = view(file, {"seen": ft.UnixTimestamp, "many": ft.Array(ft.UnixTimestamp)})
    given_at = pd.Series(pd.to_datetime(NUMBERS, unit="ns", utc=True))
    frame = pd.DataFrame({"member": members, "event_timestamp": given_at})
    stored = tmp_path / "labels.parquet"
    frame.to_parquet(stored, index=False)
    asked = [frame, stored]
    if not Ours.is_spark():  # which reads no nanoseconds
        asked.append(f"select * from {Ours.in_sql(stored)}")
    for labels in asked:
        result = joined(tmp_path, rows, labels)
        assert list(map(_utc, result["event_timestamp"])) == whens
        assert list(map(_utc, result["seen"])) == whens
        assert [[_utc(time) for time in times] for times in result["many"]] == [
            [when] * 2 for when in whens
        ]
    early = frame.assign(event_timestamp=[when - timedelta(microseconds=1) for when in whens])
    assert joined(tmp_path, rows, early)["seen"] == [None] * len(NUMBERS)


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def test_files_in_nanoseconds_and_in_microseconds(tmp_path: Path) -> None:
    kinds = [pa.timestamp("ns", "UTC"), UTC_US, pa.timestamp("ns"), pa.timestamp("s")]
    for number, kind in enumerate(kinds):
        at = pa.array([NS], pa.timestamp("ns")).cast(kind, safe=False)
        write(tmp_path / f"{number}.parquet", [number], event_time=at, value=[float(number)])
    rows = view(tmp_path, {"value": ft.Float64})
    labels = pd.DataFrame({"member": range(4), "event_timestamp": [CUT] * 4})
    assert joined(tmp_path, rows, labels)["value"] == [0, 1, 2, 3]
    before = CUT - timedelta(microseconds=1)
    labels = labels.assign(event_timestamp=[before] * 4)
    assert joined(tmp_path, rows, labels)["value"] == [None, None, None, 3]
    assert online(rows, "value") == {0: 0, 1: 1, 2: 2, 3: 3}


def test_the_last_row_in_nanoseconds_before_an_end_is_materialized(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", event_time=pa.array([NS], pa.timestamp("ns", "UTC")))
    columns = Columns(["member"], [], "event_time", None)
    for start, end, expected in (
        (CUT, CUT, 1),
        (CUT - DAY, CUT - timedelta(microseconds=1), 0),
        (CUT + timedelta(microseconds=1), CUT + DAY, 0),
    ):
        batches = newest_batches(
            str(file), columns, start, end, batch_rows=9, memory_limit="100MB", threads=1
        )
        assert sum(batch.num_rows for batch in batches) == expected


def test_statistics_of_nanoseconds_skip_row_groups(tmp_path: Path) -> None:
    """A file that lies after every label is not read: here its pages are spoiled."""
    early = write(tmp_path / "a.parquet", value=[1.0])
    ns = pa.timestamp("ns", "UTC")
    write(early, event_time=pa.array([AT], UTC_US).cast(ns), value=[1.0])
    late = tmp_path / "b.parquet"
    write(late, event_time=pa.array([AT + 9 * DAY], UTC_US).cast(ns), value=[2.0])
    chunk = pq.read_metadata(late).row_group(0).column(0)
    data = bytearray(late.read_bytes())
    first = chunk.dictionary_page_offset or chunk.data_page_offset
    data[first : first + 8] = b"\xff" * 8
    late.write_bytes(data)
    assert joined(tmp_path, view(tmp_path, {"value": ft.Float64}))["value"] == [1, None]


def test_lists_in_nanoseconds_are_written_in_seconds() -> None:
    for kind in (pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("ns")):
        number = NS // (1 if kind.unit == "ns" else 1000)
        column = pa.array([[number], None], pa.list_(pa.int64())).cast(pa.list_(kind))
        [value, _] = vars(encode_column(column, ValueType.UNIX_TIMESTAMP_LIST))["values"]
        assert [*Value.FromString(value).unix_timestamp_list_val.val] == [NS // 10**9]


@pytest.mark.parametrize("where", ["event", "feature", "list"])
def test_a_time_that_no_reader_knows_is_refused_at_the_write(tmp_path: Path, where: str) -> None:
    far = pa.array([300_000_000_000_000_000], UTC_US)
    columns: dict[str, Any] = {
        "seen": pa.array([AT], UTC_US),
        "many": pa.array([[AT]], pa.list_(UTC_US)),
    }
    if where == "event":
        columns["event_time"] = far
    elif where == "feature":
        columns["seen"] = far
    else:
        columns["many"] = pa.array([[far[0].value]], pa.list_(pa.int64())).cast(pa.list_(UTC_US))
    file = write(tmp_path / "rows.parquet", **columns)
    rows = view(file, {"seen": ft.UnixTimestamp, "many": ft.Array(ft.UnixTimestamp)})
    batch = pq.read_table(file).to_batches()[0]
    with pytest.raises(ValueError, match=r"years 1 to 9999.*got 11476"):
        encode_rows(rows, batch)


@settings(max_examples=15, deadline=None)
@given(
    numbers=st.lists(st.integers(-(10**18), 4 * 10**18), min_size=1, max_size=8),
    labels=st.lists(st.integers(-(10**18), 4 * 10**18), min_size=1, max_size=4),
)
def test_a_label_sees_exactly_the_rows_that_are_cut_to_its_time_or_before(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], labels: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("ns")
    numbers = numbers + [near for n in labels for near in (n - 1, n + 1, n // 1000 * 1000)]
    times = pa.array(numbers, pa.timestamp("ns", "UTC"))
    counted = list(range(len(numbers)))
    write(folder / "a.parquet", [1] * len(numbers), event_time=times, value=counted)
    frame = pd.DataFrame({"member": 1, "event_timestamp": pd.to_datetime(labels, utc=True)})
    seen = joined(folder, view(folder, {"value": ft.Int64}), frame)["value"]
    for label, value in zip(labels, seen, strict=True):
        visible = [(n // 1000, at) for at, n in enumerate(numbers) if n // 1000 <= label // 1000]
        assert value == max(visible)[1]
