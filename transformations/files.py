"""Files and folders that are either whole or absent."""

import ctypes
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from transformations.errors import NoSpaceError, is_no_space

# Of Linux: <fcntl.h> and renameat2(2).
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    The temporary name does not end in .parquet, so no reader's glob sees it. A killed process
    leaves the last good file and a temporary one, which `sweep` removes in the next run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        _name_if_full(path, error)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds.

    A folder cannot be replaced atomically, so an existing one is an error (OSError). The temporary
    folder stays locked while it is filled, because servers write folders while a run sweeps.
    """
    temporary, lock = _locked_beside(path)
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        temporary.rename(path)
        sync(path.parent)
    except Exception as error:
        _name_if_full(path, error)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextmanager
def swapping_folder(path: Path, beside: Path) -> Iterator[Path]:
    """Yield a temporary folder in `beside`; it takes the place of `path` when the block succeeds.

    In one step where the file system can exchange two names (Linux: ext4, xfs, btrfs, tmpfs). Else
    `path` is absent for a moment, and if the process is killed just then; it is never half there.
    The temporary folder stays locked while it is filled, and `sweep` removes it where it was left.

    Args:
        beside: A folder on the same file system, which no reader of `path` looks into.
    """
    temporary, lock = _locked_beside(beside / path.name)
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _exchange(temporary, path):
            shutil.rmtree(path)
        if not path.exists():
            temporary.rename(path)
        sync(path.parent)
    except Exception as error:
        _name_if_full(path, error)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return whether this file system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def _name_if_full(path: Path, error: Exception) -> None:
    """Raise NoSpaceError, which names the path, if the error says that its disk is full."""
    if is_no_space(error) and not isinstance(error, NoSpaceError):
        kept = "It is as it was before" if path.exists() else "Nothing was written there"
        raise NoSpaceError(path, kept, error) from None


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yield a path to a folder without `[`, `*` or `?`, which TensorFlow takes as a pattern."""
    if not glob.has_magic(str(folder)):
        yield folder
        return
    with TemporaryDirectory() as beside:
        link = Path(beside, "folder")
        link.symlink_to(folder.resolve())
        yield link


def _locked_beside(path: Path) -> tuple[Path, int]:
    """Make a temporary folder beside `path`; return it and the handle that holds its lock."""
    while True:
        temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
        temporary.mkdir(parents=True)
        try:
            handle = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept away before it could be locked
        fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, handle
        os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made; it ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> int:
    """Remove what killed runs left below `folder`; return how many. One run at a time only.

    A folder that another process (a server) is filling stays.
    """
    removed = 0
    for path in [path for path in folder.rglob("*.tmp") if path.exists()]:
        if path.is_dir():
            removed += _remove_unlocked(path)
        else:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _remove_unlocked(folder: Path) -> bool:
    """Remove a folder unless `replacing_folder` holds it; return whether it did."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False  # it was renamed to its final name
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
