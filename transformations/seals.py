"""What each file should hold: rows and SHA-256, in `_manifest.json` beside the files.

A bit that flips at rest is not noticed by whoever reads: 117 of 120 Parquet files with one flipped
bit were read as other numbers. So whoever writes a file of a table notes its digest, and
publishing, the item table and `activity status --files` compare.

The manifest is written before its file is in place. So until the next write it names two digests,
the new and the old: a run that was killed between the two leaves a file that is one of them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from transformations.errors import RunFailedError
from transformations.files import locked, replacing, sync

MANIFEST = "_manifest.json"
KEPT = 3
"""Digests of a file that the manifest names: the new one and those of before it."""


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written, and why."""

    file: Path
    why: str


@contextmanager
def sealing(path: Path, made_by: str) -> Iterator[Path]:
    """As `files.replacing`, and note what the file holds.

    Args:
        made_by: What made it: a command, an item space, an aggregator.
    """
    with replacing(path) as temporary:
        yield temporary
        seal(path, made_by, temporary)


def content_of(file: Path, is_parquet: bool = True) -> dict[str, Any]:
    """Return what a seal says of a file: its SHA-256, its bytes, and the rows of a Parquet file."""
    found: dict[str, Any] = {"sha256": digest(file), "bytes": file.stat().st_size}
    if is_parquet:
        found["rows"] = pq.read_metadata(file).num_rows
    return found


def seal(
    path: Path,
    made_by: str,
    content: Path | None = None,
    is_locked: bool = False,
    found: Mapping[str, Any] | None = None,
) -> None:
    """Note what a file holds, in its folder; threads and processes may share it.

    Args:
        content: Where the content lies that will be renamed onto `path`; default: there already.
        is_locked: Whether the caller holds the folder's lock, as in `files.replacing_folder`.
        found: What `content_of` said to whoever wrote the content; default: it is read here.
    """
    if found is None:
        found = content_of(content or path, path.suffix == ".parquet")
    found = {**found, "made_by": made_by}
    with nullcontext() if is_locked else locked(path.parent):
        manifest = _read(path.parent)
        earlier = [one for one in manifest.get(path.name, []) if one["sha256"] != found["sha256"]]
        manifest[path.name] = [found, *earlier[: KEPT - 1]]
        temporary = path.parent / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps({"files": manifest}, indent=1) + "\n")
        sync(temporary)
        temporary.replace(path.parent / MANIFEST)


def made_by(path: Path) -> str | None:
    """Return what made a file, as its manifest has it; None where no manifest names it."""
    found = _read(path.parent).get(path.name)
    return None if found is None else str(found[0]["made_by"])


def damage(files: Iterable[Path]) -> Iterator[Damage]:
    """Yield the files that are not what was written.

    One that no manifest names was written by an older version or by Feast's feature logging. It is
    read whole instead, which finds what cannot be read, and what pages with checksums should hold.
    """
    for file in files:
        try:
            known = _read(file.parent).get(file.name)
            if known is None:
                why = None if file.suffix != ".parquet" else _unreadable(file)
            elif digest(file) in [one["sha256"] for one in known]:
                why = None
            else:
                why = (
                    f"its {file.stat().st_size:,} bytes have another SHA-256 than the "
                    f"{known[0]['bytes']:,} that were written"
                )
        except ValueError as error:
            why = f"{MANIFEST} beside it cannot be read: {error}"
        except OSError as error:
            why = f"it cannot be read: {error}"
        if why is not None:
            yield Damage(file, why)


def expect_whole(files: Iterable[Path], mend: str) -> None:
    """Raise where a file is not what was written.

    Args:
        mend: What makes it again.

    Raises:
        RunFailedError: names the file.
    """
    for found in damage(files):
        raise RunFailedError(f"{found.file} is damaged: {found.why}. {mend}")


def _read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return dict(manifest["files"])
    except FileNotFoundError:
        return {}
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected 'files', got {error!r}") from None


def _unreadable(file: Path) -> str | None:
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as whole:
            for _ in whole.iter_batches():
                pass
    except Exception as error:
        return f"it cannot be read: {error}"
    return None


def digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
