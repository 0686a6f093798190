"""What a fitted ranker leaves in its folder: JSON, and arrays without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.rankers.preprocessing import Preprocessing

PREPROCESSING = "preprocessing.json"
WEIGHTS = "weights.npz"
FIGURES = "figures.json"


def write(
    folder: Path,
    preprocessing: Preprocessing,
    arrays: Mapping[str, NDArray[Any]],
    figures: Mapping[str, Any],
) -> None:
    """Write them; equal bytes for equal rankers."""
    _write_json(folder / PREPROCESSING, preprocessing.to_json())
    _write_json(folder / FIGURES, dict(figures))
    named: dict[str, Any] = dict(arrays)
    np.savez(folder / WEIGHTS, **named)


def read(folder: Path) -> tuple[Preprocessing, dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `write` wrote."""
    preprocessing = Preprocessing.from_json(json.loads((folder / PREPROCESSING).read_text()))
    figures: dict[str, Any] = json.loads((folder / FIGURES).read_text())
    with np.load(folder / WEIGHTS, allow_pickle=False) as archive:
        return preprocessing, {name: archive[name] for name in archive.files}, figures


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value) + "\n")
