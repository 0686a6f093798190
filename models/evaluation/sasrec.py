"""A causal transformer over item ids: the sequential recommender to compare with.

Kang and McAuley, "Self-attentive sequential recommendation", 2018, with a softmax over items in
place of one negative per positive: over all of them where they are few, else a sampled one.

The network is that of the catalogue's `Transformer`, of the same blocks; the training is not that
of models/items/learning/through.py, or the reference would not be the published one. Its items are
free embeddings of ids, without text, popularity or temperature; one pass teaches every position of
a window; its negatives are those of the whole period. There, items are vectors of a space as of the
label's time, and each label has a history of its own.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.evaluation.references import PositiveEvents
from models.layers.transformer import Block
from models.training.recipe import compares_with_all

ops = keras.ops
Floats = NDArray[np.float32]
Rows = NDArray[np.int32]

PAD = 0
MASKED = -1e9


@dataclass(frozen=True, kw_only=True)
class SasRecSettings:
    """How it is built and trained.

    Attributes:
        length: Actions that it sees.
        negatives: Items drawn per step, half by popularity and half uniformly; all items where
            they are few (`compares_with_all`).
    """

    length: int = 32
    units: int = 64
    heads: int = 2
    layers: int = 2
    dropout: float = 0.2
    negatives: int = 1024
    batch_size: int = 128
    epochs: int = 15
    learning_rate: float = 0.002
    seed: int = 0


class SasRec(keras.Model):
    """States of sequences of items, compared with the items' own embeddings.

    Args:
        items: Number of items; row 0 of the embeddings is PAD, item i has row i + 1.
    """

    def __init__(self, items: int, settings: SasRecSettings) -> None:
        super().__init__()
        self.settings = settings
        small = keras.initializers.RandomNormal(stddev=0.05, seed=settings.seed)
        self.items = keras.layers.Embedding(items + 1, settings.units, small)
        self.positions = keras.layers.Embedding(settings.length, settings.units, small)
        self.blocks = [
            Block(settings.units, settings.heads, settings.dropout) for _ in range(settings.layers)
        ]
        self.dropout = keras.layers.Dropout(settings.dropout)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5)
        self.trained = np.zeros(items, bool)

    def call(self, rows: Any, training: bool = False) -> Any:
        """Return the state after each action, float32 [batch, length, units].

        Args:
            rows: Rows of the items, int32 [batch, length], oldest first and padded on the left.
        """
        index = ops.arange(self.settings.length)
        used = ops.not_equal(rows, PAD)
        # A state sees itself and the actions before it; one of PAD sees itself alone.
        mask = (used[:, None, :] & (index[None, :] <= index[:, None])) | (
            index[None, :] == index[:, None]
        )
        states = self.items(rows) + self.positions(index)
        states = self.dropout(states, training=training)
        for block in self.blocks:
            states = block(states, mask, training=training)
        return self.norm(states)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which items it was trained with, bool [items]."""
        return self.trained

    def scores(self, histories: NDArray[np.integer], batch: int = 256) -> Floats:
        """Return float32 [n, items].

        Args:
            histories: Indices of a member's last items, int [n, length], the newest last; -1 on
                the left of the shorter ones.
        """
        rows = (histories[:, -self.settings.length :] + 1).astype(np.int32)
        states = [
            np.asarray(self(rows[start : start + batch]))[:, -1]
            for start in range(0, len(rows), batch)
        ]
        vectors = np.concatenate([np.zeros((0, self.settings.units), np.float32), *states])
        return vectors @ np.asarray(self.items.embeddings)[1:].T


def fit_sasrec(events: PositiveEvents, items: int, settings: SasRecSettings) -> SasRec:
    """Train on all positions of members' sequences; the same seed gives the same weights."""
    keras.utils.set_random_seed(settings.seed)
    model = SasRec(items, settings)
    inputs, targets = windows(events, settings.length)
    counts = np.bincount(events.items, minlength=items)
    model.trained = counts > 0
    if not len(inputs):
        return model
    model(inputs[:1])
    steps = settings.epochs * -(-len(inputs) // settings.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    step = _step(model, keras.optimizers.Adam(rate))
    rng = np.random.default_rng(settings.seed)
    for _ in range(settings.epochs):
        order = rng.permutation(len(inputs))
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            step(inputs[chosen], targets[chosen], *_candidates(counts, settings.negatives, rng))
    return model


def windows(events: PositiveEvents, length: int) -> tuple[Rows, Rows]:
    """Return inputs and targets, int32 [windows, length], as rows of the embeddings.

    Each action of a member but its first is a target once, seen after up to `length` actions before
    it. One at the same timestamp as the action before it is PAD as a target: actions of one
    timestamp never teach each other.

    Three actions of one member, the last two at one timestamp:

    >>> log = PositiveEvents(np.array([7, 7, 7]), np.array([4, 5, 6]), np.array([1, 2, 2]))
    >>> inputs, targets = windows(log, length=3)
    >>> inputs.tolist(), targets.tolist()
    ([[0, 5, 6]], [[0, 6, 0]])
    """
    order = np.argsort(events.members, kind="stable")
    members, rows, times = events.members[order], events.items[order] + 1, events.times[order]
    _, starts = np.unique(members, return_index=True)
    inputs, targets = [], []
    for start, end in pairwise([*starts, len(members)]):
        later = times[start + 1 : end] > times[start : end - 1]
        following = np.where(later, rows[start + 1 : end], PAD)
        for stop in range(end - start - 1, 0, -length):
            some = slice(max(stop - length, 0), stop)
            inputs.append(_padded(rows[start : end - 1][some], length))
            targets.append(_padded(following[some], length))
    shape = (len(inputs), length)
    return (
        np.array(inputs, np.int32).reshape(shape),
        np.array(targets, np.int32).reshape(shape),
    )


def _padded(values: NDArray[np.integer], length: int) -> NDArray[np.integer]:
    return np.concatenate([np.full(length - len(values), PAD), values])


def _candidates(
    counts: NDArray[np.integer], negatives: int, rng: np.random.Generator
) -> tuple[Rows, Floats, Floats]:
    """Return rows to compare with, the log of their expected draws, and that of every row.

    All items that were acted on, with zeros, where they are few.
    """
    there = np.flatnonzero(counts)
    log_draws = np.zeros(len(counts) + 1, np.float32)
    if compares_with_all(len(there), negatives):
        return (there + 1).astype(np.int32), log_draws[there + 1], log_draws
    chance = 0.5 * counts / counts.sum() + 0.5 * (counts > 0) / len(there)
    drawn = np.searchsorted(np.cumsum(chance), rng.random(negatives), side="right")
    drawn = np.minimum(drawn, len(counts) - 1)
    log_draws[there + 1] = np.log(chance[there] * negatives)
    return (drawn + 1).astype(np.int32), log_draws[drawn + 1], log_draws


def _step(model: SasRec, optimizer: keras.optimizers.Optimizer) -> Any:
    """Return one optimizer step, as a graph."""
    sequences = tf.TensorSpec((None, model.settings.length), tf.int32)
    numbers = tf.TensorSpec((None,), tf.float32)

    @tf.function(
        input_signature=[sequences, sequences, tf.TensorSpec((None,), tf.int32), numbers, numbers]
    )
    def step(inputs: Any, targets: Any, rows: Any, log_draws: Any, of_every_row: Any) -> None:
        with tf.GradientTape() as tape:
            states = tf.boolean_mask(model(inputs, training=True), targets != PAD)
            own = tf.boolean_mask(targets, targets != PAD)
            score = tf.reduce_sum(states * model.items(own), axis=1) - tf.gather(of_every_row, own)
            against = tf.matmul(states, model.items(rows), transpose_b=True) - log_draws
            against = tf.where(rows[None, :] == own[:, None], MASKED, against)
            together = tf.concat([score[:, None], against], axis=1)
            each = tf.reduce_logsumexp(together, axis=1) - score
            loss = tf.reduce_sum(each) / tf.maximum(tf.cast(tf.size(own), tf.float32), 1.0)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    return step
