"""A decayed mean per action whose decay, weight and projection are learned."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.backend import keras
from models.layers import slots
from models.layers.one_vector import NO_SCORE, OneVector, ProjectedSum

ops = keras.ops

FAST, SLOW = 0.9, 0.06
"""Initial decay per rank of the fastest and the slowest of several decays."""
BY_KIND, BY_RANK, BY_DAY = 0.223, 0.02, 0.03
"""Initial decay of a single one: per later action of the same kind (r = 0.8), per later action, and
per day."""


class LearnedDecay(OneVector):
    """Per action a, Σ w_j x_j over its items x_j, projected by a learned kernel, and summed.

    w_j = s_a exp(-k_a kind_j - r_a rank_j - t_a age_j) / Σ |w|. With share="all" the sum is over
    all actions; with "action" it is over each action's own, and s_a scales its mean. kind_j and
    rank_j count the later actions of the same kind and of all kinds; with use_sessions, the later
    sessions that hold one. k, r, t >= 0. All weights are offsets from a start (s = 1, identity,
    r = 0.8 by kind, slow by rank and age) and begin at zero. With signs or attributes, w_j also has
    the factor 1 + g_a f_j, g_a learned from zero and f_j the slot's features: so a long look counts
    more than a short one, and a bad one against. So a new layer needs no seed, and
    weight decay pulls it back to that start.

    >>> from models.spec import LearnedDecay as Line
    >>> settings = Line(version=1, share="all").parameters()
    >>> decay = LearnedDecay({"activity_embedding": 1}, n_actions=2, **settings)
    >>> items = ops.array([[[4.0], [4.0], [4.0]]])
    >>> decay(items, ops.array([[0, 1, 2]]), ops.zeros((1, 3)))["activity_embedding"].numpy()
    array([[4.]], dtype=float32)
    """

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        decays: int,
        share: str,
        hidden: int,
        **common: Any,
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.decays = decays
        self.share = share
        self.projection = ProjectedSum(self.dim, parts=decays)
        self.hidden = hidden
        if hidden:
            self.inner = keras.layers.Dense(hidden, activation="relu")
            self.correction = keras.layers.Dense(self.dim, kernel_initializer="zeros")

    def build_for(self, item_dim: int) -> None:
        """Make the scalars [n_actions, decays] and the kernels."""
        groups = self.n_actions * self.decays
        for name in ("scale", "by_kind", "by_rank", "by_day"):
            weight = self.add_weight(
                shape=(self.n_actions, self.decays), initializer="zeros", name=name
            )
            setattr(self, name, weight)
        if self.further:
            self.gate = self.add_weight(
                shape=(self.n_actions, self.further), initializer="zeros", name="gate"
            )
        self.projection.build((None, groups, item_dim))
        if self.hidden:
            self.inner.build((None, groups * (item_dim + 1) + self.n_actions))
            self.correction.build((None, self.hidden))

    def rates(self) -> tuple[Any, ...]:
        """Return the decays per kind's rank, per rank and per day: [n_actions, decays], above 0."""
        by_kind = BY_KIND if self.decays == 1 else np.geomspace(FAST, SLOW, self.decays)
        started = ((self.by_kind, by_kind), (self.by_rank, BY_RANK), (self.by_day, BY_DAY))
        return tuple(
            ops.softplus(change + np.log(np.expm1(start)).astype("float32"))
            for change, start in started
        )

    def positions(self, of_kind: Any, ages: Any, used: Any) -> tuple[Any, Any]:
        """Return each action's rank within each kind [batch, n_actions, length] and over all."""
        if not self.use_sessions:
            return slots.ranks(of_kind), slots.ranks(used)
        rank = slots.sessions(ages, used, self.session_gap)
        in_session = ops.one_hot(ops.cast(rank, "int32"), slots.MAX_SESSION + 1)
        has_kind = ops.cast(ops.matmul(of_kind, in_session) > 0, "float32")
        newer = ops.cumsum(has_kind, axis=2) - has_kind
        return ops.matmul(newer, ops.transpose(in_session, (0, 2, 1))), rank

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return [batch, dim]."""
        of_kind = self.of_kinds(actions)
        within, rank = self.positions(of_kind, ages, used)
        days = slots.clean_ages(ages, used)
        by_kind, by_rank, by_day = (rate[:, :, None] for rate in self.rates())
        # [batch, n_actions, decays, length]
        exponent = -(
            by_kind * within[:, :, None]
            + by_rank * rank[:, None, None]
            + by_day * days[:, None, None]
        )
        of_kind = of_kind[:, :, None]
        exponent = ops.where(of_kind > 0, exponent, NO_SCORE)
        # Only ratios matter. With the largest weight 1, the sum cannot vanish at any age.
        axes = (1, 3) if self.share == "all" else (3,)
        largest = ops.max(exponent, axis=axes, keepdims=True)
        weights = of_kind * ops.exp(exponent - largest)
        scale = 1.0 + self.scale[:, :, None]
        if self.share == "all":
            weights *= scale
        total = ops.sum(ops.abs(weights), axis=axes, keepdims=True)
        weights /= ops.maximum(total, 1e-6)
        if further is not None:
            # After the sum, or a kind's only action would lose what they say.
            gates = 1.0 + ops.matmul(self.gate, ops.transpose(further, (0, 2, 1)))
            weights *= gates[:, :, None]
        means = self.means(weights, item_embeddings, used)
        if self.share == "action":
            means *= ops.reshape(scale, (-1, 1))
        vector = self.projection(means)
        return vector + self.corrected(means, exponent, of_kind) if self.hidden else vector

    def corrected(self, means: Any, exponent: Any, of_kind: Any) -> Any:
        """Return what the hidden layer adds, [batch, dim]: the means hide count and freshness."""
        groups = self.n_actions * self.decays
        features = [
            ops.reshape(means, (-1, groups * means.shape[2])),
            ops.reshape(ops.exp(ops.max(exponent, axis=3)), (-1, groups)),
            ops.log1p(ops.sum(of_kind[:, :, 0], axis=2)),
        ]
        return ops.cast(self.correction(self.inner(ops.concatenate(features, axis=1))), "float32")

    def means(self, weights: Any, items: Any, used: Any) -> Any:
        """Return the weighted sums [batch, n_actions * decays, item_dim]."""
        groups = self.n_actions * self.decays
        weights = ops.reshape(weights, (-1, groups, items.shape[1]))
        # As in Average: masking takes longer than the sums, so only batches with a NaN or an
        # infinity are masked.
        items = ops.cond(
            ops.isfinite(ops.sum(items)),
            lambda: items,
            lambda: ops.where(used[:, :, None], items, 0.0),
        )
        means = ops.matmul(weights, items)
        return ops.clip(means, -slots.MAX_VALUE, slots.MAX_VALUE)
