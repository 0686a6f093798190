"""Per action, a mean in which newer actions weigh more."""

import math
from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers.average import Average
from transformations.errors import InputError

ops = keras.ops


class GeometricDecay(Average):
    """Per action, weights proportional to r^(n-i), oldest first (i = 1…n), that sum to one.

    n counts only the member's occurrences of that action, so others in between do not age them.
    Formula: LinkedIn's "Improving job matching with machine-learned activity features" (2022).

    >>> decay = GeometricDecay(vectors={"apply_embedding": 1}, n_actions=1, decay=0.5)
    >>> items = ops.array([[[0.0], [7.0], [14.0]]])
    >>> decay(items, ops.ones((1, 3), dtype="int32"), ops.zeros((1, 3)))["apply_embedding"].numpy()
    array([[10.]], dtype=float32)
    """

    def __init__(
        self, vectors: Mapping[str, int], n_actions: int, decay: float | tuple[float, ...]
    ) -> None:
        super().__init__(vectors, n_actions)
        each = decay if isinstance(decay, tuple) else (decay,) * n_actions
        if len(each) != n_actions:
            raise InputError(
                f"decay: expected one number, or one for each of the {n_actions} configured "
                f"actions, got {decay}"
            )
        self.logs = [[math.log(r)] for r in each]

    def weigh(self, of_kind: Any) -> Any:
        """Return r to the power of how many of the same action follow."""
        later = ops.sum(of_kind, axis=2, keepdims=True) - ops.cumsum(of_kind, axis=2)
        return of_kind * ops.exp(ops.array(self.logs) * later)
