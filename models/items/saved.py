"""The fitted item encoder of each version: an archive and its manifest."""

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
    """Folder of the configured encoder version's archive and manifest."""
    encoder = config.items.encoder
    return config.layout.item_encoder(encoder.name, encoder.version)


def fitted(
    config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime
) -> tuple[ItemEncoder, datetime]:
    """Return the encoder, and the time before which the items of its fit were known.

    Fits it on `stg_items` and saves it if its version has none yet.

    Raises:
        InputError: as `build_items` says.
        RunFailedError: the saved archive is damaged.
    """
    name = config.items.encoder.name
    if name not in ENCODERS:
        raise InputError(
            f"items.encoder.name: expected one of {', '.join(ENCODERS)} for an items source of "
            f"text, got {name!r}; a source that holds vectors names its column in items.embedding"
        )
    if not (folder_of(config) / MANIFEST).exists():
        fit_before = config.items.encoder.fit_before or as_of - config.window
        _refuse_future(config, fit_before, as_of)
        _fit(config, con, fit_before)
    manifest = json.loads((folder_of(config) / MANIFEST).read_text())
    _refuse_other_settings(config, manifest)
    fit_before = datetime.fromisoformat(manifest["fit_before"])
    _refuse_future(config, fit_before, as_of)
    archive = (folder_of(config) / ARCHIVE).read_bytes()
    got = hashlib.sha256(archive).hexdigest()
    if got != manifest["sha256"]:
        raise RunFailedError(
            f"{folder_of(config) / ARCHIVE}: expected the SHA-256 {manifest['sha256']}, as its "
            f"{MANIFEST} says, got {got}; raise items.encoder.version to fit a new one"
        )
    return ENCODERS[name].from_bytes(archive), fit_before


def _fit(config: Config, con: duckdb.DuckDBPyConnection, fit_before: datetime) -> None:
    query = sql("items_to_fit", __file__)
    rows = con.execute(query, {"fit_before": fit_before}).fetchall()
    documents = [Document(text, categories) for text, categories in rows]
    try:
        encoder = ENCODERS[config.items.encoder.name].fit(documents, config.dim)
    except InputError as error:
        raise InputError(
            f"{error}; those known before {_text(fit_before)} are used. Set `dim` lower, name more "
            "columns in items.text or items.categories, or set a later items.encoder.fit_before"
        ) from error
    archive = encoder.to_bytes()
    manifest = _settings(config) | {
        "fit_before": fit_before.astimezone(UTC).isoformat(),
        "items": len(documents),
        **encoder.describe(),
        "sha256": hashlib.sha256(archive).hexdigest(),
        "libraries": {"scikit-learn": sklearn.__version__},
    }
    with replacing_folder(folder_of(config)) as folder:
        (folder / ARCHIVE).write_bytes(archive)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings that the vectors depend on, as JSON values."""
    items = config.items
    return {
        "name": items.encoder.name,
        "version": items.encoder.version,
        "dim": config.dim,
        "text": items.text,
        "categories": items.categories,
    }


def _refuse_other_settings(config: Config, manifest: dict[str, Any]) -> None:
    expected = _settings(config)
    if config.items.encoder.fit_before is not None:
        expected["fit_before"] = config.items.encoder.fit_before.isoformat()
    differing = [
        f"  {key}: fitted with {json.dumps(manifest[key])}, activity.yaml says {json.dumps(value)}"
        for key, value in expected.items()
        if manifest[key] != value
    ]
    if differing:
        raise InputError(
            f"{_name(config)} was fitted with other settings ({folder_of(config)}):\n"
            + "\n".join(differing)
            + "\nVectors of the two must not mix: raise items.encoder.version, or undo the change"
        )


def _refuse_future(config: Config, fit_before: datetime, as_of: datetime) -> None:
    if as_of < fit_before:
        raise InputError(
            f"{_name(config)} is fitted on items known before {_text(fit_before)}, so a snapshot "
            f"at {_text(as_of)} would see the future; set items.encoder.fit_before to "
            f"{_text(as_of)} or earlier and raise items.encoder.version, or choose a later as_of"
        )


def _name(config: Config) -> str:
    encoder = config.items.encoder
    return f"the item encoder {encoder.name} v{encoder.version}"


def _text(timestamp: datetime) -> str:
    return f"{timestamp.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
