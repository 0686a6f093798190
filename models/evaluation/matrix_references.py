"""Recommenders fitted on the whole matrix of members and items, without time: EASE and ALS.

They see the positive actions before a moment; what a member did since then is given to them as its
history. Items without a positive action before that moment have no score.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_array

from transformations.errors import RunFailedError

Floats = NDArray[np.float32]

AT_ONCE = 256
"""Rows whose equations are solved together."""


class MatrixRecommender(Protocol):
    """What scores items for histories."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which items it has a score for, bool [items]."""
        ...

    def scores(self, histories: csr_array) -> Floats:
        """Return float32 [n, items] for sparse histories [n, items]; what is unknown has 0."""
        ...


@dataclass(frozen=True, eq=False)
class Ease:
    """Linear regression of each item on all others, with the diagonal at zero.

    Steck, "Embarrassingly shallow autoencoders for sparse data", 2019: with P the inverse of
    X'X + l2 I, B = I - P / diag(P), and a member's scores are its row of X times B.

    Attributes:
        weights: B of the items in `items`, float32 [kept, kept].
        items: Their indices.
        count: Number of all items.
    """

    weights: Floats
    items: NDArray[np.int64]
    count: int

    @classmethod
    def fit(cls, matrix: csr_array, l2: float, most: int = 10_000) -> "Ease":
        """Fit on a matrix [members, items] of ones.

        Args:
            most: Of the items, those with the most actions: time grows with their cube.
        """
        actions = np.asarray(matrix.sum(axis=0)).ravel()
        items = np.sort(np.argsort(-actions, kind="stable")[:most])
        items = items[actions[items] > 0]
        own = matrix[:, items].astype(np.float32)
        gram = np.asarray((own.T @ own).todense(), np.float32)
        gram[np.diag_indices_from(gram)] += np.float32(l2)
        inverse = _inverse(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        return cls(weights.astype(np.float32), items, matrix.shape[1])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which items it has a score for, bool [items]."""
        return np.isin(np.arange(self.count), self.items)

    def scores(self, histories: csr_array) -> Floats:
        """Return float32 [n, items]."""
        found = np.zeros((histories.shape[0], self.count), np.float32)
        found[:, self.items] = histories[:, self.items].astype(np.float32) @ self.weights
        return found


def _inverse(gram: Floats) -> Floats:
    """Return the inverse of a symmetric positive matrix, in half the time of a general one's."""
    factor, _ = lapack.spotrf(gram.T, lower=True, overwrite_a=True)
    lower, failed = lapack.spotri(factor, lower=True, overwrite_c=True)
    if failed:
        raise RunFailedError("EASE: expected a matrix that can be inverted; raise its penalty")
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).T


@dataclass(frozen=True, eq=False)
class Als:
    """Implicit matrix factorization by alternating least squares.

    Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", 2008: what a
    member acted on is 1 with the confidence 1 + alpha, all else 0 with the confidence 1.

    Attributes:
        factors: Of the items, float32 [items, factors]; zeros for one without an action.
    """

    factors: Floats
    alpha: float
    l2: float

    @classmethod
    def fit(
        cls,
        matrix: csr_array,
        alpha: float,
        l2: float,
        factors: int = 64,
        iterations: int = 10,
        seed: int = 0,
    ) -> "Als":
        """Fit on a matrix [members, items] of ones; the same seed gives the same factors."""
        rng = np.random.default_rng(seed)
        of_items = (0.1 * rng.normal(size=(matrix.shape[1], factors))).astype(np.float32)
        by_item = csr_array(matrix.T)
        for _ in range(iterations):
            of_members = least_squares(matrix, of_items, alpha, l2)
            of_items = least_squares(by_item, of_members, alpha, l2)
        return cls(of_items, alpha, l2)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which items it has a score for, bool [items]."""
        return np.asarray(self.factors.any(axis=1))

    def scores(self, histories: csr_array) -> Floats:
        """Return float32 [n, items]: a member's factors are solved from its history."""
        return least_squares(histories, self.factors, self.alpha, self.l2) @ self.factors.T


def least_squares(matrix: csr_array, others: Floats, alpha: float, l2: float) -> Floats:
    """Return the factors x of each row that minimize sum of c (r - x · y)² + l2 |x|².

    r is 1 and c is 1 + alpha where the row has an entry, else 0 and 1.

    Args:
        matrix: Sparse [rows, columns].
        others: Factors y of the columns, float32 [columns, factors].

    Returns:
        float32 [rows, factors]; zeros for a row without an entry.
    """
    size = others.shape[1]
    base = others.T @ others + np.float32(l2) * np.eye(size, dtype=np.float32)
    found = np.zeros((matrix.shape[0], size), np.float32)
    rows = np.flatnonzero(np.diff(matrix.indptr))
    for start in range(0, len(rows), AT_ONCE):
        batch = rows[start : start + AT_ONCE]
        left = np.empty((len(batch), size, size), np.float32)
        right = np.empty((len(batch), size, 1), np.float32)
        for index, row in enumerate(batch):
            own = others[matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]]
            left[index] = base + np.float32(alpha) * (own.T @ own)
            right[index, :, 0] = np.float32(1 + alpha) * own.sum(axis=0)
        found[batch] = np.linalg.solve(left, right)[:, :, 0]
    return found
