"""The fitted item encoder of each space: an archive and its manifest."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import sklearn

from models.items.kinds import ENCODERS
from models.items.protocol import Document, ItemEncoder
from transformations.config import Config
from transformations.duck import sql
from transformations.errors import InputError, RunFailedError
from transformations.files import replacing_folder

ARCHIVE = "encoder.npz"
MANIFEST = "manifest.json"


def folder_of(config: Config) -> Path:
    """Folder of the archive and manifest of the space's encoder."""
    return config.layout.item_encoder(config.space)


def fitted_until(config: Config) -> datetime | None:
    """Return the time before which the items of the space's fit were known; None without a fit."""
    manifest = _read(config)
    return None if manifest is None else datetime.fromisoformat(manifest["fit_before"])


def differences(config: Config) -> list[str]:
    """Return in what the settings of the space's fit differ from the configuration, one per line.

    Nothing where it is not fitted.
    """
    manifest = _read(config)
    if manifest is None:
        return []
    return [
        f"  {key}: fitted with {json.dumps(manifest[key])}, {config.file.name} says "
        f"{json.dumps(value)}"
        for key, value in _settings(config).items()
        if manifest[key] != value
    ]


def saved(config: Config) -> ItemEncoder | None:
    """Return the space's encoder, as it was fitted; None where nothing new is encoded with it.

    Nothing is where it has no fit, or was fitted with other settings than the configuration's.

    Raises:
        RunFailedError: the saved archive is damaged.
    """
    manifest = _read(config)
    if manifest is None or differences(config):
        return None
    return _load(config, manifest)


def fitted(
    config: Config, con: duckdb.DuckDBPyConnection, fit_before: datetime
) -> tuple[ItemEncoder, datetime]:
    """Return the space's encoder, and the time before which the items of its fit were known.

    Fits it on `stg_items` known before `fit_before`, and saves it, if the space has none yet.

    Raises:
        InputError: it was fitted with other settings, or there are too few items to fit it on.
        RunFailedError: the saved archive is damaged.
    """
    name = config.space.encoder
    if name not in ENCODERS:
        raise InputError(
            f"items.encoder.name: expected one of {', '.join(ENCODERS)} for an items source of "
            f"text, got {name!r}; a source that holds vectors names its column in items.embedding"
        )
    manifest = _read(config)
    if manifest is None:
        manifest = _fit(config, con, fit_before)
    differing = differences(config)
    if differing:
        raise InputError(
            f"the item encoder {config.space} was fitted with other settings "
            f"({folder_of(config)}):\n" + "\n".join(differing) + "\nVectors of the two must not "
            f"mix: raise items.encoder.version in {config.file}, or undo the change"
        )
    return _load(config, manifest), datetime.fromisoformat(manifest["fit_before"])


def _load(config: Config, manifest: dict[str, Any]) -> ItemEncoder:
    archive = (folder_of(config) / ARCHIVE).read_bytes()
    got = hashlib.sha256(archive).hexdigest()
    if got != manifest["sha256"]:
        raise RunFailedError(
            f"{folder_of(config) / ARCHIVE}: expected the SHA-256 {manifest['sha256']}, as its "
            f"{MANIFEST} says, got {got}; restore it from a copy, or make a new fit: activity fit"
        )
    return ENCODERS[config.space.encoder].from_bytes(archive)


def _read(config: Config) -> dict[str, Any] | None:
    file = folder_of(config) / MANIFEST
    if not file.exists():
        return None
    manifest: dict[str, Any] = json.loads(file.read_text())
    manifest.setdefault("fit", 1)  # fitted before there were fits
    return manifest


def _fit(config: Config, con: duckdb.DuckDBPyConnection, fit_before: datetime) -> dict[str, Any]:
    """Fit and save the space's encoder; return its manifest."""
    query = sql("items_to_fit", __file__)
    rows = con.execute(query, {"fit_before": fit_before}).fetchall()
    documents = [Document(text, categories) for text, categories in rows]
    try:
        encoder = ENCODERS[config.space.encoder].fit(documents, config.dim)
    except InputError as error:
        raise InputError(
            f"{error}; those known before {_text(fit_before)} are used. Set `dim` lower, name more "
            f"columns in items.text or items.categories, or a shorter fit_holdback in {config.file}"
        ) from error
    archive = encoder.to_bytes()
    manifest: dict[str, Any] = _settings(config) | {
        "fit_before": fit_before.astimezone(UTC).isoformat(),
        "items": len(documents),
        **encoder.describe(),
        "sha256": hashlib.sha256(archive).hexdigest(),
        "libraries": {"scikit-learn": sklearn.__version__},
    }
    with replacing_folder(folder_of(config)) as folder:
        (folder / ARCHIVE).write_bytes(archive)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings that the vectors depend on, as JSON values."""
    space = config.space
    return {
        "name": space.encoder,
        "version": space.version,
        "fit": space.fit,
        "dim": config.dim,
        "text": config.items.text,
        "categories": config.items.categories,
    }


def _text(timestamp: datetime) -> str:
    return f"{timestamp.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
