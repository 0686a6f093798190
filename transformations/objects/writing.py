"""Writing tables in an object store: files go up under new names, and a manifest last.

What a commit holds is written in a folder of the spool, which stays locked meanwhile. Where a
writer was killed, or the store failed, the folder is left, unlocked, and names the objects that may
be there in vain: `tidy` removes both. Objects that no commit in force names any more go with a
later commit of their table, once whoever began to read them has had KEPT to end.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, cast
from uuid import uuid4

from transformations import clock
from transformations.errors import RunFailedError
from transformations.files import sync
from transformations.objects.commits import Added, Commit, manifest, parse
from transformations.objects.path import (
    PARTITION,
    ObjectPath,
    asking,
    file_system,
    read,
    read_below,
    table_of,
)

KEPT = timedelta(days=1)
NOTE = "_objects.json"


class TwoWritersError(RunFailedError):
    """Another writer has changed what this one was about to replace; nothing of it was written."""


@dataclass
class Writing:
    """A commit of a table that is being written.

    Attributes:
        table: The table's folder.
        folder: Where its files lie until they are put into the store.
        put: What it adds, by the names of the files.
        gone: Names of files that it takes away.
    """

    table: ObjectPath
    folder: Path
    key: str
    put: dict[str, Added] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def place(self, path: ObjectPath) -> Path:
        """Return where a file's content is written, on the disk."""
        name = PurePosixPath(self._name(path))
        place = self.folder / name.with_name(f"{name.stem}-{self.key}{name.suffix}")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def add(self, path: ObjectPath, made_by: str, found: Mapping[str, Any]) -> None:
        """Let the content of a file's place be the file.

        Args:
            made_by: What made it.
            found: Its SHA-256, bytes, and rows if it is of Parquet (`seals.content_of`).
        """
        name, file = self._name(path), str(self.place(path).relative_to(self.folder))
        self.put[name] = Added(
            name, file, found["sha256"], found["bytes"], found.get("rows"), made_by
        )

    def _name(self, path: ObjectPath) -> str:
        table, name = table_of(path)
        if table != self.table:
            raise ValueError(f"expected a file of {self.table}, got {path}")
        return name


@contextmanager
def committing(
    table: ObjectPath, made_from: Mapping[str, Added | None] | None = None
) -> Iterator[Writing]:
    """Yield a commit to fill; it counts, as a whole, once the block has ended.

    Args:
        made_from: Name → what was in force of a file when it was read to make the new one; default:
            what is now.

    Raises:
        TwoWritersError: another writer has changed one of the files since.
    """
    begun = dict(read(table).files)
    with _locked_folder(table.spool) as folder:
        writing = Writing(table, folder, uuid4().hex)
        yield writing
        if not writing.put and not writing.gone:
            return
        expected = {name: begun.get(name) for name in (*writing.put, *writing.gone)}
        expected |= made_from or {}
        files = [added.file for added in writing.put.values()]
        (folder / NOTE).write_text(json.dumps({"table": table.url, "files": files}))
        sync(folder / NOTE)
        store = file_system(table.url)
        with asking(table.url):
            for file in files:
                store.put_file(str(folder / file), f"{table}/{file}")
            _commit(writing, expected)
    drop_old(table, clock.now() - KEPT)


@contextmanager
def replacing_object(path: Path) -> Iterator[Path]:
    """As `files.replacing`, of a file of a table in an object store that is not Parquet."""
    stored = cast(ObjectPath, path)
    with committing(table_of(stored)[0]) as writing:
        place = writing.place(stored)
        yield place
        content = place.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        writing.add(stored, "note", {"sha256": digest, "bytes": len(content)})


def remove_below(path: ObjectPath) -> None:
    """Take a file away, or all files at or below a folder; of a whole table, its objects too."""
    table, name = table_of(path)
    commits = read(table)
    is_inside = name.startswith(PARTITION) or name in commits.files
    for each, found in ({table: commits} if is_inside else read_below(path)).items():
        inside = {one for one in found.files if (each / one).is_relative_to(path)}
        if inside:
            with committing(each) as writing:
                writing.gone |= inside
        if not is_inside:
            drop_old(each, clock.now() + KEPT)


def drop_old(table: ObjectPath, before: datetime) -> None:
    """Remove the objects and manifests of a table that no longer count since before a time."""
    files, commits = read(table).done_with(before)
    with asking(table.url):
        _remove(table, files)
        for number in commits:  # in their order, each by itself
            _remove(table, [manifest(number)])


def tidy(spool: Path) -> int:
    """Remove what writers left that were killed or failed; return how many."""
    tidied = 0
    for folder in sorted(spool.glob("*")) if spool.exists() else ():
        handle = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if handle is None:
            continue  # its writer lives
        try:
            # Without a whole note, nothing had gone up.
            with suppress(FileNotFoundError, json.JSONDecodeError):
                note = json.loads((folder / NOTE).read_text())
                table = ObjectPath(note["table"], spool)
                named = read(table).named
                _remove(table, [file for file in note["files"] if file not in named])
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
        tidied += 1
    return tidied


@contextmanager
def _locked_folder(spool: Path) -> Iterator[Path]:
    """Yield a folder that is locked meanwhile, and then removed.

    But where the block fails once its objects are noted, nobody knows what the store has done, and
    `tidy` asks it.
    """
    handle = None
    while handle is None:  # else it was tidied before it could be locked
        folder = spool / uuid4().hex
        folder.mkdir(parents=True)
        handle = _lock(folder, fcntl.LOCK_EX)
    try:
        yield folder
    except BaseException:
        if not (folder / NOTE).exists():
            shutil.rmtree(folder)
        raise
    else:
        shutil.rmtree(folder)
    finally:
        os.close(handle)


def _lock(folder: Path, how: int) -> int | None:
    """Return a handle that holds a folder's lock; None where it cannot be had."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        os.close(handle)
        return None
    if folder.exists():
        return handle
    os.close(handle)
    return None


def _commit(writing: Writing, expected: Mapping[str, Added | None]) -> None:
    """Write the manifest, after those of other writers that change other files meanwhile."""
    table = writing.table
    while True:
        commits = read(table)
        for name, was in expected.items():
            if commits.files.get(name) != was:
                raise TwoWritersError(
                    f"expected to be the only one who writes {table / name}, got a commit of "
                    "another writer since this one read it. Nothing of this was written; see that "
                    "one run at a time writes there, and run again"
                )
        commit = commits.change(writing.put, writing.gone, writing.key, clock.now())
        if _put_first(table, commit):
            return


def _put_first(table: ObjectPath, commit: Commit) -> bool:
    """Write a manifest unless there is one of its number; return whether it is there.

    An answer may be lost after the store has done what it was asked, so what is there decides.
    """
    store, place = file_system(table.url), f"{table}/{manifest(commit.number)}"
    try:
        store.pipe_file(place, commit.text().encode(), mode="create")
    except Exception:
        try:
            there = store.cat_file(place)
        except FileNotFoundError:
            there = None
        if there is None:
            raise
        return parse(manifest(commit.number), there).key == commit.key
    return True


def _remove(table: ObjectPath, files: list[str]) -> None:
    store = file_system(table.url)
    for file in files:
        with suppress(FileNotFoundError):
            store.rm_file(f"{table}/{file}")
