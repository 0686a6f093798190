"""How `WideAndDeep` is trained: batches of whole groups, gathered from tables that hold a member or
an item once, one compiled step each.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.rankers.deep.network import Beginning, Network, Sizes, Weights
from models.rankers.inputs import Labelled, Rows
from models.rankers.labels import shown_at, sizes
from models.rankers.lines import WideAndDeep
from models.rankers.preprocessing import Encoded

VALIDATION_BATCH = 8_192

Ints = NDArray[np.int32]


def train(
    line: WideAndDeep,
    heads: Mapping[str, float],
    shapes: Sizes,
    of_train: tuple[Encoded, Labelled],
    of_validation: tuple[Encoded, Labelled],
    seed: int,
    beginning: Beginning | None = None,
) -> tuple[Weights, dict[str, Any]]:
    """Train a network; return the weights of the epoch with the best validation, and figures.

    Without validation labels, those of the last epoch. The optimizer begins from nothing.

    Args:
        beginning: Weights to go on from, which are kept where no epoch is better on the validation:
            then the best epoch is 0.
    """
    keras.utils.set_random_seed(seed)
    network = Network(line, shapes)
    if beginning is not None:
        network.begin(beginning)
    fitting = Fitting(network, heads, positive_weights(line, of_train[1]))
    examples, held = Examples.of(*of_train), Examples.of(*of_validation)
    rng = np.random.default_rng(seed)
    best, best_loss, best_epoch = network.arrays(), math.inf, 0
    losses: list[float] = []
    validation: list[float] = []
    step, loss_of = fitting.step_on(examples), fitting.loss_on(held)
    if beginning is not None and len(held):
        best_loss = _mean([loss_of(*batch) for batch in held.batches(VALIDATION_BATCH)])
    for epoch in range(1, line.epochs + 1):
        losses.append(_mean([step(*batch) for batch in examples.batches(line.batch_size, rng)]))
        if not len(held):
            best, best_epoch = network.arrays(), epoch
            continue
        found = _mean([loss_of(*batch) for batch in held.batches(VALIDATION_BATCH)])
        validation.append(found)
        if found < best_loss:
            best, best_loss, best_epoch = network.arrays(), found, epoch
        elif epoch - best_epoch >= line.patience:
            break
    figures = {
        "epochs": len(losses),
        "best_epoch": best_epoch,
        "loss": [round(loss, 6) for loss in losses],
        "validation_loss": [round(loss, 6) for loss in validation],
    }
    return best, figures


def positive_weights(line: WideAndDeep, train: Labelled) -> NDArray[np.float32]:
    """Return by what each head's positive pairs are weighted, float32 [heads]."""
    ones = np.ones(train.targets.shape[1], np.float32)
    if not line.balanced:
        return ones
    positive = train.weights @ train.targets
    others = train.weights.sum() - positive
    found = np.where((positive > 0) & (others > 0), others / np.maximum(positive, 1e-12), ones)
    return np.asarray(found, np.float32)


@dataclass(frozen=True, eq=False)
class Examples:
    """Labels in TensorFlow's memory; a batch is the numbers of its pairs.

    Attributes:
        sizes: Pairs of each group, int64 [groups].
        tables: The dense columns and codes of members, items and pairs.
        of_pairs: member_rows, item_rows, targets, weights, positions, each [n].
        matched: Where the vectors of each space stand.
    """

    sizes: Rows
    tables: tuple[tuple[Any, Any], ...]
    of_pairs: tuple[Any, ...]
    matched: tuple[tuple[slice, slice], ...]

    @classmethod
    def of(cls, encoded: Encoded, labelled: Labelled) -> "Examples":
        """Hold encoded pairs and what came of them."""
        columns = (
            encoded.member_rows.astype(np.int32),
            encoded.item_rows.astype(np.int32),
            labelled.targets.astype(np.float32),
            labelled.weights.astype(np.float32),
            shown_at(labelled).astype(np.int32),
        )
        return cls(
            sizes(labelled.groups) if len(labelled) else np.zeros(0, np.int64),
            tuple((tf.constant(t.dense), tf.constant(t.codes)) for t, _ in encoded.sides),
            tuple(tf.constant(column) for column in columns),
            encoded.matched,
        )

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def batches(
        self, size: int, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[Ints, Ints]]:
        """Yield the pairs of each batch and the group that each is in, from 0; int32.

        A batch has whole groups, the fewest that have `size` pairs together.

        Args:
            rng: Puts the groups in another order.
        """
        groups = np.arange(len(self.sizes)) if rng is None else rng.permutation(len(self.sizes))
        many = self.sizes[groups]
        first = np.r_[0, np.cumsum(self.sizes)][groups]
        ends = np.cumsum(many)
        # Each group's pairs follow each other: where it begins, plus the place inside it.
        inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - many, many)
        pairs = (np.repeat(first, many) + inside).astype(np.int32)
        numbers = np.repeat(np.arange(len(groups)), many).astype(np.int32)
        begin = 0
        while begin < len(groups):
            offset = ends[begin] - many[begin]
            end = min(int(np.searchsorted(ends, offset + size)) + 1, len(groups))
            yield pairs[offset : ends[end - 1]], numbers[offset : ends[end - 1]] - np.int32(begin)
            begin = end

    def gathered(self, pairs: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Return dense columns, codes, targets, weights and positions of some pairs."""
        members, items, *rest = (tf.gather(column, pairs) for column in self.of_pairs)
        dense, codes = [], []
        for (of_dense, of_codes), rows in zip(self.tables, (members, items, pairs), strict=True):
            dense.append(tf.gather(of_dense, rows))
            codes.append(tf.gather(of_codes, rows))
        products = [dense[0][:, member] * dense[1][:, item] for member, item in self.matched]
        targets, weights, positions = rest
        return (
            tf.concat([*dense, *products], axis=1),
            tf.concat(codes, axis=1),
            targets,
            weights,
            positions,
        )


class Fitting:
    """The loss of a network, and a step of AdamW on it."""

    def __init__(
        self, network: Network, heads: Mapping[str, float], positive: NDArray[np.float32]
    ) -> None:
        self.network, self.positive = network, positive
        self.weights = np.array([*heads.values()], np.float32)
        line = network.line
        self.optimizer = keras.optimizers.AdamW(line.learning_rate, weight_decay=line.weight_decay)
        # Of all whose names hold these words.
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "factor_heads"])
        self.optimizer.build(network.trainable_variables)

    def step_on(self, examples: Examples) -> Any:
        """Return the compiled step: pairs and their groups, int32 each → the loss, its weight."""

        @_compiled
        def step(pairs: Any, groups: Any) -> Any:
            dense, codes, targets, weights, positions = examples.gathered(pairs)
            variables = self.network.trainable_variables
            with tf.GradientTape() as tape:
                logits = self.network.call(dense, codes, positions, training=True)
                loss = self.loss(logits, targets, weights, groups)
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            # What a line leaves out (no position known, no category) has no gradient.
            both = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
            self.optimizer.apply_gradients(both)
            return loss, tf.reduce_sum(weights)

        return step

    def loss_on(self, examples: Examples) -> Any:
        """Return the compiled loss, without a step."""

        @_compiled
        def loss(pairs: Any, groups: Any) -> Any:
            dense, codes, targets, weights, positions = examples.gathered(pairs)
            logits = self.network.call(dense, codes, positions, training=False)
            return self.loss(logits, targets, weights, groups), tf.reduce_sum(weights)

        return loss

    def loss(self, logits: Any, targets: Any, weights: Any, groups: Any) -> Any:
        """Return the mean cross-entropy of the heads, plus `listwise` times that of the groups."""
        each = tf.nn.weighted_cross_entropy_with_logits(targets, logits, self.positive)
        total = tf.maximum(tf.reduce_sum(weights), 1e-12)
        loss = tf.reduce_sum(weights * tf.reduce_mean(each, axis=1)) / total
        if self.network.line.listwise and (self.weights > 0).any():
            loss += self.network.line.listwise * listwise(
                logits, targets, weights, groups, self.weights
            )
        return loss


def listwise(
    logits: Any, targets: Any, weights: Any, groups: Any, of_heads: NDArray[np.float32]
) -> Any:
    """Return the softmax cross-entropy over each group of what its pairs were worth.

    The softmax is of log Σ weight · probability over the heads that count for an item, less what
    those that count against it take off. So with one head a pair's share is in proportion to its
    score. A group where nothing good came of any pair says nothing.

    Args:
        groups: int32 [pairs], ascending from 0.
        of_heads: Weights of the heads in the score [heads].
    """
    good = np.flatnonzero(of_heads > 0)
    chances = tf.math.log_sigmoid(tf.gather(logits, good, axis=1)) + np.log(of_heads[good])
    scores = tf.reduce_logsumexp(chances, axis=1)
    against = np.minimum(of_heads, 0.0)
    if against.any():
        scores += tf.linalg.matvec(tf.sigmoid(logits), against)
    worth = tf.maximum(tf.linalg.matvec(targets, of_heads), 0.0)
    most = tf.stop_gradient(tf.math.segment_max(scores, groups))
    shares = tf.math.segment_sum(tf.exp(scores - tf.gather(most, groups)), groups)
    log_share = scores - tf.gather(most + tf.math.log(shares), groups)
    together = tf.gather(tf.math.segment_sum(worth, groups), groups)
    counted = weights * tf.math.divide_no_nan(worth, together)
    return -tf.math.divide_no_nan(tf.reduce_sum(counted * log_share), tf.reduce_sum(counted))


def _compiled(function: Any) -> Any:
    of = tf.TensorSpec([None], tf.int32)
    return tf.function(function, input_signature=[of, of], autograph=False)


def _mean(batches: list[tuple[Any, Any]]) -> float:
    """Return the mean of losses by their weights."""
    losses = np.array([[float(loss), float(weight)] for loss, weight in batches])
    return float(losses[:, 0] @ losses[:, 1] / max(losses[:, 1].sum(), 1e-12))
