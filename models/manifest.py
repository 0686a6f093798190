"""The manifest beside a packaged aggregator: the settings that its vectors depend on, as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from transformations.errors import InputError

MANIFEST = "manifest.json"
Store = Literal["float32", "int8"]
"""How vectors are kept, online and in snapshots (models/quantization.py)."""
KEYS = (
    "name",
    "version",
    "fit",
    "dim",
    "window",
    "length",
    "actions",
    "vectors",
    "kind",
    "parameters",
    "item_encoder",
    "weights_sha256",
    "trained_until",
    "metrics",
    "files",
)
ASKED = ("reads", "inputs")
"""Keys of a line that asks for them."""
ADDRESS = "layer"
"""Older manifests hold the address of a Python class under this key, which their hash includes."""
KINDS = {
    "models.aggregators:Average": "average",
    "models.aggregators:GeometricDecay": "geometric_decay",
    "models.learned:LearnedDecay": "learned_decay",
    "models.learned:AttentionPool": "attention_pool",
    "models.sequence_layers:Cnn": "cnn",
    "models.sequence_layers:Gru": "gru",
    "models.sequence_layers:Transformer": "transformer",
}
"""Address in older manifests → kind."""


def read(folder: Path, whose: str) -> dict[str, Any]:
    """Return the manifest in the folder of a packaged aggregator.

    Args:
        whose: The aggregator's name and version, for the error.

    Raises:
        InputError: it is missing, or not what packaging writes.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{whose}: expected a packaged aggregator at {folder}, found no {MANIFEST} there"
        ) from None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    if ADDRESS in manifest and "kind" not in manifest:
        # A user's own layer is not in KINDS; its address serves as its kind.
        manifest["kind"] = KINDS.get(manifest[ADDRESS], manifest[ADDRESS])
    # Packaged before there were fits.
    for fitted in (manifest, manifest.get("item_encoder") or {}):
        fitted.setdefault("fit", 1)
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise InputError(f"{file}: expected the keys {', '.join(missing)}, which are missing")
    if store_of(manifest) not in get_args(Store):
        raise InputError(
            f"{file}: store: expected one of {', '.join(get_args(Store))}, got {store_of(manifest)}"
        )
    return dict(manifest)


def store_of(manifest: Mapping[str, Any]) -> Store:
    """Return how a package's vectors are kept; a manifest that does not say it means float32."""
    store: Store = manifest.get("store", "float32")
    return store


def identity_keys(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a package's `weights_sha256` covers.

    An older manifest, and so its hash, has an address in place of the kind.
    """
    made_by = ADDRESS if ADDRESS in manifest else "kind"
    named = ("vectors", "actions", "dim", "length", made_by, "parameters")
    asked = [key for key in ASKED if key in manifest]
    return {key: manifest[key] for key in (*named, *asked)}
