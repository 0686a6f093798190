"""Files and partitions that are either whole or not there."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.config import ROOT
from transformations.files import replacing, replacing_folder, sweep
from transformations.layout import as_of_name, parse_as_of_name, partition, partitions


def test_replacing_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "table" / "part-0.parquet"
    for content in ("old", "new"):
        with replacing(target) as temporary:
            temporary.write_text(content)
            assert temporary.parent == target.parent
            assert temporary.suffix == ".tmp"

    assert target.read_text() == "new"
    assert list(tmp_path.rglob("*")) == [target.parent, target]


def test_a_failure_leaves_the_last_good_file(tmp_path: Path) -> None:
    target = tmp_path / "part-0.parquet"
    target.write_text("good")

    def fail_half_way() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    assert target.read_text() == "good"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "part-0.parquet"):
        pass

    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from transformations.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_last_good_file_and_sweep_the_rest(tmp_path: Path) -> None:
    target = tmp_path / "as_of=2026-01-31" / "part-0.parquet"
    target.parent.mkdir()
    target.write_text("good")
    spool = tmp_path / "state" / "stg_activity.tmp"
    spool.mkdir(parents=True)
    (spool / "judged-0.parquet").write_text("half")

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )

    assert killed.returncode == -signal.SIGKILL
    assert target.read_text() == "good"
    assert list(target.parent.glob("*.parquet")) == [target]
    assert sweep(tmp_path) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [target]


def test_sweep_leaves_a_folder_that_is_being_filled(tmp_path: Path) -> None:
    """A server makes its item table while the daily run sweeps."""
    target = tmp_path / "table"
    with replacing_folder(target) as temporary:
        (temporary / "vectors.npy").write_text("half")
        assert sweep(tmp_path) == 0
        (temporary / "ids.arrow").write_text("the rest")
    assert sorted(file.name for file in target.iterdir()) == ["ids.arrow", "vectors.npy"]
    assert sweep(tmp_path) == 0
    # Given up on: it removes itself, and holds nothing any more.
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "other"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [target]


FILLED = """
import os, signal, sys
from pathlib import Path
from transformations.files import replacing_folder
with replacing_folder(Path(sys.argv[1])) as temporary:
    (temporary / "vectors.npy").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sweep_removes_the_folder_of_a_process_that_was_killed(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", FILLED, str(tmp_path / "table")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("timestamp", "name"),
    [
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31"),
        (datetime(2026, 1, 31, 6, 30, tzinfo=UTC), "2026-01-31T06-30-00"),
        (datetime(2026, 1, 31, 0, 0, 0, 1, tzinfo=UTC), "2026-01-31T00-00-00.000001"),
        (datetime(2026, 1, 31, 1, tzinfo=timezone(timedelta(hours=1))), "2026-01-31"),
    ],
)
def test_names_of_timestamps(timestamp: datetime, name: str) -> None:
    assert as_of_name(timestamp) == name
    assert parse_as_of_name(name) == timestamp


@settings(max_examples=100, deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))
def test_every_timestamp_has_its_name(timestamp: datetime) -> None:
    assert parse_as_of_name(as_of_name(timestamp)) == timestamp


@pytest.mark.parametrize("name", ["", "2026-13-01", "today", "2026-01-31T06:30:00"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a partition name like 2026-01-31"):
        parse_as_of_name(name)


def test_partitions_are_those_that_are_whole(tmp_path: Path) -> None:
    timestamps = [datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 31, 12, tzinfo=UTC)]
    for timestamp in timestamps:
        with replacing(partition(tmp_path, timestamp)) as temporary:
            temporary.write_text("rows")
    empty = partition(tmp_path, datetime(2026, 3, 1, tzinfo=UTC))
    empty.parent.mkdir()
    empty.with_name("part-0.parquet.x.tmp").write_text("half")

    assert partitions(tmp_path) == sorted(timestamps)
    assert partitions(tmp_path / "none") == []
