"""An id of another type than its key: every reader takes the same ones, for the same row."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.type_map import python_values_to_proto_values
from feast.types import Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.request.sequences import checked_ids
from stores.ids import IdError, converted_sql, ids_of
from stores.read import Reader, ReadError
from transformations.errors import InputError
from transformations.rules import Action, Rules

AT = datetime(2026, 3, 1, tzinfo=UTC)
REFUSED = object()
MOST = 2**63 - 1
KINDS = ("int64", "string")
# A value, what it is as an id of a key of integers, and of a key of strings.
TABLE = [
    (42, 42, "42"),
    (-42, -42, "-42"),
    (0, 0, "0"),
    ("42", 42, "42"),
    ("-42", -42, "-42"),
    ("-0", REFUSED, "-0"),
    ("042", REFUSED, "042"),
    (" 42", REFUSED, " 42"),
    ("42\n", REFUSED, "42\n"),
    ("+42", REFUSED, "+42"),
    ("4_2", REFUSED, "4_2"),
    ("\uff14\uff12", REFUSED, "\uff14\uff12"),
    ("4.0", REFUSED, "4.0"),
    ("4e1", REFUSED, "4e1"),
    ("", REFUSED, ""),
    ("x", REFUSED, "x"),
    (np.int8(42), 42, "42"),
    (np.int64(42), 42, "42"),
    (np.uint64(42), 42, "42"),
    (np.str_("42"), 42, "42"),
    (True, REFUSED, REFUSED),
    (np.bool_(True), REFUSED, REFUSED),
    (42.0, 42, REFUSED),
    (-0.0, 0, REFUSED),
    (42.5, REFUSED, REFUSED),
    (2.0**53 - 1, 2**53 - 1, REFUSED),
    (2.0**53, REFUSED, REFUSED),  # it also stands for 2**53 + 1
    (float("inf"), REFUSED, REFUSED),
    (np.float64(42), 42, REFUSED),
    (np.float32(42), 42, REFUSED),
    (np.float32(2**24), REFUSED, REFUSED),
    (np.float16(42), 42, REFUSED),
    (Decimal(42), 42, REFUSED),
    (Decimal("42.0"), 42, REFUSED),
    (Decimal("42.5"), REFUSED, REFUSED),
    (MOST, MOST, str(MOST)),
    (str(MOST), MOST, str(MOST)),
    (-MOST - 1, -MOST - 1, str(-MOST - 1)),
    (MOST + 1, REFUSED, str(MOST + 1)),
    (str(MOST + 1), REFUSED, str(MOST + 1)),
    (10**40, REFUSED, str(10**40)),
    (b"42", REFUSED, REFUSED),
]
CASES = [
    pytest.param(value, kind, id_, id=f"{value!r} for {kind}")
    for value, *ids in TABLE
    for kind, id_ in zip(KINDS, ids, strict=True)
]
STORED = {kind: {row[1 + n] for row in TABLE} - {REFUSED} for n, kind in enumerate(KINDS)}
# An id without a row is asked for too.
STORED["int64"] -= {-42}


class Rooms:
    """A feature store with a view per type of key; the value of a row is its id as text."""

    def __init__(self, folder: Path) -> None:
        (folder / "feature_store.yaml").write_text(
            "project: ids\nprovider: local\nregistry: registry.db\n"
            "offline_store: {type: stores.duckdb_asof.DuckDBAsofOfflineStore}\n"
            "online_store: {type: sqlite, path: online.db}\n"
            "entity_key_serialization_version: 3\n"
        )
        self.store = FeatureStore(str(folder))
        types = {"int64": (ValueType.INT64, Int64), "string": (ValueType.STRING, String)}
        self.readers = {}
        for kind, (value_type, dtype) in types.items():
            frame = pd.DataFrame({"id": sorted(STORED[kind])})
            frame = frame.assign(found=frame["id"].map(str), at=AT)
            pq.write_table(pa.Table.from_pandas(frame), folder / f"{kind}.parquet")
            entity = Entity(name=kind, join_keys=["id"], value_type=value_type)
            view = FeatureView(
                name=kind,
                entities=[entity],
                schema=[Field(name="id", dtype=dtype), Field(name="found", dtype=String)],
                source=FileSource(path=f"{kind}.parquet", timestamp_field="at"),
            )
            self.store.apply([entity, view])
            self.store.write_to_online_store(kind, frame)
            self.readers[kind] = Reader(self.store, [f"{kind}:found"])

    def feast(self, ids: Any, kind: str) -> list[Any]:
        """What get_online_features finds."""
        answer = self.store.get_online_features([f"{kind}:found"], {"id": ids}).to_dict()
        return list(answer["found"])

    def read(self, ids: Any, kind: str) -> list[Any]:
        """What a Reader finds."""
        return self.readers[kind].read({"id": ids})["found"].tolist()

    def join(self, labels: Any, kind: str) -> list[Any]:
        """What a training join finds for a frame, a file or SQL."""
        job = self.store.get_historical_features(labels, [f"{kind}:found"])
        return job.to_arrow()["found"].to_pylist()


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    made = Rooms(tmp_path_factory.mktemp("ids"))
    yield made
    for reader in made.readers.values():
        reader.close()
    made.store._get_provider().online_store._conn.close()


def is_beyond(value: Any) -> bool:
    """Whether it is an integer beyond 64 bits: of the right class, refused where it is encoded."""
    return isinstance(value, int) and not -MOST - 1 <= value <= MOST


def frame(ids: Any) -> pd.DataFrame:
    return pd.DataFrame({"id": ids}).assign(event_timestamp=AT)


def expected(id_: Any, kind: str) -> list[str | None]:
    return [str(id_) if id_ in STORED[kind] else None]


@pytest.mark.parametrize(("value", "kind", "id_"), CASES)
def test_the_rule(value: Any, kind: str, id_: Any) -> None:
    if id_ is REFUSED:
        if not is_beyond(value):
            with pytest.raises(IdError, match=f"^whose: expected {kind} ids, got "):
                ids_of([value], kind, "whose")
        return
    (got,) = ids_of([value], kind, "whose")
    assert got == id_
    assert isinstance(got, str if kind == "string" else int | np.integer)


def test_ids_of_the_right_type_are_not_even_copied() -> None:
    for ids, kind in (([1, np.int32(2)], "int64"), (["a", "1"], "string"), ([], "string")):
        assert ids_of(ids, kind, "whose") is ids


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_takes_the_same_ids_for_the_same_row(rooms: Rooms, kind: str) -> None:
    rules = Rules(kind, kind, {"APPLY": Action("positive")}, timedelta(days=1), 1, 1)  # type: ignore[arg-type]
    for value, *ids in TABLE:
        id_ = ids[KINDS.index(kind)]
        if id_ is REFUSED:
            with pytest.raises(ReadError, match=f"id: expected {kind} ids, got"):
                rooms.read([value], kind)
            with pytest.raises(ValueError, match=r"expected .*Convert the column"):
                rooms.join(frame([value]), kind)
            if not is_beyond(value):
                with pytest.raises(InputError, match=f"member_id: expected {kind} ids, got"):
                    checked_ids(rules, "member", [value])
        else:
            assert rooms.read([value], kind) == expected(id_, kind), value
            assert rooms.join(frame([value]), kind) == expected(id_, kind), value
            assert rooms.feast([value], kind) == expected(id_, kind), value
            assert checked_ids(rules, "member", [value]) == [id_]


FRAMES = [
    pd.Series([42, 7]),
    pd.Series([42, 7], dtype=object),
    pd.Series([42, 7], dtype="Int64"),
    pd.Series([42, 7], dtype="uint64"),
    pd.Series([42, 7], dtype="int64[pyarrow]"),
    pd.Series(["42", "7"]),
    pd.Series(["42", "7"], dtype=object),
    pd.Series(["42", "7"], dtype="category"),
    pd.Series(["42", "7"], dtype="large_string[pyarrow]"),
    pd.Series([42, "7"]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", FRAMES, ids=lambda ids: f"{ids.dtype} {ids.tolist()}")
def test_columns_of_any_type_are_ids(rooms: Rooms, ids: pd.Series, kind: str) -> None:
    labels = frame(ids)
    before = labels.copy()
    assert rooms.join(labels, kind) == ["42", None]
    pd.testing.assert_frame_equal(labels, before)
    assert rooms.read(ids, kind) == ["42", None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ids", [pa.array([42, 7], pa.int32()), pa.chunked_array([["42"], ["7"]]), np.array(["42", "7"])]
)
def test_a_reader_takes_columns_of_arrow_and_numpy(rooms: Rooms, ids: Any, kind: str) -> None:
    assert rooms.read(ids, kind) == ["42", None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["42::int", "'42'", "42::ubigint"])
def test_labels_in_sql_and_in_files_are_converted_too(
    rooms: Rooms, tmp_path: Path, column: str, kind: str
) -> None:
    query = f"select {column} as id, timestamptz '{AT}' as event_timestamp"
    assert rooms.join(query, kind) == ["42"]
    duckdb.sql(query).write_parquet(str(tmp_path / "labels.parquet"))
    job = rooms.store.get_historical_features(tmp_path / "labels.parquet", [f"{kind}:found"])
    joined = job.to_arrow()
    assert joined["found"].to_pylist() == ["42"]
    assert joined["id"].to_pylist() == duckdb.sql(query).to_arrow_table()["id"].to_pylist()


def test_a_missing_id_finds_nothing_in_a_join_and_is_refused_by_a_read(rooms: Rooms) -> None:
    for missing in (None, float("nan"), pd.NA):
        assert rooms.join(frame(pd.Series([42, missing], dtype=object)), "string")[1:] == [None]
        with pytest.raises(ReadError, match=r"expected int64 ids, got (None|nan|<NA>)"):
            rooms.read([42, missing], "int64")
    # Where an integer is missing, pandas makes floats of all.
    assert rooms.join(frame([42, None]), "int64") == ["42", None]
    nan = f"select 'nan'::double as id, timestamptz '{AT}' as event_timestamp"
    assert rooms.join(nan, "int64") == [None]


def test_two_views_may_have_keys_of_two_types(rooms: Rooms) -> None:
    references = [f"{kind}:found" for kind in KINDS]
    job = rooms.store.get_historical_features(frame([42, -42]), references, full_feature_names=True)
    joined = job.to_arrow()
    assert joined["int64__found"].to_pylist() == ["42", None]
    assert joined["string__found"].to_pylist() == ["42", "-42"]


def test_a_refused_label_is_shown(rooms: Rooms) -> None:
    with pytest.raises(ValueError, match=r"^id: expected .* got '042'\. Convert the column$"):
        rooms.join(frame(["42", None, "042"]), "int64")


NUMBERS = st.integers(-(2**65), 2**65) | st.integers(-50, 50)
ALMOST = NUMBERS.flatmap(
    lambda n: st.sampled_from([f"{n}", f"0{n}", f" {n}", f"{n} ", f"+{n}", f"{n}.0", f"{n}e0"])
)
IDS = {
    "VARCHAR": ALMOST | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
    "HUGEINT": NUMBERS,
    "DOUBLE": st.floats(allow_nan=False) | NUMBERS.map(float),
    "FLOAT": st.floats(allow_nan=False, width=32),
    "DECIMAL(30,2)": st.decimals(-(10**20), 10**20, places=2),
    "BOOLEAN": st.booleans(),
}
KEYS = {"int64": ("BIGINT", ValueType.INT64), "string": ("VARCHAR", ValueType.STRING)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("got", IDS)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_rule_in_sql_is_that_in_python_and_keys_are_feasts(
    got: str, kind: str, data: st.DataObject
) -> None:
    value = data.draw(IDS[got])
    expected_type, value_type = KEYS[kind]
    by_python = by_sql = None
    with suppress(IdError):
        given = np.float32(value) if got == "FLOAT" else value
        (by_python,) = ids_of([given], kind, "whose")
        if kind == "int64" and is_beyond(by_python):
            by_python = None
    with suppress(IdError):
        made = converted_sql("id", got, expected_type) or "id"
        query = f"select {made} from (select $id::{got} as id)"
        [(by_sql,)] = duckdb.execute(query, {"id": value}).fetchall()
    assert by_sql == by_python
    if by_python is not None:
        protos = python_values_to_proto_values([value, by_python], value_type)
        assert protos[0] == protos[1]
