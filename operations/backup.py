"""What cannot be made again, copied to one place while runs go on, and put back.

It holds the ledger, Feast's registry where it is a file, the fitted item encoders, packages, what
was registered, the id of the workspace, the tombstones and their key, impressions and logged
features. All else comes of the sources by a run. `manifest.json` names each file with its SHA-256.

The ledger is copied first. What it names was whole by then, and stays: so the copy is of one time,
though a run is under way. SQLite files are copied by SQLite's own backup
(https://sqlite.org/backup.html), never as bytes.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from operations.state_files import SQLITE, state_files
from operations.workspace import workspace_of
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError, RunFailedError
from transformations.files import replacing, replacing_folder

MANIFEST, FORMAT = "manifest.json", 1
REGISTRY = "registry/registry"
LEDGER = "state/ledger.db"
REPLACED = ("item_encoders", "artifacts", "registered", "mlflow")
"""Folders whose content belongs to the ledger: all of it is the backup's afterwards."""
ADDED = ("impressions", "logged_features")
"""Folders to which a restore adds the backup's files: what came since stays."""
TAR = ".tar"


@dataclass(frozen=True)
class Backup:
    """A backup: when it was made, of which workspace, and its files.

    Attributes:
        files: Path below the data folder, or REGISTRY → sha256 and bytes.
    """

    made_at: str
    workspace: str
    files: Mapping[str, Mapping[str, Any]]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(int(one["bytes"]) for one in self.files.values())


def back_up(config: Config, target: Path) -> Backup:
    """Copy what cannot be made again; nothing is locked, so a run may be under way.

    Args:
        target: A folder that is not there, or the name of a .tar file. Only its owner may read it,
            since it holds the key of the tombstones.

    Raises:
        InputError: nothing ran yet, or the target is there.
    """
    if not config.layout.ledger.exists():
        raise InputError(f"nothing was run yet into {config.data}: there is nothing to back up")
    if target.exists():
        raise InputError(f"expected a folder or a .tar file that is not there, {target} is")
    target.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, Mapping[str, Any]] = {}
    beside = TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.")
    with beside as aside, _writing(target) as put:
        for name, file in _to_keep(config):
            try:
                files[name] = put(name, _whole(file, Path(aside, "copy.db")))
            except FileNotFoundError:
                continue  # a run has just replaced or retired it
        made = Backup(clock.now().isoformat(timespec="seconds"), workspace_of(config).id, files)
        note = Path(aside, MANIFEST)
        held = {"format": FORMAT, "made_at": made.made_at, "workspace": made.workspace}
        note.write_text(json.dumps(held | {"files": files}, indent=1) + "\n")
        put(MANIFEST, note)
    return made


def registry_of(config: Config) -> Path | None:
    """Return Feast's registry, where it is a file."""
    found = (one.file for one in state_files(config) if one.name == "Feast's registry")
    return next(found, None)


def _to_keep(config: Config) -> Iterator[tuple[str, Path]]:
    layout = config.layout
    yield LEDGER, layout.ledger
    for file in (layout.workspace, layout.tombstones, layout.forget_key):
        if file.exists():
            yield file.relative_to(layout.root).as_posix(), file
    registry = registry_of(config)
    if registry is not None and registry.exists():
        yield REGISTRY, registry
    for folder in (*REPLACED, *ADDED):
        for file in sorted((layout.root / folder).rglob("*")):
            parts = file.relative_to(layout.root).parts
            if file.is_file() and not any(
                part.endswith((".tmp", "-wal", "-shm")) for part in parts
            ):
                yield PurePosixPath(*parts).as_posix(), file


def _whole(file: Path, aside: Path) -> Path:
    """Return a file, or a copy of one of SQLite, in which no transaction is halfway."""
    with file.open("rb") as opened:
        if opened.read(len(SQLITE)) != SQLITE:
            return file
    aside.unlink(missing_ok=True)
    uri = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(aside)) as copy:
        source.backup(copy)
    return aside


Put = Callable[[str, Path], dict[str, Any]]


@contextmanager
def _writing(target: Path) -> Iterator[Put]:
    """Yield what copies a file into the target; the target is there whole, or not at all."""
    if target.suffix == TAR:
        with replacing(target) as temporary:
            temporary.touch(mode=0o600)
            with tarfile.open(temporary, "w") as tar:
                yield lambda name, file: _into_tar(tar, name, file)
        return
    with replacing_folder(target) as folder:
        folder.chmod(0o700)
        yield lambda name, file: _into_folder(folder, name, file)


def _into_tar(tar: tarfile.TarFile, name: str, file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:  # what replaces the file meanwhile is another file
        info = tar.gettarinfo(arcname=name, fileobj=opened)
        info.mode = 0o600
        hashed = _Hashed(opened)
        tar.addfile(info, hashed)
    return {"sha256": hashed.digest.hexdigest(), "bytes": info.size}


def _into_folder(folder: Path, name: str, file: Path) -> dict[str, Any]:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as opened, place.open("wb") as copy:
        hashed = _Hashed(opened)
        shutil.copyfileobj(hashed, copy)
    place.chmod(0o600)
    return {"sha256": hashed.digest.hexdigest(), "bytes": place.stat().st_size}


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        read = self._file.read(size)
        self.digest.update(read)
        return read


@contextmanager
def opened(source: Path, beside: Path) -> Iterator[tuple[Backup, Path]]:
    """Yield a backup whose every file is what was written, and a folder with copies of them.

    Args:
        beside: Where the folder is made; it is removed at the end.

    Raises:
        InputError: it is no backup, or one of another format.
        RunFailedError: a file is damaged or missing; the message names it.
    """
    beside.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(TemporaryDirectory(dir=beside, prefix="restore.", suffix=".tmp"))
        )
        try:
            read: Read = partial(_of_folder, source)
            if source.is_file():
                read = partial(_of_tar, stack.enter_context(tarfile.open(source)))
            with read(MANIFEST) as file:
                note = json.load(file)
            backup = Backup(str(note["made_at"]), str(note["workspace"]), dict(note["files"]))
            known = note["format"]
        except (OSError, KeyError, TypeError, ValueError, tarfile.TarError) as error:
            raise InputError(
                f"expected a folder or a .tar file that `activity backup` wrote, {source} is none: "
                f"{type(error).__name__}: {error}"
            ) from None
        if known != FORMAT:
            raise InputError(f"{source}: expected a backup of format {FORMAT}, got {known!r}")
        for name, written in backup.files.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise InputError(f"{source}: expected paths inside the data folder, got {name!r}")
            _take(source, read, folder / name, name, str(written["sha256"]))
        yield backup, folder


Read = Callable[[str], IO[bytes]]


def _take(source: Path, read: Read, place: Path, name: str, sha256: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as copy, read(name) as file:
            hashed = _Hashed(file)
            shutil.copyfileobj(hashed, copy)
        why = None
        if hashed.digest.hexdigest() != sha256:
            why = f"its {place.stat().st_size:,} bytes have another SHA-256 than was written"
    except (KeyError, FileNotFoundError, tarfile.TarError) as error:
        why = f"it cannot be read: {error}"
    if why is not None:
        raise RunFailedError(
            f"{source}: {name} is damaged: {why}. Nothing was restored; take another backup"
        )


def _of_folder(source: Path, name: str) -> IO[bytes]:
    return (source / name).open("rb")


def _of_tar(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file
