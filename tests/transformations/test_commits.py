"""Commits in an object store: what readers see, whoever writes and dies when."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transformations import clock
from transformations.errors import RunFailedError
from transformations.objects.commits import MOST, manifest, number_of
from transformations.objects.path import ObjectPath, read
from transformations.objects.writing import (
    KEPT,
    TwoWritersError,
    Writing,
    committing,
    drop_old,
    remove_below,
    tidy,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ["as_of=1/part-0", "as_of=2/part-0", "as_of=2/part-1", "plain"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


class Store:
    """Memory as an object store that a writer may be killed before or after it changes.

    Attributes:
        changes: The names of the objects that were put or removed, in order.
        dies: At which change from now on, and whether after it was done.
    """

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.dies: tuple[int, bool] | None = None

    def patched(self, name: str) -> AbstractContextManager[Any]:
        """Let a method of the file system be counted."""
        real = getattr(MemoryFileSystem, name)
        path_at = 1 if name == "put_file" else 0

        def method(fs: MemoryFileSystem, *args: Any, **kwargs: Any) -> Any:
            left, after = self.dies or (-1, False)
            if left == 0 and not after:
                raise Killed
            done = real(fs, *args, **kwargs)
            self.changes.append(args[path_at].rpartition("/")[2])
            if left == 0:
                raise Killed
            self.dies = None if self.dies is None else (left - 1, after)
            return done

        return patch.object(MemoryFileSystem, name, method)


@pytest.fixture
def store() -> Iterator[Store]:
    counted = Store()
    MemoryFileSystem.store.clear()
    with counted.patched("put_file"), counted.patched("pipe_file"), counted.patched("rm_file"):
        yield counted


def fill(writing: Writing, name: str, content: str) -> None:
    path = writing.table / name
    place = writing.place(path)
    place.write_text(content)
    found = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "bytes": len(content)}
    writing.add(path, "a test", found)


def write(table: ObjectPath, put: dict[str, str], gone: tuple[str, ...] = ()) -> None:
    with committing(table) as writing:
        for name, content in put.items():
            fill(writing, name, content)
        writing.gone |= {*gone}


def seen(table: ObjectPath) -> dict[str, str]:
    """What a reader finds, by its own way: paths."""
    files = [path for path in table.rglob("*") if path.is_file()]
    return {str(path.relative_to(table)): path.read_text() for path in files}


def objects(table: ObjectPath) -> set[str]:
    """All objects of data, whether or not a commit names them."""
    below = f"/{table.url.partition('://')[2]}/"
    every = [name.removeprefix(below) for name in MemoryFileSystem.store if name.startswith(below)]
    return {name for name in every if number_of(name) is None}


def table_in(folder: Path, name: str = "table") -> ObjectPath:
    return ObjectPath(f"memory://bucket/{name}", folder / "spool")


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),  # the writer: it begins a commit, or ends the one that it has begun
        st.dictionaries(st.sampled_from(NAMES), st.text("abc", max_size=3), max_size=3),
        st.sets(st.sampled_from(NAMES), max_size=2),
        st.none() | st.tuples(st.integers(0, 5), st.booleans()),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(STEPS)
def test_readers_see_whole_commits_only_in_the_order_of_their_manifests(
    store: Store, tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Two writers, deaths between any two changes of the store, old objects that go."""
    MemoryFileSystem.store.clear()
    table = table_in(tmp_path_factory.mktemp("disk"))
    model: dict[str, str] = {}
    begun: dict[int, tuple[Any, Writing, dict[str, str], dict[str, str], set[str]]] = {}
    for day, (writer, put, gone, dies) in enumerate(steps):
        gone = gone - {*put}
        now = NOON + day * timedelta(hours=13)
        with clock.moved(lambda now=now: now):  # type: ignore[misc]
            if writer not in begun:
                block = committing(table)
                begun[writer] = block, block.__enter__(), dict(model), put, gone
                continue
            block, writing, before, put, gone = begun.pop(writer)
            for name, content in put.items():
                fill(writing, name, content)
            writing.gone |= gone
            clashes = any(model.get(name) != before.get(name) for name in (*put, *gone))
            after = {name: content for name, content in (model | put).items() if name not in gone}
            store.changes.clear()
            store.dies = dies
            try:
                block.__exit__(None, None, None)
                assert not clashes or not {*put, *gone}
                model = after
            except TwoWritersError:
                # The same content under another object is another file too.
                assert {*put, *gone}
                assert not any(number_of(name) for name in store.changes)
            except Killed:
                if any(number_of(name) for name in store.changes):
                    model = after
            store.dies = None
            assert seen(table) == model
    begun.clear()  # writers that died without a word
    tidy(table.spool)
    assert seen(table) == model
    assert objects(table) <= read(table).named
    drop_old(table, NOON + timedelta(days=100))
    assert seen(table) == model
    assert objects(table) == {added.file for added in read(table).files.values()}


def test_what_nobody_needs_goes_a_day_later_with_the_next_commit(
    store: Store, tmp_path: Path
) -> None:
    table = table_in(tmp_path)
    with clock.moved(lambda: NOON):
        write(table, {"a": "old", "b": "kept"})
        write(table, {"a": "new"})
    assert len(objects(table)) == 3
    with clock.moved(lambda: NOON + KEPT):
        write(table, {"c": "1"})
    assert len(objects(table)) == 4, "a reader that began before may still read it"
    with clock.moved(lambda: NOON + KEPT + timedelta(seconds=1)):
        write(table, {"c": "2"})
    assert len(objects(table)) == 4  # a's old one went, and c has two
    assert seen(table) == {"a": "new", "b": "kept", "c": "2"}


def test_a_change_of_what_was_read_before_is_noticed(store: Store, tmp_path: Path) -> None:
    """Of a merge: another writer came between reading and the beginning of the commit."""
    table = table_in(tmp_path)
    write(table, {"a": "1"})
    was = read(table).files["a"]
    write(table, {"a": "2"})
    with (
        pytest.raises(TwoWritersError, match="memory://bucket/table/a, got a commit of another"),
        committing(table, made_from={"a": was}) as writing,
    ):
        fill(writing, "a", "1 and more")
    assert seen(table) == {"a": "2"}
    assert tidy(table.spool) == 1
    assert len(objects(table)) == 2


def test_writers_of_other_files_wait_for_no_one(store: Store, tmp_path: Path) -> None:
    table = table_in(tmp_path)
    with committing(table) as first, committing(table) as second:
        fill(first, "a", "1")
        fill(second, "b", "2")
    assert seen(table) == {"a": "1", "b": "2"}


def test_a_manifest_whose_answer_was_lost_counts(store: Store, tmp_path: Path) -> None:
    table, real = table_in(tmp_path), MemoryFileSystem.pipe_file

    def lost(fs: MemoryFileSystem, *args: Any, **kwargs: Any) -> None:
        real(fs, *args, **kwargs)
        raise OSError("the connection was closed")

    with patch.object(MemoryFileSystem, "pipe_file", lost):
        write(table, {"a": "1"})
    assert seen(table) == {"a": "1"}


def test_a_store_that_fails_leaves_what_was(store: Store, tmp_path: Path) -> None:
    table = table_in(tmp_path)
    write(table, {"a": "1"})
    with (
        patch.object(MemoryFileSystem, "pipe_file", side_effect=OSError("no")),
        pytest.raises(RunFailedError, match="memory://bucket/table cannot be reached: OSError: no"),
    ):
        write(table, {"a": "2"})
    assert seen(table) == {"a": "1"}
    assert len(objects(table)) == 2
    assert tidy(table.spool) == 1
    assert len(objects(table)) == 1


def test_many_commits_become_one(store: Store, tmp_path: Path) -> None:
    """Readers ask for each manifest, so there are never many in force."""
    table, model = table_in(tmp_path), {}
    for number in range(MOST + 2):
        model[f"as_of={number}/part"] = str(number)
        write(table, {f"as_of={number}/part": str(number)})
    assert seen(table) == model
    drop_old(table, clock.now() + KEPT)
    left = Counter(number_of(name.rpartition("/")[2]) is None for name in MemoryFileSystem.store)
    assert left == {True: MOST + 2, False: 1}
    assert seen(table) == model


def test_a_folder_that_is_removed_takes_its_objects_along(store: Store, tmp_path: Path) -> None:
    every = table_in(tmp_path, "all")
    version = every / "items" / "encoder=text" / "version=1"
    write(version, {"part-1": "", "part-2": ""})
    remove_below(version / "part-1")
    assert seen(version) == {"part-2": ""}
    remove_below(version)
    assert not objects(version)
    for name in ("one", "other"):
        write(every / name, {f"as_of={day}/part-0": name for day in (1, 2)})
    assert [str(path.relative_to(every)) for path in every.glob("*")] == ["one", "other"]
    remove_below(every / "one" / "as_of=1")
    assert [path.url for path in (every / "one").glob("as_of=*/part-0")] == [
        "memory://bucket/all/one/as_of=2/part-0"
    ]
    remove_below(every / "other")
    assert [path.name for path in every.rglob("part-0")] == ["part-0"]
    assert not (every / "other").exists()
    assert not objects(every / "other")
    assert len(objects(every / "one")) == 2, "a reader of the partition may have begun"


def test_a_manifest_that_is_none_is_named(store: Store, tmp_path: Path) -> None:
    table = table_in(tmp_path)
    MemoryFileSystem().pipe_file(f"{table}/{manifest(1)}", b"[]")
    with pytest.raises(ValueError, match=r"_commit-00000001\.json is not a manifest"):
        read(table)
