"""How near two items of a space are: the one definition behind neighbours, maps and distances.

The match of a member with an item (`feature_repo/match.py`) is the same, written once more because
Feast stores its text.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformations.names import Similarity


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the rows with length 1, float32; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).astype(np.float32)


def _as_they_are(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return vectors.astype(np.float32, copy=False)


COMPARABLE: dict[Similarity, Callable[[NDArray[Any]], NDArray[np.float32]]] = {
    "cosine": unit,
    "dot": _as_they_are,
}


def comparable(vectors: NDArray[Any], similarity: Similarity) -> NDArray[np.float32]:
    """Return vectors whose dot products are the similarities of the given ones.

    A vector of zeros has the similarity 0 to any other.

    >>> vectors = np.array([[3.0, 4.0], [0.0, 2.0]])
    >>> for similarity in ("cosine", "dot"):
    ...     one, other = comparable(vectors, similarity)
    ...     print(round(float(one @ other), 3))
    0.8
    8.0

    Args:
        vectors: Of one space, float [vectors, dim].

    Returns:
        float32 [vectors, dim].
    """
    return COMPARABLE[similarity](vectors)
