"""A recurrent unit over the actions."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers.slotwise import Slotwise

ops = keras.ops


class Gru(Slotwise):
    """The last state of a gated recurrent unit that skips PAD slots, dense to the items.

    >>> from models.spec import Gru as Line
    >>> gru = Gru({"activity_embedding": 2}, n_actions=1, **Line(version=1).parameters())
    >>> vectors = gru(ops.ones((4, 3, 8)), ops.ones((4, 3), dtype="int32"), ops.zeros((4, 3)))
    >>> tuple(vectors["activity_embedding"].shape)
    (4, 2)
    """

    def __init__(
        self, vectors: Mapping[str, int], n_actions: int, units: int, **common: Any
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        # cuDNN requires padding on the right.
        self.gru = keras.layers.GRU(units, use_cudnn=False)
        self.to_items = keras.layers.Dense(self.dim)

    def build_for(self, item_dim: int) -> None:
        """Make the recurrent weights and the dense layer."""
        self.gru.build((None, None, self.width(item_dim)))
        self.to_items.build((None, self.gru.units))

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return [batch, dim]."""
        features = self.dropout(self.features(item_embeddings, actions, ages, used, further))
        return self.to_items(self.dropout(self.gru(features, mask=used)))
