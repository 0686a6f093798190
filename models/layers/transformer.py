"""A small causal transformer."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers import slots
from models.layers.slotwise import Slotwise

ops = keras.ops


class Transformer(Slotwise):
    """Causal pre-norm attention over the slots; the newest action's state, dense to the items.

    Positions count from the newest action. The last block computes only the returned state. The
    architecture is that of Kang & McAuley, "Self-attentive sequential recommendation" (2018), on
    item vectors in place of ids; docs/training.md says how it differs from
    models/evaluation/sasrec.py.

    >>> from models.spec import Transformer as Line
    >>> layer = Transformer({"activity_embedding": 2}, n_actions=1, **Line(version=1).parameters())
    >>> vectors = layer(ops.ones((4, 3, 8)), ops.ones((4, 3), dtype="int32"), ops.zeros((4, 3)))
    >>> tuple(vectors["activity_embedding"].shape)
    (4, 2)
    """

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        units: int,
        heads: int,
        layers: int,
        positions: int,
        dropout: float,
        **common: Any,
    ) -> None:
        super().__init__(vectors, n_actions, dropout=dropout, **common)
        self.units = units
        self.to_units = keras.layers.Dense(units)
        self.positions = keras.layers.Embedding(positions, units)
        self.blocks = [Block(units, heads, dropout) for _ in range(layers)]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5)
        self.to_items = keras.layers.Dense(self.dim)

    def build_for(self, item_dim: int) -> None:
        """Make the embeddings, the blocks and the dense layer."""
        self.to_units.build((None, None, self.width(item_dim)))
        self.positions.build((None, None))
        for block in self.blocks:
            block.build((None, None, self.units))
        self.norm.build((None, 1, self.units))
        self.to_items.build((None, self.units))

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return [batch, dim]."""
        features = self.features(item_embeddings, actions, ages, used, further)
        rank = ops.cast(slots.ranks(used), "int32")
        states = self.states(features, rank, used)
        newest = ops.cast(used & ops.equal(rank, 0), states.dtype)[:, None]
        last = self.blocks[-1](states, used[:, None], ops.matmul(newest, states))
        return self.to_items(self.norm(last)[:, 0])

    def states(self, features: Any, rank: Any, used: Any) -> Any:
        """Return the states [batch, length, units] that the last block sees."""
        states = self.to_units(features)
        states += self.positions(ops.minimum(rank, self.positions.input_dim - 1))
        states = self.dropout(states)
        # A slot sees itself and the used slots before it, by rank: padding changes nothing.
        mask = used[:, None, :] & (rank[:, None, :] >= rank[:, :, None])
        for block in self.blocks[:-1]:
            states = block(states, mask)
        return states


class Block(keras.layers.Layer):
    """Attention, then a feed-forward layer, each after a layer norm, with a residual."""

    def __init__(self, units: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = keras.layers.LayerNormalization(epsilon=1e-5)
        self.attention = keras.layers.MultiHeadAttention(heads, units // heads, dropout=dropout)
        self.before_hidden = keras.layers.LayerNormalization(epsilon=1e-5)
        self.hidden = keras.layers.Dense(2 * units, activation="relu")
        self.out = keras.layers.Dense(units)
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, states_shape: Any) -> None:
        """Make the weights; states [batch, length, units]."""
        self.before_attention.build(states_shape)
        self.attention.build(states_shape, states_shape)
        self.before_hidden.build(states_shape)
        self.hidden.build(states_shape)
        self.out.build((*states_shape[:-1], self.hidden.units))

    def call(self, states: Any, mask: Any, query: Any = None) -> Any:
        """Return the new states of `query`, [batch, queries, units]; default: of all states.

        Args:
            mask: The states that a query sees, bool [batch, queries, length].
        """
        seen = self.before_attention(states)
        queries = seen if query is None else self.before_attention(query)
        query = states if query is None else query
        query += self.dropout(self.attention(queries, seen, attention_mask=mask))
        return query + self.dropout(self.out(self.hidden(self.before_hidden(query))))
