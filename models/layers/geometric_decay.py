"""A mean in which newer actions weigh more: per action, or over all positive ones."""

import math
from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers import slots
from models.layers.average import Average
from models.layers.one_vector import NO_SCORE
from transformations.errors import InputError

ops = keras.ops


class GeometricDecay(Average):
    """Weights r^(n-i), oldest first (i = 1…n), that sum to one.

    With ranks="action", n counts only the member's occurrences of that action, so others in between
    do not age them, and each action's weights sum to one. Formula: LinkedIn's "Improving job
    matching with machine-learned activity features" (2022).

    With ranks="positive", n-i is how many positive actions of any kind are newer. The weights of
    all positive actions together sum to one, and so do those of all others: an action's vector is
    long if it is the fresh one. With `pooled` there is one vector, over the positive actions.

    >>> decay = GeometricDecay(vectors={"apply_embedding": 1}, n_actions=1, decay=0.5)
    >>> items = ops.array([[[0.0], [7.0], [14.0]]])
    >>> decay(items, ops.ones((1, 3), dtype="int32"), ops.zeros((1, 3)))["apply_embedding"].numpy()
    array([[10.]], dtype=float32)
    """

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        decay: float | tuple[float, ...],
        ranks: str = "action",
        pooled: bool = False,
        further: int = 0,  # noqa: ARG002 - the signs, which it reads or not by its settings
    ) -> None:
        super().__init__(vectors, n_actions)
        each = decay if isinstance(decay, tuple) else (decay,) * n_actions
        if len(each) != n_actions:
            raise InputError(
                f"decay: expected one number, or one for each of the {n_actions} configured "
                f"actions, got {decay}"
            )
        self.logs = [[math.log(r)] for r in each]
        self.ranks = ranks
        self.pooled = pooled

    def weigh(self, of_kind: Any) -> Any:
        """Return r to the power of how many of the same action follow."""
        return of_kind * ops.exp(self._exponents(slots.ranks(of_kind)))

    def call(
        self, item_embeddings: Any, actions: Any, ages: Any, further: Any = None
    ) -> dict[str, Any]:
        """Return {field: [batch, dim]}; shapes as in models/layers/build.py."""
        if further is None:
            return super().call(item_embeddings, actions, ages)
        of_kind = self.of_kinds(actions)
        positive = further[:, None, :, 0]
        is_positive = of_kind * positive
        exponents = self._exponents(slots.ranks(positive if self.ranks == "positive" else of_kind))
        weights = _that_sum_to_one(exponents, is_positive)
        if self.pooled:
            weights = ops.sum(weights, axis=1, keepdims=True)
        else:
            weights += _that_sum_to_one(exponents, of_kind - is_positive)
        return self.summed(weights, item_embeddings, of_kind)

    def _exponents(self, later: Any) -> Any:
        return ops.array(self.logs) * later


def _that_sum_to_one(exponents: Any, chosen: Any) -> Any:
    """Return exp(exponents) of the chosen divided by their sum; zeros where none is chosen.

    All are float32 [batch, n_actions, length]. Only ratios matter, as the newest of the chosen may
    lie behind many actions.
    """
    exponents = ops.where(chosen > 0, exponents, NO_SCORE)
    weights = chosen * ops.exp(exponents - ops.max(exponents, axis=(1, 2), keepdims=True))
    return weights / ops.maximum(ops.sum(weights, axis=(1, 2), keepdims=True), 1.0)
