"""The downstream ranker, small and the same for every variant.

It has the shape of a job ranker with activity features: Hadamard products of the member's vectors
with the item's, weighted per dimension (LinkedIn, "Improving job matching with machine-learned
activity features", 2022). Beside them it has what any ranker knows: how popular and how old an item
is, how much and how recently the member acted. Both sides factorize, so one matrix product ranks
all items for many members.

Two heads share the inputs. One predicts the item of a member's next positive action (sampled
softmax), the other whether an action on a given item is positive or negative (logistic).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.evaluation.item_days import ItemDays
from transformations.errors import InputError
from transformations.timestamps import DAY_US

ops = keras.ops
Floats = NDArray[np.float32]

TOWER = 4
"""Dimensions in which a head multiplies its item features with its member features."""
RANK, JUDGE = 0, 1
MASKED = -1e9


@dataclass(frozen=True, kw_only=True)
class RankerSettings:
    """How the ranker is fitted: the same for every variant, except `l2`, chosen for each.

    Attributes:
        l2: L2 penalty on the weights of the product features. Three vectors have three times as
            many weights, and would overfit more without it.
        negatives: Items drawn per step, half by popularity in the last week, half uniformly.
    """

    l2: float = 1e-4
    negatives: int = 1024
    batch_size: int = 512
    epochs: int = 10
    learning_rate: float = 0.005


@dataclass(frozen=True, eq=False)
class RankerLabels:
    """Actions to predict; every array is [labels].

    Attributes:
        members: Code of the member, for resampling.
        items: Index of the item.
        days: The day (since 1970) at whose midnight the item features are taken.
        times: Microseconds since 1970.
        positive: Whether the action is a positive one.
    """

    members: NDArray[np.int64]
    items: NDArray[np.int64]
    days: NDArray[np.int64]
    times: NDArray[np.int64]
    positive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "RankerLabels":
        """Return some of the labels."""
        return RankerLabels(
            self.members[rows],
            self.items[rows],
            self.days[rows],
            self.times[rows],
            self.positive[rows],
        )


@dataclass(frozen=True, eq=False)
class RankerFeatures:
    """A variant's features for the labels of one period.

    Attributes:
        vectors: The members' vectors, float32 [labels, vectors, dim]. A variant with fewer than
            others is padded with zeros, so every variant's ranker has the same capacity.
        member_features: The other features of the members, float32 [labels, n].
    """

    vectors: Floats
    member_features: Floats


class Ranker(keras.Model):
    """Scores = member side · item side, for each head.

    Args:
        vectors: Vectors per member.
        dim: Of the vectors.
        settings: Only l2 is used.
        seed: Of the initial weights.
    """

    def __init__(self, vectors: int, dim: int, settings: RankerSettings, seed: int) -> None:
        super().__init__()
        seeds = iter(range(100 * seed, 100 * seed + 100))

        def dense(units: int, activation: str | None = None) -> keras.layers.Dense:
            initial = keras.initializers.GlorotUniform(seed=next(seeds))
            return keras.layers.Dense(units, activation, kernel_initializer=initial)

        self.l2 = settings.l2
        near_one = keras.initializers.RandomNormal(1.0, 0.1, seed=next(seeds))
        # Per head: a weight for each vector, and an offset to it for each of its dimensions.
        self.by_vector = [
            self.add_weight((vectors,), initializer=near_one, name="rank_vectors"),
            self.add_weight((vectors,), initializer="zeros", name="judge_vectors"),
        ]
        self.by_dimension = [
            self.add_weight((vectors, dim), initializer="zeros", name=name)
            for name in ("rank_dimensions", "judge_dimensions")
        ]
        self.item_hidden, self.item_out = dense(32, "relu"), dense(2 * TOWER)
        self.member_hidden, self.member_out = dense(16, "relu"), dense(2 * TOWER + 2)
        self.bias = keras.layers.Dense(1, kernel_initializer="zeros")

    def member_side(self, vectors: Floats, member_features: Floats) -> list[Floats]:
        """Return [n, dim + TOWER] for each head; arguments as in `RankerFeatures`."""
        out = self.member_out(self.member_hidden(member_features))
        sides = []
        for head in (RANK, JUDGE):
            weights = self.by_dimension[head] + self.by_vector[head][:, None]
            trust = ops.softplus(out[:, 2 * TOWER + head, None])
            tower = out[:, head * TOWER : (head + 1) * TOWER]
            mixed = ops.einsum("nkd,kd->nd", vectors, weights) * trust
            sides.append(ops.concatenate([mixed, tower], axis=1))
        return sides

    def item_side(self, embeddings: Floats, features: Floats) -> list[Floats]:
        """Return [items, dim + TOWER] for each head, from [items, dim] and [items, N_FEATURES]."""
        out = self.item_out(self.item_hidden(features))
        return [
            ops.concatenate([embeddings, out[:, head * TOWER : (head + 1) * TOWER]], axis=1)
            for head in (RANK, JUDGE)
        ]

    def penalty(self) -> Floats:
        """Return the L2 penalty on the weights per dimension."""
        return self.l2 * sum(ops.sum(ops.square(weights)) for weights in self.by_dimension)


def fit_ranker(
    labels: RankerLabels,
    features: RankerFeatures,
    embeddings: Floats,
    item_days: ItemDays,
    settings: RankerSettings,
    seed: int,
) -> Ranker:
    """Fit a ranker to labels; the same seed gives the same ranker.

    Args:
        embeddings: The items' vectors, float32 [items, dim].

    Raises:
        InputError: a label is on an item that was not known on its day.
    """
    if not (item_days.available_at[labels.items] <= labels.days * DAY_US).all():
        raise InputError("expected labels on items known at their midnight, got others; drop them")
    rng = np.random.default_rng(seed)
    ranker = Ranker(features.vectors.shape[1], embeddings.shape[1], settings, seed)
    batches = _batches(labels.days, settings.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.epochs * len(batches)
    )
    step = _step(ranker, keras.optimizers.Adam(rate))
    for _ in range(settings.epochs):
        for rows in _shuffled(batches, labels.days, rng):
            day = int(labels.days[rows[0]])
            item_features = item_days.features(day)
            drawn, expected = _draw(item_days, day, settings.negatives, rng)
            own = labels.items[rows]
            step(
                features.vectors[rows],
                features.member_features[rows],
                labels.positive[rows].astype(np.float32),
                embeddings[own],
                item_features[own],
                np.log(expected[own]),
                embeddings[drawn],
                item_features[drawn],
                np.log(expected[drawn]),
                drawn[None, :] == own[:, None],
            )
    return ranker


def _step(ranker: Ranker, optimizer: keras.optimizers.Optimizer) -> Callable[..., None]:
    """Return one optimizer step, as a graph."""

    @tf.function(reduce_retracing=True)
    def step(
        vectors: Floats,
        member_features: Floats,
        positive: Floats,
        own: Floats,
        own_features: Floats,
        own_draws: Floats,
        others: Floats,
        other_features: Floats,
        other_draws: Floats,
        is_own: NDArray[np.bool_],
    ) -> None:
        with tf.GradientTape() as tape:
            members = ranker.member_side(vectors, member_features)
            owned = ranker.item_side(own, own_features)
            drawn = ranker.item_side(others, other_features)
            # Sampled softmax with the logQ correction: every score minus the log of the item's
            # expected draws (Yi et al., "Sampling-bias-corrected neural modeling", 2019).
            score = tf.reduce_sum(members[RANK] * owned[RANK], axis=1) - own_draws
            against = tf.matmul(members[RANK], drawn[RANK], transpose_b=True) - other_draws
            against = tf.where(is_own, MASKED, against)
            together = tf.concat([score[:, None], against], axis=1)
            each = tf.reduce_logsumexp(together, axis=1) - score
            ranking = tf.reduce_sum(each * positive) / tf.maximum(tf.reduce_sum(positive), 1.0)
            judged = tf.reduce_sum(members[JUDGE] * owned[JUDGE], axis=1)
            judged += ranker.bias(member_features)[:, 0]
            judging = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(labels=positive, logits=judged)
            )
            loss = ranking + judging + ranker.penalty()
        gradients = tape.gradient(loss, ranker.trainable_variables)
        optimizer.apply_gradients(zip(gradients, ranker.trainable_variables, strict=True))

    return step


def _batches(days: NDArray[np.int64], size: int) -> list[tuple[int, int, int]]:
    """Return (day, start, end) of batches; a batch has one day, so its rows share item features."""
    return [
        (int(day), start, min(start + size, count))
        for day, count in zip(*np.unique(days, return_counts=True), strict=True)
        for start in range(0, count, size)
    ]


def _shuffled(
    batches: list[tuple[int, int, int]], days: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    rows = {day: rng.permutation(np.flatnonzero(days == day)) for day in np.unique(days)}
    for batch in rng.permutation(len(batches)):
        day, start, end = batches[batch]
        yield rows[day][start:end]


def _draw(
    item_days: ItemDays, day: int, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw known items; return them, and each item's expected number of draws [items]."""
    known = item_days.known(day)
    chance = 0.5 * item_days.popular_share(day) + 0.5 * known / max(int(known.sum()), 1)
    chance /= chance.sum()
    drawn = np.searchsorted(np.cumsum(chance), rng.random(count), side="right")
    return np.minimum(drawn, len(chance) - 1), (chance * count).astype(np.float32)
