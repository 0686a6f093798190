"""Rows by key before they are written: none lost, none twice, in order from bucket to bucket."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.bytes.encode import entity_keys
from stores.writing.key_order import in_key_order


def keys_of(batch: pa.RecordBatch) -> list[bytes]:
    return entity_keys(["id"], [batch.column("id")])


def batches_of(ids: list[int] | list[str], rows: int) -> list[pa.RecordBatch]:
    kind = pa.int64() if isinstance(ids[0], int) else pa.string()
    table = pa.table({"id": pa.array(ids, kind), "nth": range(len(ids))})
    return table.to_batches(max_chunksize=rows)


IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=120, unique=True),
    st.lists(st.text(max_size=5), min_size=1, max_size=120, unique=True),
)


@settings(max_examples=60, deadline=None)
@given(ids=IDS, rows=st.integers(1, 9))
def test_the_rows_are_the_same_and_the_keys_ascend(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int] | list[str], rows: int
) -> None:
    batches, folder = batches_of(ids, rows), tmp_path_factory.mktemp("order")
    found = list(in_key_order(iter(batches), keys_of, folder, rows, sampled=30))
    rows_of = [row for batch in found for row in batch.to_pylist()]
    assert sorted(row["nth"] for row in rows_of) == list(range(len(ids)))
    assert all(ids[row["nth"]] == row["id"] for row in rows_of)
    assert max(batch.num_rows for batch in found) <= rows
    assert list(folder.iterdir()) == []
    if len(ids) <= 30:
        assert found == batches
        return
    # Every key of the sample ends a bucket here, so sampled keys come in order.
    sampled = {key for batch in batches[: 30 // rows] for key in keys_of(batch)}
    in_turn = [key for batch in found for key in keys_of(batch) if key in sampled]
    assert in_turn == sorted(in_turn)


def test_what_was_begun_and_given_up_leaves_nothing(tmp_path: Path) -> None:
    some = in_key_order(iter(batches_of(list(range(100)), 5)), keys_of, tmp_path, 5, sampled=30)
    next(some)
    some.close()
    assert list(tmp_path.iterdir()) == []
