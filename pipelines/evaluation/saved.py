"""What was measured, on disk: an evaluation that was interrupted goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation.scoring import LabelScores
from transformations.files import replacing

FORMAT = 1
"""Raise it when the same settings would give other scores: the ranker or a reference changed."""


@dataclass(frozen=True)
class SavedScores:
    """Scores of labels, one file for each thing measured, written whole.

    Attributes:
        folder: Where they lie.
        of: What all of them are about, as JSON values: the labels and the items.
    """

    folder: Path
    of: Mapping[str, Any]

    def scores(
        self, name: str, settings: Mapping[str, Any], make: Callable[[], LabelScores]
    ) -> tuple[LabelScores, bool]:
        """Return saved scores, or make and save them; and whether they were made now.

        Args:
            name: Begins the file's name.
            settings: All that decides the scores besides `of`, as JSON values.
        """
        inputs = {"format": FORMAT, **self.of, "name": name, "settings": settings}
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode())
        file = self.folder / f"{name}.{digest.hexdigest()[:16]}.npz"
        if file.exists():
            return _read(file), False
        scores = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as opened:
            np.savez_compressed(opened, **_arrays(scores))
        return scores, True


def _arrays(scores: LabelScores) -> dict[str, Any]:
    arrays = {"rank": scores.rank, "rank_recent": scores.rank_recent, "random": scores.random}
    return arrays if scores.judged is None else arrays | {"judged": scores.judged}


def _read(file: Path) -> LabelScores:
    with np.load(file) as saved:
        arrays = {name: saved[name] for name in saved.files}
    return LabelScores(**({"judged": None} | arrays))
