"""The largest singular values and vectors of a sparse matrix, the same for the same matrix.

Block Krylov iteration (Musco & Musco, "Randomized block Krylov methods for stronger and faster
approximate singular value decomposition", 2015): the matrix is multiplied with blocks of vectors,
which reads it far fewer times than one vector after the other.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

SPARE = 8
"""Vectors of a block beyond those asked for."""
STEPS = 8
RANK = 1e-5
"""Smaller squares of singular values, as shares of the largest, are rounding errors."""


def largest(
    blocks: Sequence[sparse.csr_array], columns: int, dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return singular values [found], falling, and right singular vectors [columns, found].

    Args:
        blocks: The matrix, as blocks of rows, float32.
        dim: How many at most; fewer are found in a matrix of a lower rank.
    """
    if not columns:
        return np.zeros(0), np.zeros((0, 0))
    width = dim + SPARE
    if columns <= width * (STEPS + 1):
        basis = np.eye(columns, dtype=np.float32)
    else:
        basis = _krylov(blocks, columns, width)
    squared = np.zeros((basis.shape[1],) * 2)
    for rows in blocks:
        projected = (rows @ basis).astype(np.float64)
        squared += projected.T @ projected
    squares, vectors = np.linalg.eigh(squared)
    squares, vectors = squares[::-1][:dim], vectors[:, ::-1][:, :dim]
    found = squares > squares.max(initial=0.0) * RANK
    vectors = (basis @ vectors[:, found].astype(np.float32)).astype(np.float64)
    return np.sqrt(squares[found]), with_signs(vectors)


def _krylov(blocks: Sequence[sparse.csr_array], columns: int, width: int) -> NDArray[np.float32]:
    """Return an orthogonal basis of A'A x, (A'A)^2 x, …, float32 [columns, width · (STEPS + 1)]."""
    start = np.random.default_rng(0).standard_normal((columns, width)).astype(np.float32)
    basis = np.zeros((columns, width * (STEPS + 1)), np.float32)
    for step in range(STEPS + 1):
        before = basis[:, : step * width]
        block = _squared(blocks, start)
        for _ in range(2):  # once leaves what rounding took from it
            block = np.linalg.qr(block - before @ (before.T @ block))[0]
        basis[:, step * width : (step + 1) * width] = start = block
    return basis


def with_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the columns with their largest number above zero: a sign means nothing by itself."""
    largest_rows = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest_rows, np.arange(vectors.shape[1])])
    return vectors * np.where(signs == 0, 1.0, signs)


def _squared(
    blocks: Sequence[sparse.csr_array], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return A'A x."""
    total = np.zeros_like(vectors)
    for rows in blocks:
        total += rows.T @ (rows @ vectors)
    return total
