"""Sums over what a pair has, computed once per member and item where they need no more."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.rankers.preprocessing import Encoded


def added(
    encoded: Encoded, weights: NDArray[Any], table: NDArray[Any], squared: bool = False
) -> NDArray[Any]:
    """Return Σ x·weights over the dense columns and Σ of its categories' rows, [n, outputs].

    A member's share is computed once and given to all its pairs.

    Args:
        weights: [dense columns, outputs], in the order of `Preprocessing.columns`.
        table: [codes, outputs].
        squared: Take x² for x.
    """
    total: NDArray[Any] | None = None
    first = 0
    for side, rows in encoded.sides:
        last = first + side.dense.shape[1]
        dense = np.square(side.dense) if squared else side.dense
        share = dense @ weights[first:last]
        for codes in side.codes.T:
            share += table[codes]
        its = share[rows]  # as large as all of the sums: the first is where the others are added
        total = its if total is None else np.add(total, its, out=total)
        first = last
    assert total is not None  # members, items and pairs are always there
    if first < len(weights):
        products = encoded.products()
        total += (np.square(products) if squared else products) @ weights[first:]
    return total
