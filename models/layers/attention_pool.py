"""Learned queries that weigh the actions."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers import slots
from models.layers.one_vector import NO_SCORE, ProjectedSum
from models.layers.slotwise import Slotwise

ops = keras.ops


class AttentionPool(Slotwise):
    """Per query and action, items weighed by a softmax over all actions, projected and summed.

    The score of a slot is q · tanh(K [features ; rank]): a learned query against a key. A new one
    projects to the mean over the queries:

    >>> from models.spec import AttentionPool as Line
    >>> pool = AttentionPool({"activity_embedding": 1}, n_actions=1, **Line(version=1).parameters())
    >>> vectors = pool(ops.ones((1, 2, 1)), ops.array([[0, 1]]), ops.zeros((1, 2)))
    >>> vectors["activity_embedding"].numpy()
    array([[1.]], dtype=float32)
    """

    def __init__(
        self, vectors: Mapping[str, int], n_actions: int, queries: int, units: int, **common: Any
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.queries = queries
        self.keys = keras.layers.Dense(units, activation="tanh")
        self.scores = keras.layers.Dense(queries, use_bias=False)
        self.projection = ProjectedSum(self.dim, parts=queries)

    def build_for(self, item_dim: int) -> None:
        """Make the keys, the queries and a kernel per query and action."""
        self.keys.build((None, None, self.width(item_dim) + slots.N_RANK_FEATURES))
        self.scores.build((None, None, self.keys.units))
        self.projection.build((None, self.queries * self.n_actions, item_dim))

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return [batch, dim]."""
        features = self.features(item_embeddings, actions, ages, used, further)
        inputs = self.dropout(ops.concatenate([features, slots.rank_features(used)], axis=2))
        scores = ops.cast(self.scores(self.keys(inputs)), "float32")
        shares = ops.softmax(ops.where(used[:, :, None], scores, NO_SCORE), axis=1)
        shares = ops.transpose(shares, (0, 2, 1))[:, :, None] * self.of_kinds(actions)[:, None]
        length, item_dim = item_embeddings.shape[1:]
        shares = ops.reshape(shares, (-1, self.queries * self.n_actions, length))
        return self.projection(ops.matmul(shares, features[:, :, :item_dim]))
