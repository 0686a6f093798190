"""Per action, the plain mean."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras

ops = keras.ops


class Average(keras.layers.Layer):
    """Per action, the plain mean of its items' vectors; zeros where the member has none.

    >>> average = Average(vectors={"apply_embedding": 2, "save_embedding": 2}, n_actions=2)
    >>> items = ops.array([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    >>> vectors = average(items, ops.array([[0, 1, 1, 2]]), ops.zeros((1, 4)))
    >>> {field: vector.numpy().tolist() for field, vector in vectors.items()}
    {'apply_embedding': [[0.5, 0.5]], 'save_embedding': [[5.0, 5.0]]}
    """

    def __init__(self, vectors: Mapping[str, int], n_actions: int) -> None:
        super().__init__()
        self.fields = tuple(vectors)
        self.n_actions = n_actions

    def weigh(self, of_kind: Any) -> Any:
        """Return each action's weights, up to a factor; the newest weighs 1.

        Args:
            of_kind: 1.0 where a slot holds that action, float32 [batch, n_actions, length].
        """
        return of_kind

    def call(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return {field: [batch, dim]}, one per action; shapes as in models/layers/build.py."""
        of_kind = self.of_kinds(actions)
        weights = self.weigh(of_kind)
        # The newest weighs 1, so only an action that the member has none of sums to less than 1.
        weights /= ops.maximum(ops.sum(weights, axis=2, keepdims=True), 1.0)
        return self.summed(weights, item_embeddings, of_kind)

    def of_kinds(self, actions: Any) -> Any:
        """Return 1.0 where a slot holds each action, float32 [batch, n_actions, length]."""
        codes = ops.arange(1, self.n_actions + 1, dtype="int32")
        return ops.cast(ops.equal(actions[:, None, :], codes[:, None]), "float32")

    def summed(self, weights: Any, item_embeddings: Any, of_kind: Any) -> dict[str, Any]:
        """Return {field: [batch, dim]}: the items' sums by weights [batch, fields, length]."""
        # A NaN in a PAD slot would survive its weight of zero. Masking takes longer than the mean
        # itself, so only batches with a NaN or an infinity are masked.
        used = ops.any(of_kind > 0, axis=1)[:, :, None]
        items = ops.cond(
            ops.isfinite(ops.sum(item_embeddings)),
            lambda: item_embeddings,
            lambda: ops.where(used, item_embeddings, 0.0),
        )
        means = ops.matmul(weights, items)
        return {field: means[:, number] for number, field in enumerate(self.fields)}
