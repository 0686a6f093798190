"""What the learned layers have in common.

The contract is that of models/layers/build.py; models/spec.py says what the settings mean. All are
float32 outside and at every sum over the sequence, whatever the global dtype policy: only inner
dense, convolution, recurrent and attention layers follow it. (Under mixed_float16 the range of the
inner layers is that of float16; mixed_bfloat16 has none of that.) Initial weights and dropout are
drawn from Keras's global seed: call `keras.utils.set_random_seed` before the layer is made.
"""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.layers import slots

ops = keras.ops

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
        """Make the weights; shapes as in models/layers/build.py."""
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
        """Return {field: [batch, dim]}; shapes as in models/layers/build.py."""
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
