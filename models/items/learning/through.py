"""Training a map of item features through an aggregator: one objective for both.

The loss is a softmax over items: over all of them where they are few, else a sampled one. Half of
the negatives are then drawn by popularity, half uniformly, each corrected by the probability of
being drawn at all (Bengio & Senécal, "Adaptive importance sampling", 2008). What is popular with
everybody enters the score beside the vectors, so vectors need not say it. Everything random follows
from the seed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.items.learning.popularity import N_FEATURES, PopularityByDay
from models.items.learning.windows import Labels, histories_of
from models.items.protocol import Behaviour
from models.layers.one_vector import NO_SCORE
from models.training.recipe import compares_with_all

ops = keras.ops

SPEED = 8.0
"""How much faster than the map the temperature and the weights of popularity learn."""
FIRST_SCALE = 10.0
"""What the product of two vectors counts at first."""
WARM_UP = 0.3
"""Share of the steps in which the learning rate rises."""
START_RATE, END_RATE = 1 / 25, 1e-6
"""First and last learning rate, as shares of the highest."""


@dataclass(frozen=True)
class Course:
    """How it is trained, as a validation on IFDB chose it.

    Attributes:
        length: Actions of a history.
        epochs: How often each label is seen, in one cycle of the learning rate.
        seed: Of the negatives, the order and the dropout.
        labels: Labels seen per epoch at most; each epoch draws others.
        batch_size: Labels per step.
        negatives: Items drawn per step, half of them by popularity; all items where they are few
            (`models.training.recipe.compares_with_all`).
        learning_rate: The highest, of AdamW.
        weight_decay: AdamW's.
        dropout: Share of an item's features dropped.
    """

    length: int
    epochs: int
    seed: int
    labels: int = 150_000
    batch_size: int = 2_048
    negatives: int = 1_024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    dropout: float = 0.2


@dataclass(frozen=True)
class Material:
    """What it is trained on.

    Attributes:
        behaviour: All of it lies before the fit's end; `items` are rows of the features.
        labels: Of all blocks.
        blocks: The block of each label, int64 [labels].
        features: Block → the features of items as they were before it, for item rows.
        popularity: Of each day.
        own: Block → how much of its own part each of these items has; None without such parts.
    """

    behaviour: Behaviour
    labels: Labels
    blocks: NDArray[np.int64]
    features: Callable[[int, NDArray[np.int64]], NDArray[np.float32]]
    popularity: PopularityByDay
    own: Callable[[int, NDArray[np.int64]], NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class First:
    """What a training begins with beside the map and the layer; by default nothing is known.

    Attributes:
        temperature, popularity, own: As in `Outcome`.
    """

    temperature: float = FIRST_SCALE
    popularity: NDArray[np.floating] | None = None
    own: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a training made.

    Attributes:
        map: float32 [features, dim].
        losses: Each epoch's mean loss.
        temperature: What the product of a member's and an item's vector counts in a score.
        popularity: Weights of the features of `PopularityByDay` [features].
        own: The items' own parts, float32 [items, dim]; None without.
    """

    map: NDArray[np.float32]
    losses: list[float]
    temperature: float
    popularity: NDArray[np.floating]
    own: NDArray[np.float32] | None = None


class Through(keras.Model):
    """The map, an aggregator's layer, and the scores of items."""

    def __init__(
        self,
        layer: Any,
        start: NDArray[np.float32],
        dropout: float,
        seed: int,
        own_parts: int = 0,
        first: First | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.map = self.add_weight(start.shape, initializer="zeros", name="map")
        self.map.assign(start)
        self.temperature = self.add_weight((), initializer="zeros", name="temperature")
        self.popular = self.add_weight((N_FEATURES,), initializer="zeros", name="popular")
        # The same part where an item is history and where it is predicted.
        self.own = (
            self.add_weight((own_parts, start.shape[1]), initializer="zeros", name="own")
            if own_parts
            else None
        )
        self.dropout = dropout
        self.seed = seed
        if first is not None:
            self.temperature.assign(math.log(first.temperature / FIRST_SCALE) / SPEED)
            if first.popularity is not None:
                self.popular.assign(first.popularity / SPEED)
            if self.own is not None and first.own is not None:
                self.own.assign(first.own)

    def loss_of(self, batch: dict[str, Any], step: Any) -> Any:
        """Return the mean loss of a batch's labels."""
        features = batch["features"]
        if self.dropout:
            features = tf.nn.experimental.stateless_dropout(
                features, self.dropout, seed=tf.stack([self.seed, step])
            )
        items = tf.matmul(features, self.map)
        if self.own is not None:
            items += batch["own_weights"][:, None] * tf.gather(self.own, batch["own_rows"])
        items *= tf.math.rsqrt(
            tf.maximum(tf.reduce_sum(tf.square(items), axis=1, keepdims=True), 1e-12)
        )
        (vectors,) = self.layer(
            tf.gather(items, batch["rows"]),
            batch["actions"],
            batch["ages"],
            **({"further": batch["signs"]} if self.layer.further else {}),
            training=True,
        ).values()
        vectors *= FIRST_SCALE * tf.exp(SPEED * self.temperature)
        popular = SPEED * self.popular
        own = tf.reduce_sum(vectors * tf.gather(items, batch["own"]), axis=1)
        own += tf.linalg.matvec(batch["own_popularity"], popular)
        beside = tf.linalg.matvec(batch["popularity"], popular) - batch["log_drawn"]
        beside = tf.where(batch["known"], beside, NO_SCORE)
        others = tf.matmul(vectors, tf.gather(items, batch["negatives"]), transpose_b=True)
        others += tf.gather(beside, batch["days"])
        is_own = tf.equal(batch["negatives"][None, :], batch["own"][:, None])
        others = tf.where(is_own, NO_SCORE, others)
        every = tf.concat([own[:, None], others], axis=1)
        return tf.reduce_mean(tf.reduce_logsumexp(every, axis=1) - own)


def train(
    layer: Any,
    start: NDArray[np.float32],
    material: Material,
    course: Course,
    progress: Callable[[int, int], object] | None = None,
    first: First | None = None,
) -> Outcome:
    """Train the map and the layer, whose weights are those of the last epoch.

    The optimizer begins from nothing, also where the weights do not.

    Args:
        layer: Of models/layers, built; it reads items, actions and ages, and signs where it has
            `further`.
        start: The first map, float32 [features, dim].
        progress: Called after each epoch with its number, of how many.
        first: What else of an earlier training it goes on from.
    """
    n_own = material.popularity.n_items if material.own is not None else 0
    model = Through(layer, start, course.dropout, course.seed, n_own, first)
    optimizer = keras.optimizers.AdamW(course.learning_rate, weight_decay=course.weight_decay)
    weights = model.trainable_weights

    @tf.function(reduce_retracing=True)
    def advance(batch: dict[str, Any], step: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = model.loss_of(batch, step)
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss

    losses: list[float] = []
    step = 0
    total = sum(len(_groups(material, course, epoch)) for epoch in range(course.epochs))
    for epoch in range(course.epochs):
        seen, before = 0.0, step
        for batch in _batches(material, course, epoch):
            optimizer.learning_rate.assign(course.learning_rate * one_cycle(step / total))
            loss = advance(batch, tf.constant(step, tf.int32))
            seen += float(loss)
            step += 1
        losses.append(seen / (step - before))
        if progress is not None:
            progress(epoch + 1, course.epochs)
    temperature = FIRST_SCALE * math.exp(SPEED * float(model.temperature))
    popular = SPEED * np.asarray(model.popular)
    own = None if model.own is None else np.asarray(model.own)
    return Outcome(np.asarray(model.map), losses, temperature, popular, own)


def one_cycle(done: float) -> float:
    """Return the learning rate as a share of the highest, by the share of steps done.

    It rises and falls as half waves (Smith & Topin, "Super-convergence", 2018).

    >>> [round(one_cycle(done), 2) for done in (0.0, 0.15, 0.3, 0.65, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    if done < WARM_UP:
        low, share = START_RATE, done / WARM_UP
    else:
        low, share = END_RATE, (1.0 - done) / (1.0 - WARM_UP)
    return low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * share))


def _groups(material: Material, course: Course, epoch: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Return an epoch's batches, as a block and labels of it: items have one vector in each."""
    rng = np.random.default_rng([course.seed, epoch])
    drawn = rng.permutation(len(material.labels))[: course.labels]
    blocks = material.blocks[drawn]
    groups = []
    for block in np.unique(blocks):
        labels = drawn[blocks == block]
        n = -(-len(labels) // course.batch_size)
        groups += [(int(block), part) for part in np.array_split(labels, n)]
    return [groups[number] for number in rng.permutation(len(groups))]


def _batches(material: Material, course: Course, epoch: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([course.seed, epoch, 1])
    for block, chosen in _groups(material, course, epoch):
        yield _batch(material, course, block, material.labels.take(chosen), rng)


def _batch(
    material: Material, course: Course, block: int, labels: Labels, rng: np.random.Generator
) -> dict[str, Any]:
    behaviour, popularity = material.behaviour, material.popularity
    histories = histories_of(behaviour, labels, course.length)
    own = behaviour.items[labels.events].astype(np.int64)
    days, day_of = np.unique(
        popularity.rows_of(behaviour.timestamps[labels.events]), return_inverse=True
    )
    negatives, log_drawn = draw(popularity, int(days[-1]), course.negatives, rng)
    # Row 0 is PAD's.
    used, where = _distinct(
        np.concatenate([[0], histories.rows.ravel(), own + 1, negatives + 1]),
        popularity.n_items + 1,
    )
    ends = np.cumsum([1, histories.rows.size, len(own)])
    _, rows, of_own, of_negatives = np.split(where.astype(np.int32), ends)
    items = np.maximum(used - 1, 0)
    features = material.features(block, items)
    features[0] = 0.0
    more = {}
    if material.own is not None:
        weights = material.own(block, items)
        weights[0] = 0.0
        more = {"own_rows": tf.constant(items), "own_weights": tf.constant(weights)}
    return {
        **more,
        "features": tf.constant(features),
        "rows": tf.constant(rows.reshape(histories.rows.shape)),
        "actions": tf.constant(histories.actions),
        "ages": tf.constant(histories.ages),
        "signs": tf.constant(histories.signs),
        "own": tf.constant(of_own),
        "own_popularity": tf.constant(popularity.features(days[day_of], own)),
        "negatives": tf.constant(of_negatives),
        "popularity": tf.constant(popularity.features(days[:, None], negatives[None, :])),
        "known": tf.constant(popularity.is_known(days[:, None], negatives[None, :])),
        "log_drawn": tf.constant(log_drawn),
        "days": tf.constant(day_of.astype(np.int32)),
    }


def _distinct(rows: NDArray[np.integer], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows, ascending, and where each one is among them.

    As np.unique with return_inverse, without sorting: rows are below `n`.

    >>> [found.tolist() for found in _distinct(np.array([0, 7, 3, 7]), 9)]
    [[0, 3, 7], [0, 2, 1, 2]]
    """
    is_there = np.zeros(n, np.bool_)
    is_there[rows] = True
    return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[rows]


def draw(
    popularity: PopularityByDay, row: int, negatives: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw items that are known by a row of the table, half by popularity and half uniformly.

    Where the items that may be predicted are few, each that is known is drawn, for sure.

    Returns:
        Distinct items, int64 [drawn], and the log of the probability that each is drawn at all.
    """
    known = np.flatnonzero(popularity.is_known(np.array(row), np.arange(popularity.n_items)))
    if not len(known):  # before the first item was there; they are masked
        known = np.arange(popularity.n_items)
    if compares_with_all(popularity.n_candidates, negatives):
        return known, np.zeros(len(known), np.float32)
    share = popularity.before[row, known].astype(np.float64)
    share = share / share.sum() if share.any() else np.full(len(known), 1 / len(known))
    popular = negatives // 2
    uniform = negatives - popular
    drawn = np.concatenate(
        [
            np.searchsorted(np.cumsum(share), rng.random(popular), side="right"),
            rng.integers(0, len(known), uniform),
        ]
    )
    # By rounding, the shares may sum to less than 1.
    drawn = np.unique(np.minimum(drawn, len(known) - 1))
    left_out = popular * np.log1p(-np.minimum(share[drawn], 1 - 1e-12)) + uniform * np.log1p(
        -min(1 / len(known), 1 - 1e-12)
    )
    return known[drawn], np.log(-np.expm1(left_out)).astype(np.float32)
