"""The learned aggregators' Keras layers: a member's sequence in, one vector out.

The contract is that of models/aggregators.py; models/spec.py says what the settings mean. All are
float32 outside and at every sum over the sequence, whatever the global dtype policy: only inner
dense, convolution, recurrent and attention layers follow it. (Under mixed_float16 the range of the
inner layers is that of float16; mixed_bfloat16 has none of that.) Initial weights and dropout are
drawn from Keras's global seed: call `keras.utils.set_random_seed` before the layer is made.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import slots
from models.backend import keras

ops = keras.ops

FAST, SLOW = 0.9, 0.06
"""Decay a rank that the fastest and the slowest of several decays start with."""
BY_KIND, BY_RANK, BY_DAY = 0.223, 0.02, 0.03
"""Decay of a single one: by the actions of the same kind that follow (r = 0.8), by all that
follow, and by days."""
NEVER = -1e9
"""Exponent or score of what must weigh nothing; finite, so that gradients are."""


class OneVector(keras.layers.Layer):
    """Base of the layers below: the default vector of a member without actions, and the length.

    A subclass makes its weights in `build_for`, which is given the item vectors' dimension, and
    returns [batch, dim] from `summarize`; it must be finite where no slot is used, too.
    """

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        normalize: bool,
        learned_default: bool,
        use_sessions: bool,
        session_gap: float,
    ) -> None:
        super().__init__(dtype="float32")
        ((self.field, self.dim),) = vectors.items()
        self.n_actions = n_actions
        self.normalize = normalize
        self.learned_default = learned_default
        self.use_sessions = use_sessions
        self.session_gap = session_gap

    def build(self, item_embeddings_shape: Any, actions_shape: Any, ages_shape: Any) -> None:  # noqa: ARG002
        """Make the weights; shapes as in models/aggregators.py."""
        if self.learned_default:
            self.default = self.add_weight(shape=(self.dim,), initializer="zeros", name="default")
        self.build_for(item_embeddings_shape[-1])

    def build_for(self, item_dim: int) -> None:
        """Make the subclass's weights."""
        raise NotImplementedError

    def summarize(self, item_embeddings: Any, actions: Any, ages: Any, used: Any) -> Any:
        """Return the members' vectors [batch, dim]; used: where a slot is not PAD."""
        raise NotImplementedError

    def call(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:
        """Return {field: [batch, dim]}; shapes as in models/aggregators.py."""
        used = slots.is_used(actions)
        vector = ops.cast(self.summarize(item_embeddings, actions, ages, used), "float32")
        if self.normalize:
            squares = ops.sum(ops.square(vector), axis=1, keepdims=True)
            vector *= ops.rsqrt(ops.maximum(squares, 1e-12))
        default = self.default if self.learned_default else ops.zeros((self.dim,))
        return {self.field: ops.where(ops.any(used, axis=1, keepdims=True), vector, default)}

    def of_kinds(self, actions: Any) -> Any:
        """Return 1.0 where the action is of each kind, float32 [batch, n_actions, length]."""
        codes = ops.arange(1, self.n_actions + 1, dtype="int32")
        return ops.cast(ops.equal(actions[:, None, :], codes[:, None]), "float32")


class ProjectedSum(keras.layers.Layer):
    """Sum of the projections of [batch, groups, item_dim], a kernel per group: [batch, dim].

    Each kernel is the identity over `parts` plus what is learned, from zero: a new one sums `parts`
    groups to their mean, and weight decay draws it back to that.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__(dtype="float32")
        self.dim = dim
        self.parts = parts

    def build(self, input_shape: Any) -> None:
        """Make the kernels, [groups, item_dim, dim]."""
        _, groups, item_dim = input_shape
        self.change = self.add_weight(
            shape=(groups, item_dim, self.dim), initializer="zeros", name="change"
        )

    def call(self, means: Any) -> Any:
        """Return [batch, dim]."""
        groups, item_dim, _ = self.change.shape
        kernel = self.change + ops.eye(item_dim, self.dim) / self.parts
        flat = ops.reshape(means, (-1, groups * item_dim))
        return ops.matmul(flat, ops.reshape(kernel, (groups * item_dim, self.dim)))


class LearnedDecay(OneVector):
    """Per action a, Σ w_j x_j over its items x_j, projected by a learned kernel, and summed.

    w_j = s_a exp(-k_a kind_j - r_a rank_j - t_a age_j), over Σ |w| (of all actions, or of each
    action, when s_a scales the mean instead); kind_j and rank_j count the actions of the same kind
    and all actions that follow, or with use_sessions the sessions that hold one. k, r, t >= 0.
    All weights are changes from a start (s = 1, identity, r = 0.8 by kind, slow by rank and age)
    and begin at zero: a new one needs no seed, and weight decay draws it back to that start.

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
        self.projection.build((None, groups, item_dim))
        if self.hidden:
            self.inner.build((None, groups * (item_dim + 1) + self.n_actions))
            self.correction.build((None, self.hidden))

    def rates(self) -> tuple[Any, ...]:
        """Return the decays a kind's rank, a rank and a day: [n_actions, decays], above 0."""
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
        held = ops.cast(ops.matmul(of_kind, in_session) > 0, "float32")
        newer = ops.cumsum(held, axis=2) - held
        return ops.matmul(newer, ops.transpose(in_session, (0, 2, 1))), rank

    def summarize(self, item_embeddings: Any, actions: Any, ages: Any, used: Any) -> Any:
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
        exponent = ops.where(of_kind > 0, exponent, NEVER)
        # Only ratios count: with the largest weight 1, the sum cannot vanish at any age.
        axes = (1, 3) if self.share == "all" else (3,)
        largest = ops.max(exponent, axis=axes, keepdims=True)
        weights = of_kind * ops.exp(exponent - largest)
        scale = 1.0 + self.scale[:, :, None]
        if self.share == "all":
            weights *= scale
        total = ops.sum(ops.abs(weights), axis=axes, keepdims=True)
        weights /= ops.maximum(total, 1e-6)
        means = self.means(weights, item_embeddings, used)
        if self.share == "action":
            means *= ops.reshape(scale, (-1, 1))
        vector = self.projection(means)
        return vector + self.corrected(means, exponent, of_kind) if self.hidden else vector

    def corrected(self, means: Any, exponent: Any, of_kind: Any) -> Any:
        """Return what the hidden layer adds, [batch, dim]: the sums hide number and freshness."""
        groups = self.n_actions * self.decays
        known = [
            ops.reshape(means, (-1, groups * means.shape[2])),
            ops.reshape(ops.exp(ops.max(exponent, axis=3)), (-1, groups)),
            ops.log1p(ops.sum(of_kind[:, :, 0], axis=2)),
        ]
        return ops.cast(self.correction(self.inner(ops.concatenate(known, axis=1))), "float32")

    def means(self, weights: Any, items: Any, used: Any) -> Any:
        """Return the weighted sums [batch, n_actions * decays, item_dim]."""
        groups = self.n_actions * self.decays
        weights = ops.reshape(weights, (-1, groups, items.shape[1]))
        # As in models/aggregators.py: to mask all slots takes longer than the sums, so that only
        # batches with a NaN or an infinity somewhere are masked.
        items = ops.cond(
            ops.isfinite(ops.sum(items)),
            lambda: items,
            lambda: ops.where(used[:, :, None], items, 0.0),
        )
        means = ops.matmul(weights, items)
        return ops.clip(means, -slots.MAX_VALUE, slots.MAX_VALUE)


class Slotwise(OneVector):
    """Base of the layers that see each slot as [item vector ; action, PAD too ; ages ; session]."""

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        use_ages: bool,
        dropout: float,
        **common: Any,
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.use_ages = use_ages
        self.dropout = keras.layers.Dropout(dropout)

    def width(self, item_dim: int) -> int:
        """Return how many features a slot has."""
        times = slots.N_TIME_FEATURES if self.use_ages else 0
        return item_dim + self.n_actions + 1 + times + slots.N_SESSION_FEATURES * self.use_sessions

    def features(self, items: Any, actions: Any, ages: Any, used: Any) -> Any:
        """Return [batch, length, width]; a PAD slot has the PAD action and zeros otherwise."""
        parts = [slots.clean_items(items, used), ops.one_hot(actions, self.n_actions + 1)]
        if self.use_ages:
            parts.append(slots.time_features(ages, used))
        if self.use_sessions:
            parts.append(slots.session_features(ages, used, self.session_gap))
        return ops.concatenate(parts, axis=2)


class AttentionPool(Slotwise):
    """Per query and action, items weighed by a softmax over all actions, projected and summed.

    The score of a slot is q · tanh(K [features ; rank]): a learned query against a key.
    """

    def __init__(
        self, vectors: Mapping[str, int], n_actions: int, queries: int, units: int, **common: Any
    ) -> None:
        super().__init__(vectors, n_actions, **common)
        self.queries = queries
        self.keys = keras.layers.Dense(units, activation="tanh")
        self.scores = keras.layers.Dense(queries, use_bias=False)
        self.projection = ProjectedSum(self.dim, parts=queries)

    def build_for(self, item_dim: int) -> None:
        """Make the keys, the queries and a kernel per query and action."""
        self.keys.build((None, None, self.width(item_dim) + slots.N_RANK_FEATURES))
        self.scores.build((None, None, self.keys.units))
        self.projection.build((None, self.queries * self.n_actions, item_dim))

    def summarize(self, item_embeddings: Any, actions: Any, ages: Any, used: Any) -> Any:
        """Return [batch, dim]."""
        features = self.features(item_embeddings, actions, ages, used)
        known = self.dropout(ops.concatenate([features, slots.rank_features(used)], axis=2))
        scores = ops.cast(self.scores(self.keys(known)), "float32")
        shares = ops.softmax(ops.where(used[:, :, None], scores, NEVER), axis=1)
        shares = ops.transpose(shares, (0, 2, 1))[:, :, None] * self.of_kinds(actions)[:, None]
        length, item_dim = item_embeddings.shape[1:]
        shares = ops.reshape(shares, (-1, self.queries * self.n_actions, length))
        return self.projection(ops.matmul(shares, features[:, :, :item_dim]))
