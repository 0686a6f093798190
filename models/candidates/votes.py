"""How lists become one: the votes of a member's last items, or the best of several scores."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[Any]
Floats = NDArray[np.float32]


def together(
    items: Sequence[Ids], scores: Sequence[Floats], count: int, how: Literal["sum", "max"] = "sum"
) -> tuple[Ids, Floats]:
    """Return the best `count` items of several lists, and the sum or maximum of their scores.

    Of equal scores the smaller id comes first.

    >>> ids, scores = together([np.array([7, 8]), np.array([8, 9])], [np.ones(2), np.ones(2)], 2)
    >>> ids.tolist(), scores.tolist()
    ([8, 7], [2.0, 1.0])
    """
    if not any(map(len, items)):
        return np.zeros(0, items[0].dtype if items else np.int64), np.zeros(0, np.float32)
    distinct, which = np.unique(np.concatenate(items), return_inverse=True)
    together = np.full(len(distinct), 0.0 if how == "sum" else -np.inf)
    (np.add if how == "sum" else np.maximum).at(together, which, np.concatenate(scores))
    best = np.argsort(-together, kind="stable")[:count]
    return distinct[best], together[best].astype(np.float32)


def last_liked(items: Sequence[Any], signs: NDArray[np.integer], count: int) -> list[Any]:
    """Return a member's last positive items, each once, the newest first.

    >>> last_liked(["a", "b", "a", "c"], np.array([1, 1, 1, -1]), 2)
    ['a', 'b']
    """
    newest_first = (item for item, sign in zip(items[::-1], signs[::-1], strict=True) if sign > 0)
    return list(dict.fromkeys(newest_first))[:count]
