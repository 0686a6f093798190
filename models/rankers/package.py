"""Packaged rankers: what was fitted in a folder, and a manifest of what it depends on.

`artifacts/rankers/<name>/v<version>/` (a later fit: `v<version>_f<fit>`). The manifest's
`weights_sha256` is the ranker's identity: equal for equal settings and weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from models.manifest import MANIFEST
from models.rankers.protocol import FittedRanker
from models.rankers.spec import Ranker
from transformations.config import Config
from transformations.errors import InputError
from transformations.files import replacing_folder

SETTINGS = ("kind", "name", "version", "fit", "parameters")
"""What a package and its line must agree on."""
OWN = (*SETTINGS, "heads", "columns", "spaces", "figures", "weights_sha256", "files")
"""Keys of the manifest that packaging writes."""


@dataclass(frozen=True)
class Loaded:
    """A verified ranker.

    Attributes:
        heads: The actions that it predicts, each with its weight in the score.
        manifest: What `package` wrote beside it.
    """

    line: Ranker
    heads: dict[str, float]
    fitted: FittedRanker
    manifest: dict[str, Any]

    @property
    def model_version(self) -> str:
        """Ranker and weights, as one text."""
        return f"{self.line}/{self.manifest['weights_sha256'][:12]}"


def package(
    line: Ranker,
    heads: Mapping[str, float],
    config: Config,
    fitted: FittedRanker,
    notes: Mapping[str, Any],
) -> Path:
    """Write a fitted ranker and its manifest, whole or not at all; return their folder.

    A package that is there already stays, if it is the same.

    Args:
        notes: More for the manifest, as JSON values: `fits` (of the aggregators and spaces that it
            read), `candidates` (the lines whose items it was trained with), `trained_until`,
            `metrics`.

    Raises:
        InputError: the folder holds another one, or the notes have a key of the manifest's own.
    """
    taken = sorted(notes.keys() & {*OWN})
    if taken:
        raise InputError(f"{line}: notes: expected none of the manifest's own keys, got {taken}")
    folder = line.folder(config)
    if folder.exists():
        _refuse_another(line, heads, folder, fitted)
        return folder
    with replacing_folder(folder) as temporary:
        fitted.save(temporary)
        manifest = _manifest(line, heads, fitted, temporary) | dict(notes)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def is_packaged(line: Ranker, config: Config) -> bool:
    """Whether the ranker's folder holds a whole package."""
    return (line.folder(config) / MANIFEST).exists()


def load(config: Config, line: Ranker) -> Loaded:
    """Load a packaged ranker, after checking it against the catalogue and its own digests.

    Raises:
        InputError: it is not packaged, was packaged with other settings, or is damaged.
    """
    folder = line.folder(config)
    manifest = read_manifest(config, line)
    expected = _settings(line)
    differing = [
        f"  {key}: packaged {json.dumps(manifest[key])}, expected {json.dumps(expected[key])}"
        for key in SETTINGS
        if manifest[key] != expected[key]
    ]
    if differing:
        raise InputError(
            f"{line} is packaged at {folder} with other settings than {config.catalogue}:\n"
            + "\n".join(differing)
            + "\nRaise its version in the catalogue, or undo the change"
        )
    files = _digests(folder)
    damaged = [
        f"  {name}: packaged {manifest['files'].get(name, 'no such file')}, "
        f"got {files.get(name, 'no such file')}"
        for name in sorted(files.keys() | manifest["files"].keys())
        if files.get(name) != manifest["files"].get(name)
    ]
    if damaged:
        raise InputError(
            f"{folder} does not hold the files that were packaged (SHA-256):\n"
            + "\n".join(damaged)
            + "\nCopy the folder again from a backup, or remove it and train the ranker again"
        )
    identity = _identity(expected, manifest["heads"], files)
    if identity != manifest["weights_sha256"]:
        raise InputError(
            f"{folder}: expected the identity {manifest['weights_sha256']}, as its {MANIFEST} "
            f"says, got {identity}; remove the folder and train the ranker again"
        )
    heads = {action: float(weight) for action, weight in manifest["heads"].items()}
    fitted: FittedRanker = line.fitted_class().load(line, heads, folder)
    return Loaded(line, heads, fitted, manifest)


def read_manifest(config: Config, line: Ranker) -> dict[str, Any]:
    """Return the manifest of a packaged ranker.

    Raises:
        InputError: it is missing, or not what packaging writes.
    """
    file = line.folder(config) / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{line}: expected a packaged ranker at {file.parent}, found no {MANIFEST} there; "
            "train it first"
        ) from None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    missing = [key for key in OWN if key not in manifest]
    if missing:
        raise InputError(f"{file}: expected the keys {', '.join(missing)}, which are missing")
    return dict(manifest)


def _manifest(
    line: Ranker, heads: Mapping[str, float], fitted: FittedRanker, folder: Path
) -> dict[str, Any]:
    settings, files = _settings(line), _digests(folder)
    return {
        **settings,
        "heads": dict(heads),
        "columns": {kind: list(names) for kind, names in fitted.columns.items()},
        "spaces": dict(fitted.spaces),
        "figures": dict(fitted.figures),
        "weights_sha256": _identity(settings, heads, files),
        "files": files,
    }


def _settings(line: Ranker) -> dict[str, Any]:
    own = {"kind": line.kind, "name": line.name, "version": line.version, "fit": line.fit}
    return {**own, "parameters": line.parameters()}


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != MANIFEST
    }


def _identity(
    settings: Mapping[str, Any], heads: Mapping[str, float], files: Mapping[str, str]
) -> str:
    """Hash what decides a score: the settings, the heads' weights and what was fitted."""
    of = {**settings, "heads": list(heads.items()), "files": dict(files)}
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _refuse_another(
    line: Ranker, heads: Mapping[str, float], folder: Path, fitted: FittedRanker
) -> None:
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder} exists but holds no {MANIFEST}; move it out of the way")
    packaged = json.loads((folder / MANIFEST).read_text())
    with TemporaryDirectory() as scratch:
        fitted.save(Path(scratch))
        got = _identity(_settings(line), heads, _digests(Path(scratch)))
    if got != packaged["weights_sha256"]:
        raise InputError(
            f"{line} is packaged at {folder} with the identity {packaged['weights_sha256']}, got "
            f"{got}; make a new fit, or raise its version in the catalogue"
        )
