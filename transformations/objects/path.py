"""Paths of tables' files in an object store: the methods of `pathlib.Path` that readers need.

A path is a name, as `as_of=2026-03-01/part-0.parquet` below a table's folder; the commits of the
table say which object holds it now. Nothing is written by a path: `writing.py` does.
"""

import fnmatch
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from transformations.errors import ActivityError, RunFailedError
from transformations.files import replacing
from transformations.objects.commits import Added, Commit, Commits, number_of, parse

PARTITION = ("period=", "as_of=", "bucket=")
ATTEMPTS = 5

_COMMITS: dict[tuple[str, str], Commit] = {}
"""URL of a manifest and which object that is → what it says: it never changes."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """The name of a file or folder.

    Attributes:
        url: `s3://team/data/activity/period=2026-03-01/part-0.parquet`
        spool: A folder on a disk, where files are written before they are put into the store.
    """

    url: str
    spool: Path = field(compare=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: "str | PurePosixPath") -> "ObjectPath":
        return ObjectPath(f"{self.url}/{name}", self.spool)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """As `.parquet`."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "ObjectPath":
        """The folder that it lies in."""
        return ObjectPath(self.url.rpartition("/")[0], self.spool)

    @property
    def parents(self) -> "list[ObjectPath]":
        """All folders that it lies in, the nearest first."""
        scheme, _, rest = self.url.partition("://")
        parts = rest.split("/")
        urls = [f"{scheme}://{'/'.join(parts[:n])}" for n in range(len(parts) - 1, 0, -1)]
        return [ObjectPath(url, self.spool) for url in urls]

    def with_name(self, name: str) -> "ObjectPath":
        """Return the path of another name in the same folder."""
        return self.parent / name

    def is_relative_to(self, folder: "Path | ObjectPath") -> bool:
        """Whether it lies in a folder, or is that."""
        return self.url == str(folder) or self.url.startswith(f"{folder}/")

    def relative_to(self, folder: "Path | ObjectPath") -> PurePosixPath:
        """Return the path below a folder.

        Raises:
            ValueError: it does not lie there.
        """
        if not self.is_relative_to(folder):
            raise ValueError(f"{self} does not lie below {folder}")
        return PurePosixPath(self.url.removeprefix(str(folder)).removeprefix("/"))

    def exists(self) -> bool:
        """Whether it is a file in force, or a folder with one."""
        if self.entry() is not None:
            return True
        return not self.name.endswith((".parquet", ".json")) and self.is_dir()

    def is_file(self) -> bool:
        """Whether it is a file in force."""
        return self.entry() is not None

    def is_dir(self) -> bool:
        """Whether a file in force lies below it."""
        return bool(_below(self))

    def entry(self) -> Added | None:
        """Return what the table's commits say of this file; None where there is none."""
        table, name = table_of(self)
        return read(table).files.get(name) if name else None

    def stat(self) -> "Stat":
        """Return the size of a file, and what differs once it is another one."""
        found = self._entry()
        return Stat(found.bytes, found.file)

    def open(self, mode: str = "rb") -> IO[Any]:
        """Open a file to read it."""
        if mode not in ("r", "rb"):
            raise ValueError(f"expected r or rb, got {mode}")
        opened: IO[Any] = file_system(self.url).open(self.object_url(), mode)
        return opened

    def object_url(self) -> str:
        """Return the object that holds this file now; it never changes."""
        return f"{table_of(self)[0]}/{self._entry().file}"

    def read_text(self) -> str:
        """Read a file of text."""
        with self.open() as file:
            return str(file.read().decode())

    def bytes_below(self) -> int:
        """Return how much the files below it hold."""
        return sum(added.bytes for added in _below(self).values())

    def glob(self, pattern: str) -> "Iterator[ObjectPath]":
        """Yield the files and folders below this one that a pattern names, in order."""
        wanted = pattern.split("/")
        for parts in _files_and_folders(self):
            if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
                yield self / "/".join(parts)

    def rglob(self, pattern: str) -> "Iterator[ObjectPath]":
        """Yield the files and folders at any depth whose name a pattern names, in order."""
        for parts in _files_and_folders(self):
            if fnmatch.fnmatchcase(parts[-1], pattern):
                yield self / "/".join(parts)

    def _entry(self) -> Added:
        found = self.entry()
        if found is None:
            raise FileNotFoundError(f"expected the file {self}, got nothing")
        return found


@dataclass(frozen=True)
class Stat:
    """What `ObjectPath.stat` returns.

    Attributes:
        st_size: Bytes.
        object: The name of the object.
    """

    st_size: int
    object: str


def table_of(path: ObjectPath) -> tuple[ObjectPath, str]:
    """Return the folder of the table that a file lies in, and the file's name below it.

    >>> table, name = table_of(ObjectPath("s3://team/activity/period=2026-03-01/a", Path()))
    >>> str(table), name
    ('s3://team/activity', 'period=2026-03-01/a')
    """
    scheme, _, rest = path.url.partition("://")
    parts = rest.split("/")
    cut = next((n for n, part in enumerate(parts) if part.startswith(PARTITION)), len(parts) - 1)
    folder = f"{scheme}://{'/'.join(parts[:cut])}"
    return ObjectPath(folder, path.spool), "/".join(parts[cut:])


def copy_to(path: ObjectPath, place: Path) -> None:
    """Copy a file to a disk, where it is whole or absent."""
    with replacing(place) as temporary, path.open() as source, temporary.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def file_system(url: str) -> Any:
    """Return fsspec's file system of a URL, which asks the store again each time."""
    from fsspec.core import url_to_fs  # a tenth of a second, and most have no object store

    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith("s3://"):
        # Readers of Parquet ask for what they need; to read 50 MB ahead would be for nothing.
        options["default_cache_type"] = "none"
    return url_to_fs(url, **options)[0]


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Let an error of an object store, of whatever library, say what was asked and what to do.

    Raises:
        RunFailedError: the store does not answer as expected.
    """
    try:
        yield
    except (ActivityError, FileNotFoundError, ValueError):
        raise
    except Exception as error:
        raise RunFailedError(
            f"{url} cannot be reached: {type(error).__name__}: {error}. What was there before is "
            "as it was. Credentials, region and endpoint come from the environment "
            "(docs/object-stores.md)"
        ) from error


def read(table: ObjectPath) -> Commits:
    """Return the commits of a table, as they are now."""
    return next(iter(_read(table.url, recursive=False).values()), Commits({}))


def read_below(folder: ObjectPath) -> dict[ObjectPath, Commits]:
    """Return the commits of each table at or below a folder."""
    found = _read(folder.url, recursive=False) or _read(folder.url, recursive=True)
    return {ObjectPath(url, folder.spool): commits for url, commits in found.items()}


def _read(url: str, recursive: bool) -> dict[str, Commits]:
    for attempt in range(ATTEMPTS):
        try:
            with asking(url):
                return _read_once(url, recursive)
        except FileNotFoundError:  # a manifest that nobody needs went between the two steps
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


def _read_once(url: str, recursive: bool) -> dict[str, Commits]:
    store, scheme = file_system(url), url.partition("://")[0]
    try:
        found = store.find(url, detail=True).values() if recursive else store.ls(url, detail=True)
    except FileNotFoundError:
        return {}
    manifests = {}
    for one in found:
        folder, _, name = one["name"].lstrip("/").rpartition("/")
        if (number := number_of(name)) is not None:
            which = str([one.get(key) for key in ("ETag", "mtime", "created", "size")])
            place = f"{scheme}://{folder}"
            manifests[one["name"]] = place, number, (f"{place}/{name}", which)
    unknown = [name for name, (_, _, key) in manifests.items() if key not in _COMMITS]
    # `cat` would ask for each whether it is there before it reads it.
    nothing = [None] * len(unknown)
    texts = store.cat_ranges(unknown, nothing, nothing, on_error="raise") if unknown else []
    for name, text in zip(unknown, texts, strict=True):
        _COMMITS[manifests[name][2]] = parse(name.rpartition("/")[2], text)
    tables: dict[str, dict[int, Commit]] = {}
    for table, number, key in manifests.values():
        tables.setdefault(table, {})[number] = _COMMITS[key]
    return {table: Commits(commits) for table, commits in tables.items()}


def _below(folder: ObjectPath) -> dict[str, Added]:
    """Return the files below a folder, by their names below it."""
    table, name = table_of(folder)
    inside = f"{name}/" if name.startswith(PARTITION) else ""
    tables = {table: read(table)} if inside else read_below(folder)
    return {
        str((one / added.name).relative_to(folder)): added
        for one, commits in tables.items()
        for added in commits.files.values()
        if added.name.startswith(inside)
    }


def _files_and_folders(folder: ObjectPath) -> list[list[str]]:
    found = {
        tuple(parts[:depth])
        for parts in (name.split("/") for name in _below(folder))
        for depth in range(1, len(parts) + 1)
    }
    return [list(parts) for parts in sorted(found)]
