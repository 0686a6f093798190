"""What earlier runs have read of the events source, so that a run reads what is new."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformations.config import Config
from transformations.files import replacing
from transformations.layout import partition_files


@dataclass
class ReadSoFar:
    """What was read and lies in `activity` and `quarantine`.

    Attributes:
        files: Path to [bytes, mtime in ns] of each file, as it was when it was read.
        mark: For a table with an incremental column: its largest value so far, as text.
        days: The day folders of `activity`. Where one of them is missing, nothing counts as read.
    """

    files: dict[str, list[int]] = field(default_factory=dict)
    mark: str | None = None
    days: list[str] = field(default_factory=list)


def load(config: Config) -> ReadSoFar:
    """Return what was read; nothing, if the settings changed or a day of activity is gone."""
    try:
        saved = json.loads(_file(config).read_text())
    except FileNotFoundError:
        return ReadSoFar()
    read = ReadSoFar(**saved["read"])
    if saved["settings"] != _digest(config) or not {*read.days} <= {*days(config)}:
        return ReadSoFar()
    return read


def save(config: Config, read: ReadSoFar) -> None:
    """Note what was read, once it is in its place."""
    with replacing(_file(config)) as file:
        file.write_text(json.dumps({"settings": _digest(config), "read": asdict(read)}, indent=1))


def days(config: Config) -> list[str]:
    """Return the names of the day folders of `activity`, oldest first."""
    return [file.parent.name for file in partition_files(config.layout.activity)]


def _file(config: Config) -> Path:
    return config.layout.state / "stg_activity.json"


def _digest(config: Config) -> str:
    """Return a digest of all that decides how a row is read and whether it is refused.

    Of a database's URL as it is written, ${VARIABLES} not replaced: no password gets into it.
    """
    events = config.events.model_dump(mode="json", exclude={"max_refused_share"})
    text = json.dumps([events, config.id_type, sorted(config.actions)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
