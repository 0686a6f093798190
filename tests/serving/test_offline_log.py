"""Spools and parts: what a death leaves of them, at any byte and between any two steps."""

import multiprocessing
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.stream.offline_log import OfflineLog, _append_folder, parts, spools
from tests.worlds.events import configure
from transformations.config import Config
from transformations.names import SEQUENCE_VIEW

SPAWNED = multiprocessing.get_context("spawn")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure(tmp_path)


def rows(first: int, last: int) -> pa.RecordBatch:
    return pa.record_batch({"member_id": pa.array(range(first, last), pa.int64())})


def appended(config: Config) -> list[int]:
    """The members of all parts, in order."""
    return [
        member
        for part in parts(config.layout.sequences)
        for member in pq.ParquetFile(part).read()["member_id"].to_pylist()
    ]


def test_a_spool_cut_off_at_any_byte_yields_whole_batches(config: Config) -> None:
    log = OfflineLog(config, "cut")
    ends = []
    for first, last in ((0, 1), (1, 4), (4, 6)):
        log.append(SEQUENCE_VIEW, rows(first, last))
        ends.append((log._open[SEQUENCE_VIEW].size, last))
    (spool,) = log._folder.glob("*/*.arrows")
    whole = spool.read_bytes()
    assert len(whole) == ends[-1][0]  # what was appended is in the file at once
    for size in range(len(whole) + 1):
        spool.write_bytes(whole[:size])
        members = max((last for end, last in ends if end <= size), default=0)
        assert _append_folder(config, log._folder) == members, size
        assert appended(config) == list(range(members)), size
        assert [file.name for file in log._folder.glob("*/*")] == [], size
        for part in parts(config.layout.sequences):
            part.unlink()
    log.close()


def dies_with_a_part_and_its_spool(config: Config) -> None:
    log = OfflineLog(config, "dies")
    log.append(SEQUENCE_VIEW, rows(0, 3))
    Path.unlink = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    log.flush()


@pytest.mark.parametrize("later", ["the same day", "another day"])
def test_a_death_between_a_part_and_the_end_of_its_spool_doubles_nothing(
    config: Config, later: str
) -> None:
    child = SPAWNED.Process(target=dies_with_a_part_and_its_spool, args=(config,))
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    (part,) = parts(config.layout.sequences)
    assert len(list(spools(config).glob("dies-*/*/*.arrows"))) == 1
    if later == "another day":
        part.parent.rename(part.parent.with_name("as_of=stream-2026-01-01"))
    log = OfflineLog(config, "lives")
    assert log.recover() == 3
    assert appended(config) == [0, 1, 2]
    assert log.recover() == 0
    log.close()
    assert list(spools(config).iterdir()) == []
