"""A workspace's folder: where it may lie, and its files, all of them or none."""

import json
import os
import re
import unicodedata
from pathlib import Path
from uuid import uuid4

from transformations.config import ROOT
from transformations.errors import InputError
from transformations.files import replacing_folder

WORKSPACES = ROOT / "workspaces"
TEXT_LINE = "TfidfSvd(version=1)"
MARKS = ("activity.yaml", "feature_store.yaml")
"""A folder that holds both is a workspace."""
DEFINITIONS = '''\
"""What `feast apply` registers for this workspace."""

from feature_repo.workspace import declared

globals().update(declared(__file__))
'''


def place(folder: str) -> Path:
    """Return where a workspace lies: a bare name in `workspaces/` of the clone, a path as it is.

    >>> place("ifdb") == WORKSPACES / "ifdb", place("./ifdb") == Path.cwd() / "ifdb"
    (True, True)
    """
    is_name = not folder.startswith((".", "~")) and os.sep not in folder and "/" not in folder
    return ((WORKSPACES / folder) if is_name else Path(folder).expanduser()).resolve()


def refuse(folder: Path, root: Path = ROOT) -> None:
    """Raise InputError where no workspace may be made.

    Args:
        root: The clone, a workspace itself; only its `workspaces/` may hold others.
    """
    if folder == Path.cwd():
        raise InputError(
            f"expected a folder that init makes, got {folder}, the one you stand in; go one up and "
            "name it as ./NAME"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"expected a new or an empty folder, got {folder}, which "
            f"{'holds files' if folder.is_dir() else 'is a file'}; choose another name"
        )
    for parent in folder.parents:
        if not all((parent / mark).is_file() for mark in MARKS):
            continue
        if parent == root and folder.parent.is_relative_to(root / WORKSPACES.name):
            continue
        raise InputError(
            f"expected a folder outside any workspace, got {folder} inside the workspace {parent}; "
            "choose a folder beside it, or a bare NAME for one in workspaces/"
        )


def project(folder: Path) -> str:
    """Return a Feast project name of the folder's name that no other workspace has.

    Letters, digits and _, beginning with a letter; the last six are random.
    """
    ascii_name = unicodedata.normalize("NFKD", folder.name).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "_", ascii_name.lower()).strip("_")[:30].rstrip("_")
    if not name[:1].isalpha():
        name = f"workspace_{name}".rstrip("_")
    return f"{name}_{uuid4().hex[:6]}"


def files(folder: Path, settings: str, given: tuple[str, str] | None = None) -> dict[str, str]:
    """Return the files of a workspace: name → text.

    Args:
        settings: The text of its activity.yaml.
        given: Name and column of the item vectors that the source holds; None where it holds text.
    """
    shipped = (ROOT / "feature_store.yaml").read_text()
    store, replaced = re.subn(
        r"^project: .*$", f"project: {project(folder)}", shipped, flags=re.MULTILINE
    )
    assert replaced == 1, f"expected one project in {ROOT / 'feature_store.yaml'}"
    return {
        "activity.yaml": settings,
        "feature_store.yaml": store,
        "catalog.py": _catalogue(given),
        "definitions.py": DEFINITIONS,
        ".feastignore": "catalog.py\ndata\n",
        ".gitignore": "data/\n",
    }


def _catalogue(given: tuple[str, str] | None) -> str:
    """Return the shipped catalogue; with given vectors where there is no text to encode."""
    text = (ROOT / "models" / "catalog.py").read_text()
    if given is None:
        return text
    name, column = given
    line = f"Given(name={json.dumps(name)}, version=1, column={json.dumps(column)})"
    assert TEXT_LINE in text, f"expected {TEXT_LINE} in the shipped catalogue"
    return text.replace(TEXT_LINE, line).replace("TfidfSvd", "Given")


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write the files into the folder, all of them or none."""
    with replacing_folder(folder) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text)
