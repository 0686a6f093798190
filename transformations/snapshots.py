"""A member table's snapshot while it is written: one file per bucket, which appear together.

A task writes a bucket's file under a name that no other attempt has (`attempts`), and says what it
wrote (`Written`); whoever started the tasks takes one attempt per bucket (`Unfinished.take`). A
task that runs twice, as where a machine was lost, therefore never changes what was taken.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from transformations.errors import RunFailedError
from transformations.files import replacing, swapping_folder, sync
from transformations.layout import PART, Layout, bucket_folder, partition, snapshot_files
from transformations.seals import content_of, seal


@dataclass(frozen=True)
class Written:
    """A file as a task wrote it.

    Attributes:
        path: Its name, which no other attempt has.
        content: Its rows, bytes and SHA-256.
    """

    path: Path
    content: dict[str, Any]


@contextmanager
def attempts(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a name beside each file, for one attempt to write it; if it fails, they are removed."""
    names = [file.with_name(f"{file.name}.{uuid4().hex}.tmp") for file in files]
    try:
        yield names
    except BaseException:
        for name in names:
            name.unlink(missing_ok=True)
        raise


def finished(path: Path) -> Written:
    """Say what an attempt wrote, once it is on disk."""
    sync(path)
    return Written(path, content_of(path))


class Unfinished:
    """A snapshot of one table that is being written.

    Attributes:
        files: Each bucket's file, in their order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._taken: dict[int, dict[str, Any]] = {}

    def take(self, index: int, written: Written) -> None:
        """Let an attempt be the file of the bucket at this index."""
        written.path.replace(self.files[index])
        self._taken[index] = written.content

    @property
    def contents(self) -> list[dict[str, Any]]:
        """What each file holds.

        Raises:
            RunFailedError: a file was never taken.
        """
        lacking = [str(index) for index in range(len(self.files)) if index not in self._taken]
        if lacking:
            raise RunFailedError(
                f"expected {len(self.files)} files of {self.files[0].parent}, one per bucket, got "
                f"none of {', '.join(lacking)}; run again"
            )
        return [self._taken[index] for index in range(len(self.files))]


@contextmanager
def replacing_snapshot(
    layout: Layout,
    folder: Path,
    as_of: datetime,
    made_by: str,
    buckets: Sequence[int | None],
) -> Iterator[Unfinished]:
    """Yield a table's snapshot to write; its files appear in one step when the block succeeds.

    Args:
        folder: Of the table.
        made_by: What makes it, for the seals.
        buckets: Those that have a file each; [None]: one file, in no bucket.

    Raises:
        RunFailedError: a bucket's file is not there.
    """
    file = partition(folder, as_of)
    if [*buckets] == [None] and snapshot_files(folder, as_of) in ([], [file]):
        with replacing(file) as temporary:
            snapshot = Unfinished([temporary])
            yield snapshot
            (content,) = snapshot.contents
            seal(file, made_by, temporary, found=content)
        return
    with swapping_folder(file.parent, layout.tasks) as temporary_folder:
        files = [bucket_folder(temporary_folder, bucket) / PART for bucket in buckets]
        for each in files:
            each.parent.mkdir(exist_ok=True)
        snapshot = Unfinished(files)
        yield snapshot
        for abandoned in temporary_folder.rglob("*.tmp"):  # of tasks that were lost
            abandoned.unlink(missing_ok=True)
        for each, content in zip(files, snapshot.contents, strict=True):
            seal(each, made_by, is_locked=each.parent == temporary_folder, found=content)
