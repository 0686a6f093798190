"""What is kept of a table: objects by their sums, an index that no kill leaves false."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.worlds.archive import Table, stage, tables
from tests.worlds.events import AS_OF, DAY, configure
from transformations import archive
from transformations.config import Config
from transformations.errors import RunFailedError
from transformations.forget import Forgotten, forget_files
from transformations.tombstones import Tombstones

GOOD = (1, 42, 10, "SAVE", "2026-03-01 10:00:00", "2026-03-01 11:00:00")
OTHER = (2, "7", 20, "APPLY", "2026-03-02 10:00:00", None)
BAD = (3, 42, "x", "SAVE", "2026-03-02", None)
READ = archive.Read(AS_OF, AS_OF, "sqlite:///shop.db events", archive.TABLE, "events", "who\x1fid")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def objects(config: Config) -> list[Path]:
    return sorted((config.layout.archive / "objects").rglob("*.parquet"))


def test_a_read_is_kept_as_it_came_under_its_sum(table: Table) -> None:
    table.insert(GOOD, OTHER, BAD)
    stage(table.config, AS_OF)
    (read,) = archive.reads(table.config)
    (file,) = objects(table.config)
    assert file.stem == read.sha256 == sha256(file.read_bytes()).hexdigest()
    assert (read.rows, read.bytes, read.as_of) == (3, file.stat().st_size, AS_OF)
    assert read.source == f"sqlite:///{table.file} events"
    kept = pq.ParquetFile(file).read().drop_columns(["who\x1fid", "job\x1fid"]).to_pylist()
    assert [tuple(row.values()) for row in kept] == [
        tuple(None if value is None else str(value) for value in row[1:])
        for row in (GOOD, OTHER, BAD)
    ]
    assert list(archive.damage(table.config)) == []


def test_equal_rows_lie_there_once_and_a_read_of_nothing_is_noted(tmp_path: Path) -> None:
    table = Table(tmp_path)
    stage(table.config, AS_OF)
    table.insert(GOOD)
    for days in range(2):  # from the mark on, that value included
        stage(table.config, AS_OF + days * DAY)
    assert [read.rows for read in archive.reads(table.config)] == [0, 1, 1]
    assert len(objects(table.config)) == 1


def test_nothing_is_kept_of_files_nor_where_it_is_switched_off(tmp_path: Path) -> None:
    table = Table(tmp_path, archive={"sql": False})
    table.insert(GOOD)
    assert stage(table.config, AS_OF).rows_out == 1
    source = tmp_path / "events.csv"
    source.write_text("member_id,item_id,action,event_timestamp\n1,1,SAVE,2026-03-01\n")
    files = configure(tmp_path / "files", events={"source": str(source)})
    assert stage(files, AS_OF).rows_out == 1
    assert not any(config.layout.archive.exists() for config in (table.config, files))


def killed(child: Callable[[], object]) -> None:
    pid = os.fork()
    if not pid:
        child()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_killed_between_object_and_line_it_leaves_no_false_index(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.insert(GOOD, BAD)

    def first_run() -> None:
        monkeypatch.setattr(archive, "note", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        stage(table.config, AS_OF)

    killed(first_run)
    (orphan,) = objects(table.config)
    assert archive.reads(table.config) == []
    assert archive.orphans(table.config, AS_OF) == []  # its line may be on its way
    later = AS_OF.fromtimestamp(orphan.stat().st_mtime, AS_OF.tzinfo) + 2 * DAY
    assert archive.orphans(table.config, later) == [orphan]
    table.insert(OTHER)
    assert stage(table.config, AS_OF).rows_in == 3
    (read,) = archive.reads(table.config)
    assert read.rows == 3
    assert archive.orphans(table.config, later) == [orphan]  # of two rows


def test_a_line_that_was_cut_off_anywhere_is_none(tmp_path: Path) -> None:
    config = configure(tmp_path)
    for hours in range(2):
        archive.note(config, replace(READ, read_at=AS_OF + timedelta(hours=hours)))
    (file,) = config.layout.archive_index.iterdir()
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for end in (0, 1, 64, first - 1, first, first + 1, first + 64, len(whole) - 2):
        file.write_bytes(whole[:end])
        # Cut off between its sum and its end, a line is whole only with its newline.
        assert len(archive.reads(config)) == (end >= first)
        archive.note(config, replace(READ, rows=5))
        found = archive.reads(config)
        assert [read.rows for read in found] == [0] * (end >= first) + [5]
        assert list(archive.damage(config)) == []


def test_every_flipped_bit_of_the_index_is_named(tmp_path: Path) -> None:
    config = configure(tmp_path)
    archive.note(config, READ)
    archive.note(config, replace(READ, read_at=AS_OF + timedelta(hours=1)))
    (file,) = config.layout.archive_index.iterdir()
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = list(archive.damage(config))
        assert {one.file for one in found} == {file}, at
        with pytest.raises(RunFailedError, match=f"{file} is damaged: line"):
            archive.reads(config)
        archive.note(config, READ)  # what comes after it hides it not
        assert list(archive.damage(config))[: len(found)] == found
    archive.give_up_damaged(config)
    assert list(archive.damage(config)) == []
    assert len(archive.reads(config)) == 2


def test_a_flipped_bit_of_an_object_is_named_and_can_be_given_up(table: Table) -> None:
    for row in (GOOD, OTHER):
        table.insert(row)
        stage(table.config, AS_OF)
    first, second = (read.sha256 or "" for read in archive.reads(table.config))
    file = table.config.layout.archived(first)
    content = bytearray(file.read_bytes())
    for at in range(0, len(content), 97):
        content[at] ^= 16
        file.write_bytes(content)
        assert [one.file for one in archive.damage(table.config)] == [file]
        content[at] ^= 16
    file.unlink()
    (found,) = archive.damage(table.config)
    assert "cannot be read" in found.why
    archive.give_up_damaged(table.config)
    assert [read.sha256 for read in archive.reads(table.config)] == [second]


def test_a_damaged_object_is_mended_by_the_same_read(table: Table) -> None:
    table.insert(GOOD)
    stage(table.config, AS_OF)
    (file,) = objects(table.config)
    file.write_bytes(b"x")
    stage(table.config, AS_OF)
    assert list(archive.damage(table.config)) == []


def test_days_go_with_the_objects_that_only_they_name(tmp_path: Path) -> None:
    config = configure(tmp_path)
    for day, names in ((1, "ab"), (2, "bc"), (3, "c")):
        for name in names:
            file = tmp_path / name
            file.write_text(name)
            sha = archive.put(config, file)
            archive.note(config, replace(READ, read_at=AS_OF + day * DAY, sha256=sha))
    first = config.layout.archive_index / f"{AS_OF + DAY:%Y-%m-%d}.jsonl"
    assert archive.old(config, AS_OF + DAY) == []
    assert archive.old(config, AS_OF + 2 * DAY - timedelta(hours=1)) == []
    a = config.layout.archived(sha256(b"a").hexdigest())
    assert archive.old(config, AS_OF + 2 * DAY) == [first, a]
    days = (date(2026, 3, 12), date(2026, 3, 12))
    assert len(archive.reads(config, *days)) == 2


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_a_forgotten_member_is_in_no_object(tmp_path: Path, id_type: str) -> None:
    table = Table(tmp_path, id_type=id_type)
    member = 42 if id_type == "int64" else "42"
    table.insert(GOOD, (3, "42", None, "SWIM", "2026-03-02", None), OTHER)
    stage(table.config, AS_OF)
    table.insert((4, 42, 11, "SAVE", "2026-03-03", None))
    stage(table.config, AS_OF)
    before = archive.reads(table.config)
    tombstones = Tombstones(table.config)
    tombstones.add([member])
    forget_files(table.config, [member], Forgotten())  # which leaves the archive alone
    assert archive.reads(table.config) == before
    assert list(archive.damage(table.config)) == []

    # The second read begins with the last value of the first, which is read twice.
    assert archive.forget(table.config, tombstones) == 2 + 2
    assert [read.rows for read in archive.reads(table.config)] == [1, 0]
    assert list(archive.damage(table.config)) == []
    (file,) = objects(table.config)
    assert pq.ParquetFile(file).read()["who"].to_pylist() == ["7"]
    assert archive.forget(table.config, tombstones) == 0
    # What the source still holds does not come back into the archive either.
    table.insert((5, 42, 11, "SAVE", "2026-03-04", None), (5, "7", 9, "SAVE", "2026-03-04", None))
    stage(table.config, AS_OF)
    assert archive.reads(table.config)[-1].rows == 1
    assert "42" not in str(tables(table.config))


@pytest.mark.parametrize("step", ["put", "_rewrite", "_unnamed"])
def test_killed_while_it_forgets_it_can_be_run_again(
    table: Table, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    table.insert(GOOD, OTHER)
    stage(table.config, AS_OF)
    tombstones = Tombstones(table.config)
    tombstones.add([42])

    def forgets() -> None:
        whole = getattr(archive, step)

        def then_dies(*arguments: object) -> None:
            whole(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(archive, step, then_dies)
        archive.forget(table.config, tombstones)

    killed(forgets)
    assert list(archive.damage(table.config)) == []
    archive.forget(table.config, tombstones)
    (file,) = objects(table.config)
    (read,) = archive.reads(table.config)
    assert (read.sha256, read.rows) == (file.stem, 1)
    assert pq.ParquetFile(file).read()["who"].to_pylist() == ["7"]
