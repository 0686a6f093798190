"""A recurrent unit over the actions."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers.slotwise import Slotwise


class Gru(Slotwise):
    """The last state of a gated recurrent unit that skips PAD slots, dense to the items."""

    def __init__(
        self, vectors: Mapping[str, int], n_actions: int, units: int, **common: Any
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        # cuDNN wants its padding on the right.
        self.gru = keras.layers.GRU(units, use_cudnn=False)
        self.to_items = keras.layers.Dense(self.dim)

    def build_for(self, item_dim: int) -> None:
        """Make the recurrent weights and the dense layer."""
        self.gru.build((None, None, self.width(item_dim)))
        self.to_items.build((None, self.gru.units))

    def summarize(self, item_embeddings: Any, actions: Any, ages: Any, used: Any) -> Any:
        """Return [batch, dim]."""
        features = self.dropout(self.features(item_embeddings, actions, ages, used))
        return self.to_items(self.dropout(self.gru(features, mask=used)))
