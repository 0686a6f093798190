"""A convolution over the actions, pooled."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers.slotwise import Slotwise

ops = keras.ops


class Cnn(Slotwise):
    """Causal 1D convolutions over the slots, pooled over the actions, dense to the item dimension.

    From LinkedIn's "Improving job matching with machine-learned activity features" (2022). The
    first convolution sees as many PAD slots before the sequence as its kernel reaches, so the
    padded length changes nothing.

    >>> from models.spec import Cnn as Line
    >>> cnn = Cnn({"activity_embedding": 2}, n_actions=1, **Line(version=1).parameters())
    >>> vectors = cnn(ops.ones((4, 3, 8)), ops.ones((4, 3), dtype="int32"), ops.zeros((4, 3)))
    >>> tuple(vectors["activity_embedding"].shape)
    (4, 2)
    """

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        filters: int,
        kernel: int,
        layers: int,
        pooling: str,
        **common: Any,
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.reach = kernel - 1
        self.pooling = pooling
        self.convolutions = [
            keras.layers.Conv1D(filters, kernel, activation="relu") for _ in range(layers)
        ]
        self.to_items = keras.layers.Dense(self.dim)

    def build_for(self, item_dim: int) -> None:
        """Make the kernels and the dense layer."""
        width = self.width(item_dim)
        for convolution in self.convolutions:
            convolution.build((None, None, width))
            width = convolution.filters
        self.to_items.build((None, width))

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return [batch, dim]."""
        # One row more: on some processors oneDNN's convolution of an empty batch has a wrong shape.
        before = ((0, 1), (self.reach, 0))
        seen = self.features(
            ops.pad(item_embeddings, (*before, (0, 0))),
            ops.pad(actions, before),
            ops.pad(ages, before),
            ops.pad(used, before),
            None if further is None else ops.pad(further, (*before, (0, 0))),
        )
        for convolution in self.convolutions:
            seen = ops.cast(convolution(seen)[:-1], "float32")
            kept = ops.where(used[:, :, None], seen, 0.0)
            seen = ops.pad(kept, (*before, (0, 0)))
        # After the relu nothing is below 0, so zeros in unused slots do not change the maximum.
        if self.pooling == "max":
            pooled = ops.max(kept, axis=1)
        else:
            count = ops.sum(ops.cast(used, "float32"), axis=1, keepdims=True)
            pooled = ops.sum(kept, axis=1) / ops.maximum(count, 1.0)
        return self.to_items(self.dropout(pooled))
