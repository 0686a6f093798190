"""How far two fits of an encoder are apart, and so whatever reads them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.items.similarity import comparable
from transformations.names import Similarity

NEIGHBOURS = 10
SAMPLED = 1_000
"""Items whose neighbours are compared, at most."""


@dataclass(frozen=True)
class Distance:
    """Two fits, compared on the items that both have.

    Attributes:
        cosine: Mean cosine, once the one is turned onto the other as well as a rotation can
            (orthogonal Procrustes: Schönemann, 1966); nan without common items. Of spaces compared
            by dot product, where lengths count: that of all their numbers in a row.
        overlap: Share of an item's ten nearest that both have; no rotation changes it.
        new: Share of the later fit's items that the earlier one lacks.
    """

    cosine: float
    overlap: float
    new: float

    def __str__(self) -> str:
        return (
            f"aligned cosine {self.cosine:.3f}, {self.overlap:.0%} of the {NEIGHBOURS} nearest in "
            f"common, {self.new:.1%} of items new"
        )


def distance(
    before: tuple[pa.Array, NDArray[np.float32]],
    after: tuple[pa.Array, NDArray[np.float32]],
    similarity: Similarity = "cosine",
    seed: int = 0,
) -> Distance:
    """Compare two fits, each as its items' ids and their vectors, float32 [items, dim].

    Args:
        similarity: Of the space that they are fits of.

    >>> ids = pa.array([1, 2, 3])
    >>> vectors = np.eye(3, 2, dtype=np.float32) + 1
    >>> turned = vectors @ np.array([[0, 1], [-1, 0]], np.float32)
    >>> str(distance((ids, vectors), (ids, turned)))
    'aligned cosine 1.000, 100% of the 10 nearest in common, 0.0% of items new'
    """
    places = pc.index_in(after[0], value_set=before[0])
    known = places.is_valid().to_numpy(zero_copy_only=False)
    new = 1.0 - known.mean() if len(known) else 0.0
    old = comparable(before[1][places.drop_null().to_numpy()], similarity).astype(np.float64)
    now = comparable(after[1][known], similarity).astype(np.float64)
    if not len(old):
        return Distance(float("nan"), float("nan"), float(new))
    left, _, right = np.linalg.svd(old.T @ now)
    # Of rows of length 1 it is their mean cosine.
    scale = np.linalg.norm(old) * np.linalg.norm(now)
    cosine = np.sum((old @ (left @ right)) * now) / np.maximum(scale, 1e-12)
    drawn = np.random.default_rng(seed).permutation(len(old))[:SAMPLED]
    return Distance(float(cosine), _overlap(old, now, drawn), float(new))


def _overlap(old: NDArray[np.float64], now: NDArray[np.float64], drawn: NDArray[np.int64]) -> float:
    """Return the share of nearest items in common, over some items."""
    count = min(NEIGHBOURS, len(old) - 1)
    if count < 1:
        return 1.0
    nearest = []
    for vectors in (old, now):
        scores = vectors[drawn] @ vectors.T
        scores[np.arange(len(drawn)), drawn] = -np.inf
        nearest.append(np.argpartition(-scores, count - 1, axis=1)[:, :count])
    common = (nearest[0][:, :, None] == nearest[1][:, None, :]).sum(axis=(1, 2))
    return float(common.mean() / count)
