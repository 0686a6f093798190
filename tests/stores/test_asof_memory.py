"""A streamed training join keeps its memory limit, whatever the size of its result."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stores.test_asof_store import snapshots

LIMIT = 150  # MB, for DuckDB
ROWS, WIDTH = 300_000, 768

# In a separate process, to measure only its own peak.
STREAM = f"""
import sys
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
import tests.stores.test_asof_store as case
folder, way = Path(sys.argv[1]), sys.argv[2]
labels = "select (i % 1000)::bigint as member, timestamptz '2026-01-09' as event_timestamp" \\
    " from range({ROWS}) as t(i)"
settings = case.config(folder)
settings.offline_store.memory_limit = "{LIMIT}MB"
settings.offline_store.threads = 1
job = case.Ours.kind.get_historical_features(
    settings, [case.snapshot_view], ["snapshot:vector"], labels, case.registry(folder), "p")

def peak():
    # Not getrusage: its peak includes the memory of the parent when it started this process.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
members = []
if way == "batches":
    for batch in job.to_arrow_batches(10_000):
        assert batch["vector"].nbytes >= len(batch) * {WIDTH} * 4
        members.append(batch["member"].to_numpy())
else:
    assert job.to_parquet(folder / "joined.parquet") == {ROWS}
print((peak() - before) >> 10)
if way == "parquet":
    members = [pq.read_table(folder / "joined.parquet", columns=["member"])["member"].to_numpy()]
np.testing.assert_array_equal(np.concatenate(members), np.arange({ROWS}) % 1000)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
# Beyond DuckDB's limit: its allocator's slack, two chunks of rows, and the buffer of the Parquet
# writer.
@pytest.mark.parametrize(("way", "beside"), [("batches", 100), ("parquet", 200)])
def test_a_stream_keeps_its_order_and_the_memory_limit(
    tmp_path: Path, way: str, beside: int
) -> None:
    assert 2 * (LIMIT + beside) < ROWS * WIDTH * 4 / 2**20, "so small a result shows nothing"
    snapshots(tmp_path / "data/snapshots", days=1, members=1000, width=WIDTH)
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path), way],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < LIMIT + beside
