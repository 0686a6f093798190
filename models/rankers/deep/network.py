"""The network of `WideAndDeep` as Keras trains it; forward.py is the same in NumPy, which serves.

Sizes: `width` dense columns, `codes` of all categories, `fields` (categories) a pair, `heads`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.rankers.labels import POSITIONS
from models.rankers.lines import WideAndDeep

ops = keras.ops

Weights = dict[str, NDArray[np.float32]]

TABLES = ("linear_table", "factor_table", "embeddings")
"""The weights that have a row per code."""


@dataclass(frozen=True)
class Beginning:
    """The weights that a network goes on from.

    Attributes:
        weights: As `Network.arrays` returned them.
        offsets: Of their codes, as `Sizes.offsets`. Each category may have more codes by now, after
            those that it had.
        as_unknown: Whether a new code begins as its category's unknown one was, by which its values
            were scored so far; else as in a network that begins from nothing.
    """

    weights: Mapping[str, NDArray[np.float32]]
    offsets: Sequence[int]
    as_unknown: bool = True


@dataclass(frozen=True)
class Sizes:
    """What decides the shapes.

    Attributes:
        offsets: The first code of each category, and at the end how many there are.
        wide_columns: The dense columns that the factorization machine reads.
        wide_fields: The categories that it reads.
    """

    width: int
    offsets: tuple[int, ...]
    heads: int
    wide_columns: tuple[int, ...]
    wide_fields: tuple[int, ...]

    @property
    def codes(self) -> int:
        """Codes of all categories."""
        return self.offsets[-1]

    @property
    def fields(self) -> int:
        """Categories of a pair."""
        return len(self.offsets) - 1


class Network(keras.Model):
    """Logits of each head: a factorization machine of order 2 plus a feed-forward network.

    The machine's factors are shared by the heads, each of which weighs them; with weights of 1 it
    is Rendle's. The vectors of an unknown category begin as zeros.
    """

    def __init__(self, line: WideAndDeep, sizes: Sizes) -> None:
        super().__init__()
        self.line, self.sizes = line, sizes
        dim, heads, codes = line.embedding_dim, sizes.heads, sizes.codes
        known = np.ones((codes, 1), np.float32)
        known[list(sizes.offsets[:-1])] = 0.0
        wide = len(sizes.wide_columns)

        def made(name: str, *shape: int, start: Any = "zeros", scale: float = 0.0) -> Any:
            first = keras.initializers.RandomNormal(stddev=scale) if scale else start
            return self.add_weight(shape=shape, initializer=first, name=name)

        self.bias = made("bias", heads)
        self.position_bias = made("position_bias", POSITIONS, heads)
        self.linear = made("linear", wide, heads)
        self.linear_table = made("linear_table", codes, heads)
        self.factors = made("factors", wide, dim, scale=0.01)
        self.factor_table = made("factor_table", codes, dim, scale=0.05)
        self.factor_heads = made("factor_heads", dim, heads, start="ones")
        self.factor_table.assign(self.factor_table * known)
        self.layers_of: list[tuple[Any, Any]] = []
        self.dropout = keras.layers.Dropout(line.dropout)
        if line.deep:
            self.embeddings = made("embeddings", codes, dim, scale=0.05)
            self.embeddings.assign(self.embeddings * known)
            before = sizes.width + sizes.fields * dim
            for index, units in enumerate((*line.deep, heads)):
                start = "glorot_uniform" if index < len(line.deep) else "zeros"
                kernel = made(f"kernel_{index}", before, units, start=start)
                self.layers_of.append((kernel, made(f"bias_{index}", units)))
                before = units
        self.built = True

    def begin(self, beginning: Beginning) -> None:
        """Take over weights; every code that they have keeps its row, bit by bit."""
        old, offsets = beginning.offsets, self.sizes.offsets
        for variable in self.trainable_variables:
            weights = beginning.weights[variable.name]
            if variable.name in TABLES:
                grown = np.asarray(variable).copy()
                for category, first in enumerate(offsets[:-1]):
                    rows = weights[old[category] : old[category + 1]]
                    if beginning.as_unknown:
                        grown[first : offsets[category + 1]] = rows[0]
                    grown[first : first + len(rows)] = rows
                weights = grown
            variable.assign(weights)

    def call(self, dense: Any, codes: Any, positions: Any, training: bool = False) -> Any:
        """Return logits, float32 [pairs, heads].

        Args:
            dense: float32 [pairs, width].
            codes: int32 [pairs, fields], numbered through.
            positions: int32 [pairs]; below 0 where it says nothing.
        """
        logits = self.bias + self.wide(dense, codes)
        shown = tf.cast(positions >= 0, tf.float32)[:, None]
        logits += shown * tf.gather(self.position_bias, tf.maximum(positions, 0))
        if self.layers_of:
            logits += self.deep(dense, codes, training)
        return logits

    def wide(self, dense: Any, codes: Any) -> Any:
        """Return the factorization machine's share, [pairs, heads]."""
        x = _chosen(dense, self.sizes.wide_columns, self.sizes.width)
        fields = _chosen(codes, self.sizes.wide_fields, self.sizes.fields)
        linear = tf.matmul(x, self.linear)
        sums = tf.matmul(x, self.factors)
        squares = tf.matmul(tf.square(x), tf.square(self.factors))
        if self.sizes.wide_fields:
            linear += tf.reduce_sum(tf.gather(self.linear_table, fields), axis=1)
            vectors = tf.gather(self.factor_table, fields)
            sums += tf.reduce_sum(vectors, axis=1)
            squares += tf.reduce_sum(tf.square(vectors), axis=1)
        return linear + tf.matmul(0.5 * (tf.square(sums) - squares), self.factor_heads)

    def deep(self, dense: Any, codes: Any, training: bool) -> Any:
        """Return the network's share, [pairs, heads]."""
        x = dense
        if self.sizes.fields:
            looked_up = tf.gather(self.embeddings, codes)
            size = self.sizes.fields * self.line.embedding_dim
            x = tf.concat([dense, tf.reshape(looked_up, (-1, size))], axis=1)
        *hidden, (kernel, bias) = self.layers_of
        for inner, of_inner in hidden:
            x = tf.nn.relu(tf.matmul(x, inner) + of_inner)
            x = self.dropout(x, training=training)
        return tf.matmul(x, kernel) + bias

    def arrays(self) -> Weights:
        """Return all weights by their names."""
        return {variable.name: np.asarray(variable) for variable in self.trainable_variables}

    def put(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Set all weights."""
        for variable in self.trainable_variables:
            variable.assign(weights[variable.name])


def _chosen(values: Any, columns: Sequence[int], width: int) -> Any:
    """Return some columns; all of them as they are."""
    if tuple(columns) == tuple(range(width)):
        return values
    return tf.gather(values, tf.constant(columns, tf.int32, (len(columns),)), axis=1)
