"""Series of snapshots: the newest event time first, old files unread, vectors of odd shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.asof import join as asof_join
from stores.asof.find import ROWS_PER_EVENT_TIME
from stores.spark import join as spark_join
from tests.stores.test_asof_store import DAY, FIRST, frame, join, snapshot_view, snapshots, spoil

pytestmark = pytest.mark.usefixtures("both_stores")
MANY = ROWS_PER_EVENT_TIME  # members, enough for the files to count as snapshots


def put(folder: Path, day: int, vectors: dict[int, Any], created: float = 0.25) -> None:
    """Write the snapshot of one day; scores are day * 100 + member."""
    at = FIRST + day * DAY
    times = pa.timestamp("us", tz="UTC")
    path = folder / "data/snapshots" / f"as_of={at:%F}" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "member": list(vectors),
                "event_time": pa.array([at] * len(vectors), times),
                "created_time": pa.array([at + created * DAY] * len(vectors), times),
                "score": [day * 100.0 + member for member in vectors],
                "vector": pa.array(list(vectors.values()), pa.list_(pa.float32())),
            }
        ),
        path,
    )


def scores(folder: Path, labels: pd.DataFrame, **options: Any) -> list[float | None]:
    return join(folder, snapshot_view, labels, **options).to_arrow()["score"].to_pylist()


def old_spoilt(folder: Path) -> None:
    snapshots(folder / "data/snapshots", days=6, members=MANY)
    for day in (1, 2, 3):
        spoil(folder / "data/snapshots" / f"as_of=2026-01-0{day}" / "part-0.parquet")


def test_files_older_than_what_every_label_sees_are_not_read(tmp_path: Path) -> None:
    old_spoilt(tmp_path)
    assert scores(tmp_path, frame((1, 4.5), (5, 3.1), (6, 9))) == [401, 305, 506]


def test_they_are_read_for_a_member_that_has_no_newer_row(tmp_path: Path) -> None:
    old_spoilt(tmp_path)
    put(tmp_path, 3, {member: [1.0, 1.0] for member in range(MANY) if member != 7})
    assert scores(tmp_path, frame((1, 4.5), (7, 4.5), (8, 3.1))) == [401, 407, 308]
    with pytest.raises(duckdb.Error):
        scores(tmp_path, frame((1, 4.5), (7, 3.1)))


def test_with_a_cutoff_a_snapshot_must_be_published_to_be_old(tmp_path: Path) -> None:
    old_spoilt(tmp_path)
    asked = {"filter_by_created_timestamp": True}
    assert scores(tmp_path, frame((1, 4.5), (5, 3.3)), **asked) == [401, 305]
    with pytest.raises(duckdb.Error):  # the one of day 3 is published at 3.25
        scores(tmp_path, frame((1, 4.5), (5, 3.1)), **asked)


def test_who_is_left_out_of_a_snapshot_keeps_the_row_before(tmp_path: Path) -> None:
    everyone = {member: [1.0, 2.0] for member in range(MANY + 2)}
    put(tmp_path, 0, everyone)
    put(tmp_path, 1, {member: vector for member, vector in everyone.items() if member != 7})
    labels = frame((7, 1.5), (8, 1.5), (None, 1.5), (7, -1), (7, 0))
    assert scores(tmp_path, labels) == [7, 108, None, None, 7]


def test_a_snapshot_published_after_a_newer_one_is_never_seen_instead(tmp_path: Path) -> None:
    everyone = {member: [1.0] for member in range(MANY)}
    put(tmp_path, 0, everyone, created=3)
    put(tmp_path, 1, everyone)
    labels = frame((1, 0.5), (1, 1.1), (1, 1.3), (1, 4))
    asked = {"filter_by_created_timestamp": True}
    assert scores(tmp_path, labels, **asked) == [None, None, 101, 101]


def test_vectors_of_any_shape(tmp_path: Path) -> None:
    shapes: list[Any] = [[1.0, 2.0], None, [], [3.0, None], [4.0, 5.0, 6.0]]
    put(tmp_path, 0, {member: [1.0, 2.0] for member in range(MANY)})
    put(tmp_path, 1, dict(enumerate(shapes * MANY)))
    labels = frame(*[(member, day) for day in (0, 1) for member in range(5)], (MANY * 9, 1))
    result = join(tmp_path, snapshot_view, labels).to_arrow()["vector"].to_pylist()
    assert result == [[1.0, 2.0]] * 5 + shapes + [None]


def test_rows_wider_than_the_sample_come_in_shorter_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {member: [float(member)] * (1 if member < 1000 else 500) for member in range(1200)}
    put(tmp_path, 0, wide)
    monkeypatch.setattr(asof_join, "MOST_CHUNK_BYTES", 20_000)
    monkeypatch.setattr(spark_join, "CHUNK_BYTES", 20_000)
    members = [*range(0, 1200, 7), 1199]
    labels = frame(*[(member, 1) for member in members])
    result = join(tmp_path, snapshot_view, labels).to_arrow()
    assert result["vector"].num_chunks > 2
    assert result["vector"].to_pylist() == [wide[member] for member in members]


def test_event_times_that_are_missing_in_a_footer(tmp_path: Path) -> None:
    for day in (0, 1):
        put(tmp_path, day, {member: [1.0] for member in range(MANY)})
    for file in (tmp_path / "data/snapshots").rglob("part-0.parquet"):
        pq.write_table(pq.ParquetFile(file).read(), file, write_statistics=False)
    assert scores(tmp_path, frame((1, 1.5), (2, 0.5))) == [101, 2]


def test_text_times(tmp_path: Path) -> None:
    for day in (0, 1):
        put(tmp_path, day, {member: [1.0] for member in range(MANY)})
    for file in (tmp_path / "data/snapshots").rglob("part-0.parquet"):
        rows = pq.ParquetFile(file).read()
        texts = [time.isoformat() for time in rows["event_time"].to_pylist()]
        pq.write_table(rows.set_column(1, "event_time", pa.array(texts)), file)
    assert scores(tmp_path, frame((1, 1.5), (2, 0.5))) == [101, 2]
