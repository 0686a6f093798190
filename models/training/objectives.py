"""OBJECTIVES: what an aggregator's vector is trained to predict. Packaging drops the head.

A head takes the aggregator's vectors, stacked to [batch, fields, dim], and the label items'
vectors, and computes in float32. Any aggregator can be trained with any objective. All vectors of
an aggregator are trained at once: `next_action` concatenates their products with the item's vector,
`next_item` scores by their learned weighted sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, keras_rs, tf
from models.layers.one_vector import NO_SCORE
from models.training.popularity import RecentPopularity
from models.training.recipe import Recipe, compares_with_all

ops = keras.ops

AT = 10


class Labels(NamedTuple):
    """What a batch's windows should predict; every tensor is [batch].

    Attributes:
        rows: The label items' rows in the item table, int32.
        positive: Whether the member did a positive action on the item, bool.
        random: Whether the item was drawn at random, bool.
        weight: Weight of the example, float32.
        days: When it happened, in whole days since 1970.
    """

    rows: Any
    positive: Any
    random: Any
    weight: Any
    days: Any


class Outcome(NamedTuple):
    """A head's result for a batch; every tensor is float32 [batch].

    Attributes:
        loss: Each example's loss.
        weight: Each example's weight; 0 where the objective ignores it.
        score: Input of the head's metric.
    """

    loss: Any
    weight: Any
    score: Any


class NextAction(keras.layers.Layer):
    """Whether the next action is positive: the post's proxy task.

    Hadamard product of the aggregator's vector with the label item's vector, dense, softmax into
    negative and positive, cross-entropy with the label weights. LinkedIn, "Improving job matching
    with machine-learned activity features" (2022).

    >>> head = NextAction(Recipe(objective="next_action"), fields=1, popularity=np.zeros(3))
    >>> labels = Labels(*map(ops.array, ([1], [True], [False], [1.0], [0])))
    >>> outcome = head(ops.zeros((1, 1, 2)), labels, ops.ones((3, 2)), negatives=1, seed=None)
    >>> round(float(outcome.loss[0]), 4)  # untrained: ln 2
    0.6931
    """

    def __init__(
        self,
        recipe: Recipe,  # noqa: ARG002
        fields: int,  # noqa: ARG002
        popularity: NDArray[np.float32],  # noqa: ARG002
        recent: RecentPopularity | None = None,  # noqa: ARG002
        candidates: NDArray[np.int32] | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__(dtype="float32")
        self.dense = keras.layers.Dense(2, dtype="float32")
        self.metric = keras.metrics.AUC(name="auc")

    def call(
        self,
        vectors: Any,
        labels: Labels,
        table: Any,
        negatives: int,  # noqa: ARG002
        seed: Any,  # noqa: ARG002
        share: float | None = None,  # noqa: ARG002
    ) -> Outcome:
        """Return the cross-entropy of each example, and the probability of a positive action."""
        products = vectors * ops.take(table, labels.rows, axis=0)[:, None, :]
        flat = ops.reshape(products, (-1, products.shape[1] * products.shape[2]))
        logits = self.dense(flat)
        truth = ops.cast(labels.positive, "int32")
        loss = keras.losses.sparse_categorical_crossentropy(truth, logits, from_logits=True)
        return Outcome(loss, labels.weight, ops.softmax(logits)[:, 1])

    def measure(self, labels: Labels, outcome: Outcome) -> None:
        """Add a batch to the AUC of positive against negative."""
        self.metric.update_state(labels.positive, outcome.score, outcome.weight)


class NextItem(keras.layers.Layer):
    """Which item the next positive action is on: softmax over all items.

    It is exact where they are few (`compares_with_all`), else estimated from a sample. The score of
    an item is `vector · item / temperature + w log(popularity) + v log(popularity in the week
    before)`. The learned w and v explain what is popular with everybody, so the vector need not.

    The denominator of the softmax is estimated without bias (Bengio & Senécal, "Adaptive
    importance sampling", 2008; for retrieval Yi et al., "Sampling-bias-corrected neural modeling",
    2019): a drawn item counts 1/(expected number of its draws), so the log of that number is
    subtracted from its score. Only items of the predicted kinds are drawn. The rows of a batch
    share a sample of two parts of fixed size, one by popularity and one uniform. The expected
    number is over both parts (the balance heuristic of Veach & Guibas, 1995). The positive is in
    the sum already, so draws of it are removed.

    Dismissed labels enter with `dismissed_weight`: every positive of the batch should score above
    every dismissed one, each at its own window (Burges et al., "Learning to rank using gradient
    descent", 2005). Inside the softmax a dismissed item would be one among all, next to nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        fields: int,
        popularity: NDArray[np.float32],
        recent: RecentPopularity | None = None,
        candidates: NDArray[np.int32] | None = None,
    ) -> None:
        super().__init__(dtype="float32")
        self.temperature = recipe.temperature
        self.popular_share = recipe.popular_share
        self.dismissed_weight = recipe.dismissed_weight
        self.items = len(popularity) - 1
        # The items that may be predicted: rows of the item table.
        self.candidates = np.arange(1, self.items + 1) if candidates is None else candidates
        counts = popularity[1:].astype(np.float64)
        share = counts / counts.sum() if counts.any() else np.full(self.items, 1 / self.items)
        self.share = np.concatenate([[0.0], share]).astype(np.float32)
        self.cumulated = np.cumsum(share).astype(np.float32)
        smooth = (counts + 1.0) / (counts.sum() + self.items)
        self.log_popularity = np.concatenate([[0.0], np.log(smooth)]).astype(np.float32)
        self.recent = recent
        self.recent_logs = None if recent is None else tf.constant(recent.logs)
        first = "ones" if recent is None else "zeros"
        self.popularity_weight = self.add_weight((), initializer=first, name="popularity")
        self.recent_weight = (
            None if recent is None else self.add_weight((), initializer="ones", name="recent")
        )
        # A single vector learns its own scale, so a weight for it would add nothing.
        self.field_weights = (
            self.add_weight((fields,), initializer="ones", name="fields") if fields > 1 else None
        )
        self.correct = keras_rs.layers.SamplingProbabilityCorrection(epsilon=1e-12, dtype="float32")
        self.metric = keras.metrics.Mean(name=f"recall_at_{AT}")

    def compared(self, negatives: int, seed: Any, share: float | None = None) -> tuple[Any, Any]:
        """Return what `draw` does; where items are few, each that may be predicted, once."""
        if compares_with_all(len(self.candidates), negatives):
            rows = tf.constant(self.candidates, tf.int32)
            return rows, tf.ones(rows.shape)
        return self.draw(negatives, seed, share)

    def draw(self, negatives: int, seed: Any, share: float | None = None) -> tuple[Any, Any]:
        """Draw items by popularity and uniformly, with replacement.

        Args:
            seed: int32 [2]; equal seeds give equal draws.
            share: Drawn by popularity; default: the recipe's popular_share.

        Returns:
            Rows, int32 [negatives], and the expected number of draws of each of these items,
            float32 [negatives].
        """
        popular = round(negatives * (self.popular_share if share is None else share))
        quantiles = tf.random.stateless_uniform((popular,), seed)
        by_popularity = tf.searchsorted(tf.constant(self.cumulated), quantiles, side="right") + 1
        # By rounding, the shares may sum to less than 1.
        by_popularity = tf.minimum(by_popularity, self.items)
        count = len(self.candidates)
        places = tf.random.stateless_uniform((negatives - popular,), seed + 1, 0, count, tf.int32)
        uniform = tf.gather(tf.constant(self.candidates, tf.int32), places)
        rows = tf.concat([by_popularity, uniform], axis=0)
        expected = popular * tf.gather(self.share, rows) + (negatives - popular) / count
        return rows, expected

    def call(
        self,
        vectors: Any,
        labels: Labels,
        table: Any,
        negatives: int,
        seed: Any,
        share: float | None = None,
    ) -> Outcome:
        """Return the loss of each positive example, and whether its item ranks in the first 10.

        The rank is among the distinct items that are compared.
        """
        if self.field_weights is None:
            vector = vectors[:, 0]
        else:
            vector = ops.sum(vectors * self.field_weights[:, None], axis=1)
        vector /= self.temperature
        popularity = self.popularity_weight * self.log_popularity
        rows, expected = self.compared(negatives, seed, share)
        own = ops.sum(vector * ops.take(table, labels.rows, axis=0), axis=1)
        own += ops.take(popularity, labels.rows) + self._recent(labels.days, labels.rows)
        others = ops.matmul(vector, ops.transpose(ops.take(table, rows, axis=0)))
        others += ops.take(popularity, rows) + self._recent(labels.days[:, None], rows[None, :])
        # keras_rs.layers.RemoveAccidentalHits (0.4.0) adds a number near zero, so it removes
        # nothing; a test fails once it does.
        is_own = ops.equal(rows[None, :], labels.rows[:, None])
        others = ops.where(is_own, NO_SCORE, others)
        corrected = self.correct(others, expected / negatives) - np.log(negatives)
        together = ops.concatenate([own[:, None], corrected], axis=1)
        loss = ops.logsumexp(together, axis=1) - own
        weight = ops.where(labels.positive, labels.weight, 0.0)
        if self.dismissed_weight:
            loss += self.dismissed_weight * above_dismissed(own, labels)
        _, which, times = tf.unique_with_counts(rows)
        distinct = 1.0 / ops.cast(tf.gather(times, which), "float32")
        better = ops.sum(ops.where(others >= own[:, None], distinct, 0.0), axis=1)
        # By rounding, a sum of reciprocals may not be whole.
        better = ops.round(better)
        return Outcome(loss, weight, ops.cast(better < AT, "float32"))

    def _recent(self, days: Any, rows: Any) -> Any:
        """Return the weighted log popularity of items on days; the two broadcast."""
        if self.recent is None:
            return 0.0
        indices = self.recent.rows_of(days) * tf.shape(self.recent_logs)[1] + rows
        logs = tf.gather(tf.reshape(self.recent_logs, [-1]), indices)
        return ops.cast(self.recent_weight, "float32") * logs

    def measure(self, labels: Labels, outcome: Outcome) -> None:  # noqa: ARG002
        """Add a batch to the share of positives among the first 10."""
        self.metric.update_state(outcome.score, outcome.weight)


def above_dismissed(scores: Any, labels: Labels) -> Any:
    """Return each row's mean of log(1 + exp(dismissed - own)) over the batch's dismissed labels.

    >>> labels = Labels(
    ...     rows=ops.array([1, 2, 3]),
    ...     positive=ops.array([True, False, False]),
    ...     random=ops.array([False, False, True]),
    ...     weight=ops.ones(3),
    ...     days=ops.zeros(3),
    ... )
    >>> round(float(above_dismissed(ops.array([1.0, 1.0, 9.0]), labels)[0]), 4)  # ln 2
    0.6931
    """
    dismissed = ops.logical_not(ops.logical_or(labels.positive, labels.random))
    weights = ops.where(dismissed, labels.weight, 0.0)
    total = ops.maximum(ops.sum(weights), 1e-6)
    losses = ops.softplus(scores[None, :] - scores[:, None])
    return ops.sum(losses * weights[None, :], axis=1) / total


@dataclass(frozen=True)
class Objective:
    """One row of OBJECTIVES.

    Attributes:
        head: Layer (recipe, fields, popularity, recent, candidates) that returns a batch's Outcome.
        labels: What a window's labels are (`ExampleSettings.labels`).
        metric: Name of its metric; more is better.
        reads_random: Whether its examples include random negatives.
        settings: Settings of the recipe that only its head reads.
    """

    head: Any
    labels: Literal["next", "all"]
    metric: str
    reads_random: bool
    settings: tuple[str, ...] = ()


SOFTMAX = ("negatives", "popular_share", "dismissed_weight", "temperature")

# all_action: Pancha et al., "PinnerFormer: sequence modeling for user representation at
# Pinterest" (2022), whose dense all-action loss has this loss at every position of the window.
OBJECTIVES: Mapping[str, Objective] = {
    "next_action": Objective(NextAction, "next", "auc", reads_random=True),
    "next_item": Objective(
        NextItem, "next", f"recall_at_{AT}", reads_random=False, settings=SOFTMAX
    ),
    "all_action": Objective(
        NextItem, "all", f"recall_at_{AT}", reads_random=False, settings=SOFTMAX
    ),
}
