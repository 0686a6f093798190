"""Sources in an object store: which files they are, by commits or by folders, and their rows."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.offline_stores.file_source import FileSource
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from stores.objects import files_in_force, find_objects, not_read
from stores.parquet import folder_keys, source_root
from stores.writing.newest import Columns, newest_batches, parquet_path
from tests.worlds.objects import object_store
from transformations.objects.commits import Added, Commit, Commits, manifest

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("a.parquet", "b.parquet", "c.parquet", "_layout.json")


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES))), max_size=8
    )
)
def test_both_readers_of_commits_find_the_same(changes: list[tuple[set[str], set[str]]]) -> None:
    history: dict[int, Commit] = {}
    for put, gone in changes:
        number = len(history) + 1
        added = {name: Added(name, f"{name}-{number}", "", 1, None, "") for name in sorted(put)}
        history[number] = Commits(history).change(added, gone - put, str(number), NOON)
    texts = {manifest(number): commit.text() for number, commit in history.items()}
    expected = sorted(added.file for added in Commits(history).files.values())
    assert files_in_force(texts) == expected


def test_a_folder_without_manifests_is_read_as_one_on_a_disk() -> None:
    MemoryFileSystem.store.clear()
    store = MemoryFileSystem()
    for name in ("day=1/b.parquet", "day=1/A.PARQUET", "_temporary/c.parquet", "note.txt"):
        store.pipe_file(f"memory://rows/{name}", b"")
    assert find_objects("memory://rows") == [
        "memory://rows/day=1/A.PARQUET",
        "memory://rows/day=1/b.parquet",
    ]
    assert find_objects("memory://rows/note/x.parquet") == ["memory://rows/note/x.parquet"]
    with pytest.raises(FileNotFoundError, match=r"that end in \.parquet at memory://nothing"):
        find_objects("memory://nothing")


def test_what_fsspec_cannot_read_is_left_to_feast() -> None:
    assert not_read("/rows", None) is None
    assert not_read("file:///rows", "http://here") is None
    assert not_read("memory://rows", None) is None
    assert not_read("memory://rows", "http://here") == "at the endpoint http://here"
    assert str(not_read("xx://rows", None)).startswith("which fsspec cannot (Protocol not known")
    source = FileSource(path="xx://rows/a.parquet", timestamp_field="at")
    assert parquet_path(source, None) is None


def test_the_newest_rows_are_those_of_the_same_files_on_a_disk(tmp_path: Path) -> None:
    """In folders that give a column, and a file that a pattern would match more than."""
    columns = Columns(["member"], ["value", "day"], "at", None)

    def newest(path: str) -> list[dict[str, Any]]:
        found = newest_batches(
            path,
            columns,
            NOON - timedelta(days=9),
            NOON,
            batch_rows=2,
            memory_limit="100MB",
            threads=1,
        )
        rows = [row for batch in found for row in batch.to_pylist()]
        return sorted(rows, key=lambda row: row["member"])

    for day in (1, 2):
        members = list(range(day, day + 4))
        table = pa.table(
            {
                "member": members,
                "value": [day * 10 + member for member in members],
                "at": pa.array([NOON - timedelta(hours=3 - day)] * 4, pa.timestamp("us", "UTC")),
            }
        )
        file = tmp_path / "rows" / f"day={day}" / "a [1].parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(table, file)
    with object_store() as store:
        url = store.put_folder(tmp_path / "rows", "rows")
        found = newest(url)
        assert source_root(url) == Path("s3:/team/rows")
        assert folder_keys(source_root(url), find_objects(url)[0]) == {"day": "1"}
    assert found == newest(str(tmp_path / "rows"))
    assert [row["value"] for row in found] == [11, 22, 23, 24, 25]
