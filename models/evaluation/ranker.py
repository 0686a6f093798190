"""The downstream ranker, small and the same for every variant.

It has the shape of a job ranker with activity features: Hadamard products of the member's vectors
with the item's, weighted per dimension (LinkedIn, "Improving job matching with machine-learned
activity features", 2022). Beside them it has what any ranker knows: how popular and how old an item
is, how much and how recently the member acted; and, where a variant has it, another recommender's
score of each pair. Both sides factorize, so one matrix product ranks all items for many members.

Each of a member's vectors is divided by its mean norm over the ranker's labels, and so are the
items': the weights start equal, and without that a vector which is shorter than an average's starts
with less say, and keeps less.

Two heads share the inputs. One predicts the item of a member's next positive action (sampled
softmax), the other whether an action on a given item is positive or negative (logistic).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from models.evaluation.item_days import N_FEATURES, ItemDays
from models.evaluation.item_vectors import ItemVectors
from models.evaluation.ranker_weights import Batch, Ranker
from models.evaluation.task import RankerLabels, Task
from transformations.errors import InputError
from transformations.timestamps import DAY_US

Floats = NDArray[np.float32]


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
    epochs: int = 5
    learning_rate: float = 0.01


@dataclass(frozen=True, eq=False)
class RankerFeatures:
    """A variant's features for the labels of one period.

    Attributes:
        vectors: The members' vectors, float32 [labels, vectors, dim]. A variant with fewer than
            others is padded with zeros, so every variant's ranker has the same capacity.
        member_features: The other features of the members, float32 [labels, n].
        pairs: Another recommender's score of each item for each label, 0 or more, sparse float32
            [labels, items]; None for a variant without.
    """

    vectors: Floats
    member_features: Floats
    pairs: csr_array | None = None

    def pair_features(
        self, rows: NDArray[np.integer], items: NDArray[np.integer] | slice = slice(None)
    ) -> Floats:
        """Return what a pair's score says, float32 [rows, items, N_PAIR].

        log(1 + score), whether there is one, and its share of the highest of the label's.
        """
        if self.pairs is None:
            raise ValueError("expected features with scores of pairs")
        every = self.pairs[rows].toarray()
        highest = np.maximum(every.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        scores = every[:, items]
        columns = [np.log1p(scores), scores > 0, scores / highest]
        return np.stack(columns, axis=2).astype(np.float32)


def fit_ranker(
    task: Task,
    features: RankerFeatures,
    item_vectors: ItemVectors,
    settings: RankerSettings,
    seed: int,
) -> Ranker:
    """Fit a ranker to the labels of a task; the same seed gives the same ranker.

    Items that the member acted on before a label are never held against it.

    Raises:
        InputError: a label is on an item that was not known on its day.
    """
    labels, item_days = task.labels, task.item_days
    if not (item_days.available_at[labels.items] <= labels.days * DAY_US).all():
        raise InputError("expected labels on items known at their midnight, got others; drop them")
    rng = np.random.default_rng(seed)
    ranker = Ranker.new(
        mean_norms(features.vectors),
        _item_scale(labels, item_vectors),
        (features.vectors.shape[2], features.member_features.shape[1], N_FEATURES),
        seed,
    )
    batches = _batches(labels.days, settings.batch_size)
    adam, steps = _Adam(ranker.weights), settings.epochs * len(batches)
    for _ in range(settings.epochs):
        for rows in _shuffled(batches, labels.days, rng):
            day = int(labels.days[rows[0]])
            own = labels.items[rows]
            drawn, expected = _draw(item_days, day, settings.negatives, rng)
            both = np.concatenate([own, drawn])
            batch = Batch(
                vectors=features.vectors[rows],
                member_features=features.member_features[rows],
                positive=labels.positive[rows],
                items=item_vectors.at(day, both),
                item_features=item_days.features(day, both),
                log_draws=np.log(expected[both]),
                left_out=(drawn == own[:, None]) | task.seen[rows].toarray()[:, drawn],
                pairs=None if features.pairs is None else features.pair_features(rows, both),
            )
            # Cosine decay, as in Keras's schedule.
            rate = settings.learning_rate * (1 + np.cos(np.pi * adam.steps / steps)) / 2
            adam.step(ranker.gradient(batch, settings.l2), rate)
    return ranker


class _Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization", 2015, on one flat array."""

    def __init__(self, weights: Floats) -> None:
        self.weights, self.steps = weights, 0
        self._mean, self._square = np.zeros_like(weights), np.zeros_like(weights)

    def step(self, gradient: Floats, rate: float) -> None:
        self.steps += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient * gradient - self._square)
        size = rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        self.weights -= np.float32(size) * self._mean / (np.sqrt(self._square) + 1e-7)


def mean_norms(vectors: Floats) -> Floats:
    """Return each vector's mean norm over the rows that have one; 1 where none has.

    >>> mean_norms(np.array([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])).tolist()
    [5.0, 1.0]

    Args:
        vectors: Float [rows, vectors, dim].
    """
    norms = np.linalg.norm(vectors, axis=2)
    means = norms.sum(axis=0) / np.maximum((norms > 0).sum(axis=0), 1)
    return np.where(means > 0, means, 1.0)


def _item_scale(labels: RankerLabels, item_vectors: ItemVectors) -> float:
    """Return the mean norm of the vectors of the labels' items."""
    vectors = np.concatenate(
        [item_vectors.at(int(day), labels.items[labels.days == day]) for day in set(labels.days)]
    )
    return float(mean_norms(vectors[:, None])[0])


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
