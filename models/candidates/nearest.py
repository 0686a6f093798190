"""The nearest of many vectors: exact up to EXACT of them, by a graph beyond."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.items.similarity import comparable
from transformations.names import Similarity

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

EXACT = 50_000
"""Vectors up to which all are compared; beyond, a hierarchical navigable small-world graph (Malkov
& Yashunin, 2016) is searched, which finds nearly all of the nearest."""
SCORES_AT_ONCE = 16_000_000
"""Of a block of queries: 64 MB."""
REACH = 2
"""How many times as many as are asked for the graph's search keeps in view."""


class Nearest:
    """The nearest of a set of vectors by dot product or cosine, the best first.

    >>> nearest = Nearest(np.eye(3, dtype=np.float32), "dot")
    >>> rows, scores = nearest.of(np.array([[0.1, 0.9, 0.5]], np.float32), 2)
    >>> rows.tolist(), [round(score, 1) for score in scores[0].tolist()]
    ([[1, 2]], [0.9, 0.5])
    """

    def __init__(self, vectors: Floats, similarity: Similarity, exact: int = EXACT) -> None:
        """Hold them; a vector of zeros is near to nothing, and never found.

        Args:
            vectors: float32 [vectors, dim].
        """
        self.similarity = similarity
        self._rows = np.flatnonzero(vectors.any(axis=1))
        self._vectors = comparable(vectors[self._rows], similarity)
        self._search = self._all if len(self._rows) <= exact else _graph(self._vectors)

    def of(self, queries: Floats, count: int) -> tuple[Rows, Floats]:
        """Return the rows of the nearest, int64 [queries, count], and their scores, float32.

        -1 with a score of 0 stands where there are fewer, and for a query of zeros.

        Args:
            queries: float32 [queries, dim].
        """
        rows = np.full((len(queries), count), -1, np.int64)
        scores = np.zeros((len(queries), count), np.float32)
        asked = np.flatnonzero(queries.any(axis=1))
        found = min(count, len(self._rows))
        step = max(SCORES_AT_ONCE // max(len(self._rows), 1), 1)
        for start in range(0, len(asked) if found else 0, step):
            some = asked[start : start + step]
            places, values = self._search(comparable(queries[some], self.similarity), found)
            rows[some, :found] = self._rows[places]
            scores[some, :found] = values
        return rows, scores

    def _all(self, queries: Floats, count: int) -> tuple[Rows, Floats]:
        scores = queries @ self._vectors.T
        if count < scores.shape[1]:
            # Of equal scores any may be left out here, and the order below decides the rest.
            best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        else:
            best = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        values = np.take_along_axis(scores, best, 1)
        order = np.lexsort((best, -values), axis=1)
        return np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)


def _graph(vectors: Floats) -> Callable[[Floats, int], tuple[Rows, Floats]]:
    """Return the search of a graph of these vectors."""
    import voyager  # only where there are many items

    index = voyager.Index(voyager.Space.InnerProduct, vectors.shape[1], M=16, ef_construction=100)
    # A thread that the machine holds up between two links leaves others' nodes hard to reach, which
    # is felt while the graph is small. So one thread lays its ground, and the same each time.
    index.add_items(vectors[:EXACT], num_threads=1)
    if len(vectors) > EXACT:
        index.add_items(vectors[EXACT:])

    def search(queries: Floats, count: int) -> tuple[Rows, Floats]:
        places, _ = index.query(queries, count, query_ef=max(REACH * count, 100))
        places = places.astype(np.int64)
        # Its distances are of another form by space; the products are exact.
        values = np.einsum("qd,qkd->qk", queries, vectors[places]).astype(np.float32)
        order = np.argsort(-values, axis=1, kind="stable")
        return np.take_along_axis(places, order, 1), np.take_along_axis(values, order, 1)

    return search
