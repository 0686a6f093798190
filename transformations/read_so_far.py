"""What earlier runs have read of the events source, so that a run reads only what is new."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformations.config import Config
from transformations.files import replacing
from transformations.layout import partition_files


@dataclass
class ReadSoFar:
    """What was read and is in `activity` and `quarantine`.

    Attributes:
        files: Path → [bytes, mtime in ns] of each file when it was read.
        mark: Largest value so far of a table's incremental column (sources/marks.py).
        periods: The partitions of `activity`. If one is missing, nothing counts as read; nor if
            `searches` is, where an action has a text.
    """

    files: dict[str, list[int]] = field(default_factory=dict)
    mark: dict[str, str] | None = None
    periods: list[str] = field(default_factory=list)


def load(config: Config) -> ReadSoFar:
    """Return what was read: nothing if the settings changed or a period of activity is missing."""
    try:
        saved = json.loads(mark_file(config).read_text())
    except FileNotFoundError:
        return ReadSoFar()
    if saved["settings"] != _digest(config) or "periods" not in saved["read"]:
        return ReadSoFar()
    if config.rules.texts and not config.layout.searches.exists():
        return ReadSoFar()
    read = ReadSoFar(**saved["read"])
    if isinstance(read.mark, str):  # of before marks had types: the whole table is read again
        read.mark = None
    return read if {*read.periods} <= {*periods(config)} else ReadSoFar()


def save(config: Config, read: ReadSoFar) -> None:
    """Write down what was read, once its rows are written."""
    with replacing(mark_file(config)) as file:
        file.write_text(json.dumps({"settings": _digest(config), "read": asdict(read)}, indent=1))


def drop_if_void(config: Config) -> None:
    """Remove the note of what was read where nothing counts as read any more.

    Otherwise a replay of some days that brings a lost period back, with a part of its rows, would
    let the rest count as read too.
    """
    if mark_file(config).exists() and load(config) == ReadSoFar():
        mark_file(config).unlink()


def periods(config: Config) -> list[str]:
    """Return the names of the partitions of `activity`, in order."""
    activity = config.layout.activity
    return [str(file.parent.relative_to(activity)) for file in partition_files(activity)]


def mark_file(config: Config) -> Path:
    """Return the file that holds what was read so far."""
    return config.layout.state / "stg_activity.json"


def _digest(config: Config) -> str:
    """Return a digest of everything that decides how a row is read and whether it is refused.

    A database URL enters as written, with ${VARIABLES} unreplaced, so no password gets in.
    """
    events = config.events.model_dump(mode="json", exclude={"max_refused_share"})
    decisive = [events, config.rules.id_key, sorted(config.actions)]
    if config.rules.texts:
        decisive.append(config.rules.texts)
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def forget_periods(config: Config, gone: Iterable[str]) -> None:
    """Note that partitions of `activity` are removed on purpose: nothing is read again for that."""
    try:
        saved = json.loads(mark_file(config).read_text())
    except FileNotFoundError:
        return
    left = {*saved["read"].get("periods", [])} - {*gone}
    saved["read"]["periods"] = sorted(left)
    with replacing(mark_file(config)) as file:
        file.write_text(json.dumps(saved, indent=1))
