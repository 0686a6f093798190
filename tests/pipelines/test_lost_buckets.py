"""Files of buckets that are lost, and a disk that is full: the next run ends with what is right."""

import resource
import shutil
from pathlib import Path

import duckdb
import pytest

from pipelines.engine import engine_of
from tests.pipelines.test_engine import (
    BUCKETS,
    EVENTS,
    LOCAL,
    build,
    configured,
    member_tables,
    run_workspace,
    tables_of,
    write_events,
)
from tests.worlds.lost_tasks import there
from tests.worlds.workspace import DAY, END
from transformations.config import Config
from transformations.layout import partition_files, snapshot_files


def configured_by(engine: dict, folder: Path) -> Config:
    source = folder / "events.parquet"
    if not source.exists():
        write_events(source, EVENTS, [(None, None)] * len(EVENTS), "int64")
    return configured(folder, source, "int64", BUCKETS, engine)


def test_lost_files_of_actions_are_read_from_the_source_again(tmp_path: Path) -> None:
    config = configured_by(LOCAL, tmp_path)
    build(config)
    truth = tables_of(config)
    shutil.rmtree(config.layout.activity / "bucket=2")
    partition_files(config.layout.activity)[0].unlink()
    build(config)
    assert tables_of(config) == truth


def test_lost_files_of_snapshots_are_built_again(tmp_path: Path) -> None:
    made = run_workspace(tmp_path, BUCKETS, LOCAL)
    truth, layout = member_tables(made), made.config.layout
    view = sorted(layout.all_embeddings.iterdir())[0].name
    for table, as_of in (
        (layout.sequences, END),
        (layout.sequences, END - DAY),
        (layout.table(view), END - 2 * DAY),
    ):
        snapshot_files(table, as_of)[1].unlink()
    made.backfill(END - 2 * DAY, END - DAY)
    made.run(END)
    assert member_tables(made) == truth


def test_a_full_disk_in_a_task_keeps_what_was(tmp_path: Path) -> None:
    """A limit on file size, which the processes of a pool take over; as a full disk."""
    config = configured_by(LOCAL, tmp_path)
    build(config)
    truth = tables_of(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = configured_by(LOCAL | {"memory": "301MB"}, tmp_path)  # a pool of its own
    source = tmp_path / "events.parquet"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        assert len([*engine_of(full).run(full, there, [source, source])]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises((OSError, duckdb.IOException), match=r"(?i)too large"):
        build(full)
    assert tables_of(config) == truth
    build(config)
    assert tables_of(config) == truth
    assert not list(config.data.rglob("*.tmp"))
