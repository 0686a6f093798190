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
POSITIVE_FAST, POSITIVE_SLOW = 1.2, 0.15
"""Initial decay per later positive action of the fastest and the slowest of several decays."""
BESIDE_KIND, BESIDE_DAY, BESIDE_HOURS = 0.03, 0.002, 0.02
"""With ranks among positive actions: initial decay per later action of the same kind, per day, and
by log(1 + hours)."""
SPEED = 24.0
"""How much faster than other weights the scalars learn with those ranks: Adam's steps do not depend
on a gradient's scale, so a weight that counts 24 times moves its scalar 24 times as far. At 8, as
in IFDB's prototype, decays stayed where they began on a set without sessions (X-Wines), whose best
are ten times slower; at 24 they get there, and IFDB is as it was."""
OTHERS_SCALE = 0.2
"""Initial factor of an action that is not positive; a positive one has 1."""
HOURS_PER_DAY = 24.0
N_SIGNS = 2
"""The first of the further features: whether an action is positive, and whether negative."""


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

    With ranks="positive", rank_j counts the later positive actions, and the exponent has a fourth
    term, by the logarithm of hours. Several decays start at different rates of that rank. Without
    `projected`, the vector is the sum of all means.

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
        ranks: str = "action",
        projected: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.decays = decays
        self.share = share
        self.by_positives = ranks == "positive"
        # Their sign decides their rank, and is no factor beside it.
        self.gated = self.further - N_SIGNS * self.by_positives
        self.projection = ProjectedSum(self.dim, parts=decays) if projected else None
        self.hidden = hidden
        if hidden:
            self.inner = keras.layers.Dense(hidden, activation="relu")
            self.correction = keras.layers.Dense(self.dim, kernel_initializer="zeros")

    def build_for(self, item_dim: int) -> None:
        """Make the scalars [n_actions, decays] and the kernels."""
        groups = self.n_actions * self.decays
        named = ("scale", "by_kind", "by_rank", "by_day")
        for name in (*named, "by_hours") if self.by_positives else named:
            weight = self.add_weight(
                shape=(self.n_actions, self.decays), initializer="zeros", name=name
            )
            setattr(self, name, weight)
        if self.gated:
            self.gate = self.add_weight(
                shape=(self.n_actions, self.gated), initializer="zeros", name="gate"
            )
        if self.projection is not None:
            self.projection.build((None, groups, item_dim))
        if self.hidden:
            self.inner.build((None, groups * (item_dim + 1) + self.n_actions))
            self.correction.build((None, self.hidden))

    def rates(self) -> tuple[Any, ...]:
        """Return the decays per kind's rank, per rank and per day: [n_actions, decays], above 0.

        With ranks among positive actions, also by the logarithm of hours.
        """
        started: tuple[tuple[Any, Any], ...]
        if self.by_positives:
            by_rank = np.geomspace(POSITIVE_FAST, POSITIVE_SLOW, self.decays)
            started = (
                (SPEED * self.by_kind, BESIDE_KIND),
                (SPEED * self.by_rank, by_rank),
                (SPEED * self.by_day, BESIDE_DAY),
                (SPEED * self.by_hours, BESIDE_HOURS),
            )
        else:
            by_kind = BY_KIND if self.decays == 1 else np.geomspace(FAST, SLOW, self.decays)
            started = ((self.by_kind, by_kind), (self.by_rank, BY_RANK), (self.by_day, BY_DAY))
        return tuple(
            ops.softplus(change + np.log(np.expm1(start)).astype("float32"))
            for change, start in started
        )

    def positions(self, of_kind: Any, ages: Any, used: Any, counted: Any) -> tuple[Any, Any]:
        """Return each action's rank within each kind [batch, n_actions, length] and over all.

        Args:
            counted: Where a slot holds an action that makes older ones older.
        """
        if not self.use_sessions:
            return slots.ranks(of_kind), slots.ranks(counted)
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
        positive = None
        if self.by_positives:
            positive, further = further[:, :, 0], further[:, :, N_SIGNS:]
        within, rank = self.positions(of_kind, ages, used, used if positive is None else positive)
        days = slots.clean_ages(ages, used)
        grown = [within[:, :, None], rank[:, None, None], days[:, None, None]]
        if self.by_positives:
            grown.append(ops.log1p(HOURS_PER_DAY * days)[:, None, None])
        # [batch, n_actions, decays, length]
        exponent = -sum(rate[:, :, None] * of for rate, of in zip(self.rates(), grown, strict=True))
        of_kind = of_kind[:, :, None]
        exponent = ops.where(of_kind > 0, exponent, NO_SCORE)
        # Only ratios matter. With the largest weight 1, the sum cannot vanish at any age.
        axes = (1, 3) if self.share == "all" else (3,)
        largest = ops.max(exponent, axis=axes, keepdims=True)
        weights = of_kind * ops.exp(exponent - largest)
        change, start = self.scale[:, :, None], 1.0
        if positive is not None:
            change = SPEED * change
            start = ops.where(positive > 0, 1.0, OTHERS_SCALE)[:, None, None]
        # A kind's own sum takes out what is common to its weights: there the change comes after it.
        weights *= start + change if self.share == "all" else start
        total = ops.sum(ops.abs(weights), axis=axes, keepdims=True)
        weights /= ops.maximum(total, 1e-6)
        if self.gated:
            # After the sum, or a kind's only action would lose what they say.
            gates = 1.0 + ops.matmul(self.gate, ops.transpose(further, (0, 2, 1)))
            weights *= gates[:, :, None]
        means = self.means(weights, item_embeddings, used)
        if self.share == "action":
            means *= ops.reshape(1.0 + change, (-1, 1))
        vector = ops.sum(means, axis=1) if self.projection is None else self.projection(means)
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
