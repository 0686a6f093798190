"""The fitted item encoder of each space: an archive and its manifest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb

from models.items.corpus import corpus_at
from models.items.protocol import FittedEncoder, GoesOn, Progress
from models.items.spec import ItemEncoder, fitted_class, kind_of
from models.lines import encoder_of
from transformations.config import Config
from transformations.errors import InputError, RunFailedError, TooFewError
from transformations.files import replacing_folder
from transformations.timestamps import microseconds

ARCHIVE = "encoder.npz"
MANIFEST = "manifest.json"
FIRST_KIND = "tfidf_svd"
"""Of a manifest that does not say: the only one that there was."""


def folder_of(config: Config) -> Path:
    """Folder of the archive and manifest of the space's encoder."""
    return config.layout.item_encoder(config.space)


def fitted_until(config: Config) -> datetime | None:
    """Return the time before which the fit of the space saw what was known; None without a fit."""
    manifest = read_manifest(config)
    return None if manifest is None else datetime.fromisoformat(manifest["fit_before"])


def differences(config: Config) -> list[str]:
    """Return in what the settings of the space's fit differ from the configuration, one per line.

    Nothing where it is not fitted. Where its line left the catalogue, the line's own settings are
    as they were.
    """
    manifest = read_manifest(config)
    if manifest is None:
        return []
    line = encoder_of(config, config.space)
    wanted = _settings(config) | (_described(line) if line is not None else {})
    return [
        f"  {key}: fitted with {json.dumps(manifest[key])}, now {json.dumps(value)}"
        for key, value in wanted.items()
        if manifest[key] != value
    ]


def reads_activity(config: Config) -> bool:
    """Whether the space has a fit that reads what members did."""
    manifest = read_manifest(config)
    return manifest is not None and kind_of(manifest["kind"]).reads_activity


def saved(config: Config) -> FittedEncoder | None:
    """Return the space's encoder, as it was fitted; None where nothing new is encoded with it.

    Nothing is where it has no fit, or was fitted with other settings than the configuration's.

    Raises:
        RunFailedError: the saved archive is damaged.
    """
    manifest = read_manifest(config)
    if manifest is None or differences(config):
        return None
    return _load(config, manifest)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a fit goes on from.

    Attributes:
        encoder: The parent; its settings are those of the line.
        since: It learns from what happened since then.
        notes: What the manifest keeps of it, as JSON values.
    """

    encoder: GoesOn
    since: datetime
    notes: Mapping[str, Any]


def fitted(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    line: ItemEncoder,
    fit_before: datetime,
    progress: Progress | None = None,
    beginning: Beginning | None = None,
) -> tuple[FittedEncoder, datetime]:
    """Return the space's encoder, and the time before which its fit saw what was known.

    Fits it on the items and, where it reads activity, the actions known before `fit_before`, and
    saves it, if the space has none yet.

    Args:
        progress: Called with how many steps of a fit are done, of how many.
        beginning: What a fit goes on from. Default: nothing.

    Raises:
        InputError: it was fitted with other settings.
        TooFewError: there is too little to fit it on.
        RunFailedError: the saved archive is damaged.
    """
    manifest = read_manifest(config)
    if manifest is None:
        manifest = _fit(config, con, line, fit_before, progress, beginning)
    differing = differences(config)
    if differing:
        raise InputError(
            f"the item encoder {config.space} was fitted with other settings "
            f"({folder_of(config)}):\n" + "\n".join(differing) + "\nVectors of the two must not "
            f"mix: raise the version of {line.name} in {config.catalogue}, or undo the change"
        )
    return _load(config, manifest), datetime.fromisoformat(manifest["fit_before"])


def read_manifest(config: Config) -> dict[str, Any] | None:
    """Return what is known of the space's fit; None without one."""
    file = folder_of(config) / MANIFEST
    if not file.exists():
        return None
    manifest: dict[str, Any] = json.loads(file.read_text())
    # Fitted before there were fits, or encoders with settings.
    for key, value in (("fit", 1), ("kind", FIRST_KIND), ("settings", {})):
        manifest.setdefault(key, value)
    return manifest


def _load(config: Config, manifest: dict[str, Any]) -> FittedEncoder:
    archive = (folder_of(config) / ARCHIVE).read_bytes()
    got = hashlib.sha256(archive).hexdigest()
    if got != manifest["sha256"]:
        raise RunFailedError(
            f"{folder_of(config) / ARCHIVE}: expected the SHA-256 {manifest['sha256']}, as its "
            f"{MANIFEST} says, got {got}; restore it from a copy, or make a new fit: activity fit"
        )
    encoder: FittedEncoder = fitted_class(manifest["kind"]).from_bytes(archive)
    return encoder


def _fit(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    line: ItemEncoder,
    fit_before: datetime,
    progress: Progress | None,
    beginning: Beginning | None,
) -> dict[str, Any]:
    """Fit and save the space's encoder; return its manifest."""
    corpus = corpus_at(
        config,
        con,
        fit_before,
        line.reads_activity,
        predicts=line.predicts,
        number=line.reads_number,
    )
    try:
        if beginning is None:
            encoder = fitted_class(line.kind).fit(line, corpus, config.dim, progress)
        else:
            since = microseconds(beginning.since)
            encoder = beginning.encoder.go_on(line, corpus, since, progress)
    except TooFewError as error:
        reads = "columns in items.text or items.categories"
        raise TooFewError(
            f"{line}: {error}; what was known before {_text(fit_before)} is used. Set `dim` lower, "
            f"name more {reads}, or a shorter fit_holdback in {config.file}"
        ) from error
    described = encoder.describe()
    if described.get("labels", config.min_positives) < config.min_positives:
        raise TooFewError(
            f"{line}: expected at least {config.min_positives:,} positive labels before "
            f"{_text(fit_before)} to train on, got {described['labels']:,}; lower min_positives in "
            f"{config.file.name}, if so few are enough for you"
        )
    archive = encoder.to_bytes()
    manifest: dict[str, Any] = {
        **_settings(config),
        **_described(line),
        "fit_before": fit_before.astimezone(UTC).isoformat(),
        "items": len(corpus),
        **({} if corpus.behaviour is None else {"actions": len(corpus.behaviour)}),
        **described,
        **(beginning.notes if beginning else {}),
        "sha256": hashlib.sha256(archive).hexdigest(),
        "libraries": {"scikit-learn": version("scikit-learn")},
    }
    with replacing_folder(folder_of(config)) as folder:
        (folder / ARCHIVE).write_bytes(archive)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings of the workspace that the vectors depend on, as JSON values."""
    space = config.space
    return {
        "name": space.encoder,
        "version": space.version,
        "fit": space.fit,
        "dim": config.dim,
        "text": config.items.text,
        "categories": config.items.categories,
    }


def _described(line: ItemEncoder) -> dict[str, Any]:
    """Return the settings of the line that the vectors depend on, as JSON values."""
    settings = json.loads(json.dumps(line.parameters()))
    return {"kind": line.kind, "settings": settings}


def _text(timestamp: datetime) -> str:
    return f"{timestamp.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
