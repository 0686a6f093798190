"""Base of the layers that read a sequence slot by slot."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers import slots
from models.layers.one_vector import OneVector

ops = keras.ops


class Slotwise(OneVector):
    """Base of the layers that see each slot as [item vector ; action or PAD ; ages ; session ;
    signs and attributes]."""

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        use_ages: bool,
        dropout: float,
        **common: Any,
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.use_ages = use_ages
        self.dropout = keras.layers.Dropout(dropout)

    def width(self, item_dim: int) -> int:
        """Return how many features a slot has."""
        times = slots.N_TIME_FEATURES if self.use_ages else 0
        sessions = slots.N_SESSION_FEATURES * self.use_sessions
        return item_dim + self.n_actions + 1 + times + sessions + self.further

    def features(self, items: Any, actions: Any, ages: Any, used: Any, further: Any = None) -> Any:
        """Return [batch, length, width]; a PAD slot has the PAD action and zeros otherwise."""
        features = [slots.clean_items(items, used), ops.one_hot(actions, self.n_actions + 1)]
        if self.use_ages:
            features.append(slots.time_features(ages, used))
        if self.use_sessions:
            features.append(slots.session_features(ages, used, self.session_gap))
        if further is not None:
            features.append(further)
        return ops.concatenate(features, axis=2)
