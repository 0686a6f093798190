"""Label frames of every dtype: joined, or refused with the column's name and what to do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView
from feast import types as ft
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore

from tests.stores.test_source_files import AT, DAY, joined, view, write
from tests.worlds.asof import PROJECT, config, registry

pytestmark = pytest.mark.usefixtures("both_stores")
A, B = (uuid.UUID(int=number) for number in (1, 2))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> FeatureView:
    file = tmp_path_factory.mktemp("frames") / "rows.parquet"
    return view(write(file, [1, 2], value=[0.5, 1.5]), {"value": ft.Float64})


def arrow(values: list[Any], kind: pa.DataType) -> pd.Series:
    return pd.Series(values, dtype=pd.ArrowDtype(kind))


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"member": [1, 2], "event_timestamp": [AT, AT + DAY], **columns})


CARRIED: dict[str, tuple[Any, list[Any]]] = {
    "categorical": (pd.Categorical(["a", "b"]), ["a", "b"]),
    "categorical numbers": (pd.Categorical([1, None]), [1, None]),
    "dictionary": (arrow(["a", "b"], pa.dictionary(pa.int32(), pa.string())), ["a", "b"]),
    "string_view": (arrow(["a", None], pa.string_view()), ["a", None]),
    "binary_view": (arrow([b"a", None], pa.binary_view()), [b"a", None]),
    "large_string": (arrow(["a", "b"], pa.large_string()), ["a", "b"]),
    "string": (pd.Series(["a", None], dtype="string"), ["a", None]),
    "UUID objects": ([A, B], [str(A), str(B)]),
    "arrow UUID": (arrow([A.bytes, B.bytes], pa.uuid()), [str(A), str(B)]),
    "sixteen bytes": (arrow([A.bytes, B.bytes], pa.binary(16)), [A.bytes, B.bytes]),
    "sparse": (pd.arrays.SparseArray([0, 7]), [0, 7]),
    "sparse floats": (pd.arrays.SparseArray([0.0, 7.5]), [0.0, 7.5]),
    "float16": (np.array([1.5, 2], "float16"), [1.5, 2.0]),
    "arrow float16": (arrow([np.float16(1.5), None], pa.float16()), [1.5, None]),
    "Int64": (pd.Series([1, None], dtype="Int64"), [1, None]),
    "uint64": (np.array([2**63, 2], "uint64"), [2**63, 2]),
    "boolean": (pd.Series([True, None], dtype="boolean"), [True, None]),
    "decimals": ([Decimal("1.5"), Decimal(2)], [Decimal("1.5"), Decimal(2)]),
    "dates": ([date(2026, 1, 1)] * 2, [date(2026, 1, 1)] * 2),
    "seconds": (pd.Series([AT, AT]).dt.as_unit("s"), [AT, AT]),
    "lists": ([[1], [2, 3]], [[1], [2, 3]]),
    "arrays": ([np.array([1.0]), np.array([2.0])], [[1.0], [2.0]]),
    "structs": ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
    "nothing": ([None, None], [None, None]),
    "numbers and texts": ([1, "a"], ["1", "a"]),
}


@pytest.mark.parametrize(("column", "expected"), CARRIED.values(), ids=CARRIED)
def test_a_column_of_any_dtype_comes_back(
    tmp_path: Path, rows: FeatureView, column: Any, expected: list[Any]
) -> None:
    result = joined(tmp_path, rows, frame(x=column))
    assert result["x"] == expected
    assert result["value"] == [0.5, 1.5]


IDS: dict[str, Any] = {
    "categorical": pd.Categorical([1, 2]),
    "categorical texts": pd.Categorical(["1", "2"]),
    "Int64": pd.Series([1, 2], dtype="Int64"),
    "arrow int8": arrow([1, 2], pa.int8()),
    "dictionary": arrow(["1", "2"], pa.dictionary(pa.int8(), pa.string())),
    "string_view": arrow(["1", "2"], pa.string_view()),
    "sparse": pd.arrays.SparseArray([1, 2]),
    "float16": np.array([1, 2], "float16"),
    "float32": np.array([1, 2], "float32"),
    "arrow float": arrow([1.0, 2.0], pa.float32()),
    "decimals": [Decimal(1), Decimal(2)],
    "mixed": [1, "2"],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_of_any_dtype_find_their_rows(tmp_path: Path, rows: FeatureView, ids: Any) -> None:
    assert joined(tmp_path, rows, frame().assign(member=ids))["value"] == [0.5, 1.5]


def test_uuids_are_ids_of_texts(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    times = pa.array([AT, AT], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"member": [str(A), str(B)], "event_time": times, "value": [0.5, 1.5]}), file
    )
    rows = view(file, {"value": ft.Float64})
    for ids in ([A, B], arrow([A.bytes, B.bytes], pa.uuid()), [str(A), str(B)]):
        assert joined(tmp_path, rows, frame().assign(member=ids))["value"] == [0.5, 1.5]


TIMES: dict[str, Any] = {
    "naive": pd.Series([AT, AT + DAY]).dt.tz_localize(None),
    "seconds": pd.Series([AT, AT + DAY]).dt.as_unit("s"),
    "nanoseconds": pd.Series([AT, AT + DAY]).dt.as_unit("ns"),
    "elsewhere": pd.Series([AT, AT + DAY]).dt.tz_convert("Asia/Tokyo"),
    "objects": pd.Series([AT, AT + DAY], dtype=object),
    "with and without a zone": pd.Series([AT, (AT + DAY).replace(tzinfo=None)], dtype=object),
    "texts": [str(AT), str(AT + DAY)],
    "arrow": arrow([AT, AT + DAY], pa.timestamp("us", "UTC")),
    "arrow nanoseconds": arrow([AT, AT + DAY], pa.timestamp("ns", "UTC")),
    "arrow texts": arrow([str(AT), str(AT + DAY)], pa.string()),
    "string_view": arrow([str(AT), str(AT + DAY)], pa.string_view()),
    "dates": [(AT + DAY).date()] * 2,
    "arrow dates": arrow([(AT + DAY).date()] * 2, pa.date32()),
    "categorical": pd.Categorical([AT, AT + DAY]),
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_times_of_any_dtype_see_their_rows(tmp_path: Path, rows: FeatureView, times: Any) -> None:
    labels = frame().assign(event_timestamp=times)
    assert joined(tmp_path, rows, labels)["value"] == [0.5, 1.5]


def renamed(name: Any) -> Callable[[], pd.DataFrame]:
    return lambda: frame(z=[1, 2]).rename(columns={"z": name})


REFUSED: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "period": (lambda: frame(x=pd.period_range("2026-01", periods=2, freq="M")), r"^x: .*astype"),
    "interval": (lambda: frame(x=pd.interval_range(0, 2)), r"^x: .*interval.*Convert"),
    "complex": (lambda: frame(x=np.array([1j, 2])), r"^x: .*complex128.*Convert"),
    "mixed": (lambda: frame(x=[1.5, "a"]), r"^x: .*object.*Convert"),
    "id period": (
        lambda: frame().assign(member=pd.period_range("2026", periods=2, freq="Y")),
        "^member: .*period",
    ),
    "id UUID": (lambda: frame().assign(member=[A, B]), "^member: expected ids that become the key"),
    "id float": (lambda: frame().assign(member=np.array([1.5, 2], "float32")), "^member: expected"),
    "epoch": (
        lambda: frame().assign(event_timestamp=[1_770_000_000] * 2),
        r"event_timestamp, got BIGINT.*to_datetime",
    ),
    "epoch floats": (
        lambda: frame().assign(event_timestamp=[1.77e9] * 2),
        r"event_timestamp, got DOUBLE.*to_datetime",
    ),
    "time period": (
        lambda: frame().assign(event_timestamp=pd.period_range("2026", periods=2, freq="Y")),
        r"^event_timestamp: .*period",
    ),
    "no time": (lambda: frame().assign(event_timestamp=["x", "y"]), r"^event_timestamp: .*times"),
    "integer name": (renamed(3), r"names of the entity frame's columns, got 3 \(int\)\. Rename"),
    "tuple name": (renamed(("a", "b")), r"got \('a', 'b'\) \(tuple\)"),
    "no name": (renamed(None), r"got None \(NoneType\)"),
    "a name twice": (renamed("member"), "different names in the entity frame, got member"),
}


@pytest.mark.parametrize(("labels", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_place_is_refused_by_name(
    tmp_path: Path, rows: FeatureView, labels: Callable[[], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        joined(tmp_path, rows, labels())


@pytest.mark.parametrize("kind", ["sql", "file"])
def test_epochs_on_disk_and_in_sql_are_refused_too(
    tmp_path: Path, rows: FeatureView, kind: str
) -> None:
    labels: Any = "select 1 as member, 1770000000 as event_timestamp"
    if kind == "file":
        labels = tmp_path / "labels.parquet"
        pq.write_table(pa.table({"member": [1], "event_timestamp": [1_770_000_000]}), labels)
    with pytest.raises(ValueError, match=r"got (INTEGER|BIGINT).*to_timestamp"):
        joined(tmp_path, rows, labels)


def test_what_plain_feast_joins_has_its_types(tmp_path: Path, rows: FeatureView) -> None:
    """All columns that Feast takes, in one frame, are those of Feast."""
    names = [
        "categorical", "categorical numbers", "dictionary", "large_string", "string", "Int64",
        "uint64", "boolean", "decimals", "dates", "seconds", "structs", "nothing",
    ]  # fmt: skip
    labels = frame(**{name: CARRIED[name][0] for name in names})
    feasts = DuckDBOfflineStore.get_historical_features(
        config(tmp_path), [rows], ["rows:value"], labels.copy(), registry(tmp_path), PROJECT
    ).to_arrow()
    ours = joined(tmp_path, rows, labels)
    assert ours == feasts.select(list(ours)).sort_by("member").to_pydict()
