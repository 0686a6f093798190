"""Which workspace a data folder is: an id made once, by which Feast's stores know their owner."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from transformations.config import Config
from transformations.errors import InputError
from transformations.files import sync


@dataclass(frozen=True)
class Workspace:
    """A data folder with what was published from it.

    Attributes:
        id: 32 random hexadecimal digits.
        name: What a person recognizes: the data folder's path when the id was made.
    """

    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} (id {self.id})"


def workspace_id(config: Config) -> str:
    """Return the id of the configured data folder; make it at the first call."""
    return workspace_of(config).id


def workspace_of(config: Config) -> Workspace:
    """Return the workspace of the configured data folder; make its id at the first call.

    Of several processes that make it at once, one succeeds and all return its id.

    Raises:
        InputError: the file is there and does not hold an id and a name.
    """
    file = config.layout.workspace
    if not file.exists():
        _make(file, Workspace(uuid4().hex, str(config.data)))
    text = file.read_text()
    try:
        found = json.loads(text)
        return Workspace(str(found["id"]), str(found["name"]))
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f'{file}: expected {{"id": …, "name": …}}, got {text[:80]!r}; restore it from a copy. '
            "Without one, remove it: a new id is made, and a shared online store or registry will "
            "refuse it, naming the old one"
        ) from None


def _make(file: Path, workspace: Workspace) -> None:
    """Write the file unless another process does first; nobody sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps({"id": workspace.id, "name": workspace.name}) + "\n")
        sync(temporary)
        try:
            os.link(temporary, file)  # fails where the file exists, as a rename would not
        except FileExistsError:
            return
        sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)
