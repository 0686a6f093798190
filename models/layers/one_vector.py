"""What the learned layers have in common.

The contract is in models/layers/build.py; models/spec.py explains the settings. Inputs, outputs and
all sums over the sequence are float32, whatever the global dtype policy. Only inner dense,
convolution, recurrent and attention layers follow the policy (under mixed_float16 their range is
that of float16). Initial weights and dropout use Keras's global seed: call
`keras.utils.set_random_seed` before making the layer.
"""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers import slots

ops = keras.ops

NO_SCORE = -1e9
"""Exponent or score of what must weigh nothing: low enough for any softmax, and finite so that
gradients are."""


class OneVector(keras.layers.Layer):
    """Base of the learned layers: default vector of a member without actions, and normalization.

    A subclass makes its weights in `build_for`, which receives the item vectors' dimension, and
    returns [batch, dim] from `summarize`, finite even where no slot is used.
    """

    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,
        normalize: bool,
        learned_default: bool,
        use_sessions: bool,
        session_gap: float,
        further: int = 0,
    ) -> None:
        super().__init__(dtype="float32")
        ((self.field, self.dim),) = vectors.items()
        self.n_actions = n_actions
        self.normalize = normalize
        self.learned_default = learned_default
        self.use_sessions = use_sessions
        self.session_gap = session_gap
        self.further = further

    def build(
        self,
        item_embeddings_shape: Any,
        actions_shape: Any,  # noqa: ARG002
        ages_shape: Any,  # noqa: ARG002
        further_shape: Any = None,  # noqa: ARG002
    ) -> None:
        """Make the weights; shapes as in models/layers/build.py."""
        if self.learned_default:
            self.default = self.add_weight(shape=(self.dim,), initializer="zeros", name="default")
        self.build_for(item_embeddings_shape[-1])

    def build_for(self, item_dim: int) -> None:
        """Make the subclass's weights."""
        raise NotImplementedError

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return the members' vectors [batch, dim].

        Args:
            used: Where a slot is not PAD.
            further: Its further features, or None for a line that asks for none.
        """
        raise NotImplementedError

    def call(
        self, item_embeddings: Any, actions: Any, ages: Any, further: Any = None
    ) -> dict[str, Any]:
        """Return {field: [batch, dim]}; shapes as in models/layers/build.py."""
        used = slots.is_used(actions)
        vector = ops.cast(self.summarize(item_embeddings, actions, ages, used, further), "float32")
        if self.normalize:
            squares = ops.sum(ops.square(vector), axis=1, keepdims=True)
            vector *= ops.rsqrt(ops.maximum(squares, 1e-12))
        default = self.default if self.learned_default else ops.zeros((self.dim,))
        return {self.field: ops.where(ops.any(used, axis=1, keepdims=True), vector, default)}

    def of_kinds(self, actions: Any) -> Any:
        """Return 1.0 where a slot holds each action, float32 [batch, n_actions, length]."""
        codes = ops.arange(1, self.n_actions + 1, dtype="int32")
        return ops.cast(ops.equal(actions[:, None, :], codes[:, None]), "float32")


class ProjectedSum(keras.layers.Layer):
    """Sum of projections of [batch, groups, item_dim], one kernel per group: [batch, dim].

    Each kernel is identity / `parts` plus a learned change from zero. So a new one sums `parts`
    groups to their mean, and weight decay pulls it back to that.
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
