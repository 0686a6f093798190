"""The aggregators' Keras layers: a member's sequence in, one or more vectors out.

A layer is made with `vectors` (field → dimension, in order), `n_actions` (the codes 1 to n_actions
are actions, 0 is PAD) and the catalogue line's own parameters. It is called with

    item_embeddings  float32 [batch, length, dim]
    actions          int32   [batch, length]
    ages             float32 [batch, length]      days before as_of

and returns each field's vector, float32 [batch, dimension]. Sequences are padded on the left: the
newest action is always last. What stands in a PAD slot's vector and age must not matter.
"""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from models.backend import keras
from models.spec import Aggregator
from transformations.config import Config
from transformations.errors import InputError

ops = keras.ops


class Average(keras.layers.Layer):
    """Per action, the plain mean of its items' vectors; zeros where the member has none.

    >>> average = Average(vectors={"apply_embedding": 2, "save_embedding": 2}, n_actions=2)
    >>> items = ops.array([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    >>> vectors = average(items, ops.array([[0, 1, 1, 2]]), ops.zeros((1, 4)))
    >>> {field: vector.numpy().tolist() for field, vector in vectors.items()}
    {'apply_embedding': [[0.5, 0.5]], 'save_embedding': [[5.0, 5.0]]}
    """

    def __init__(self, vectors: Mapping[str, int], n_actions: int) -> None:
        super().__init__()
        self.fields = tuple(vectors)
        self.n_actions = n_actions

    def weigh(self, of_kind: Any) -> Any:
        """Return the weights of the actions of each kind, up to a factor; the newest weighs 1.

        Args:
            of_kind: 1.0 where the action is of that kind, float32 [batch, n_actions, length].
        """
        return of_kind

    def call(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return {field: [batch, dim]}, one per action; shapes as in the module's docstring."""
        codes = ops.arange(1, self.n_actions + 1, dtype="int32")
        of_kind = ops.cast(ops.equal(actions[:, None, :], codes[:, None]), "float32")
        weights = self.weigh(of_kind)
        # The newest weighs 1, so a sum below 1 is that of a kind the member has none of.
        weights /= ops.maximum(ops.sum(weights, axis=2, keepdims=True), 1.0)
        # A NaN in a PAD slot would survive its weight of zero. To mask all slots takes longer than
        # the mean itself, so that is left to batches that need it.
        used = ops.any(of_kind > 0, axis=1)[:, :, None]
        items = ops.cond(
            ops.isfinite(ops.sum(item_embeddings)),
            lambda: item_embeddings,
            lambda: ops.where(used, item_embeddings, 0.0),
        )
        means = ops.matmul(weights, items)
        return {field: means[:, code] for code, field in enumerate(self.fields)}


class GeometricDecay(Average):
    """Per action, weights proportional to r^(n-i), oldest first (i = 1…n), that sum to one.

    n counts the member's actions of that kind alone, so other actions in between do not age them.
    Formula: LinkedIn's "Improving job matching with machine-learned activity features" (2022).

    >>> decay = GeometricDecay(vectors={"apply_embedding": 1}, n_actions=1, decay=0.5)
    >>> items = ops.array([[[0.0], [7.0], [14.0]]])
    >>> decay(items, ops.ones((1, 3), dtype="int32"), ops.zeros((1, 3)))["apply_embedding"].numpy()
    array([[10.]], dtype=float32)
    """

    def __init__(
        self, vectors: Mapping[str, int], n_actions: int, decay: float | tuple[float, ...]
    ) -> None:
        super().__init__(vectors, n_actions)
        each = decay if isinstance(decay, tuple) else (decay,) * n_actions
        if len(each) != n_actions:
            raise InputError(
                f"decay: expected one number, or one for each of the {n_actions} actions of "
                f"activity.yaml, came {decay}"
            )
        self.logs = [[math.log(r)] for r in each]

    def weigh(self, of_kind: Any) -> Any:
        """Return r to the power of how many actions of the same kind follow."""
        later = ops.sum(of_kind, axis=2, keepdims=True) - ops.cumsum(of_kind, axis=2)
        return of_kind * ops.exp(ops.array(self.logs) * later)


def build(aggregator: Aggregator, config: Config) -> Any:
    """Return the Keras model of a catalogue line: the three inputs → {vector field: output}.

    Raises:
        InputError: the line names a layer that is not there, or one whose outputs are not the
            fields and dimensions that the line promises to Feast.
    """
    module, _, name = str(aggregator.layer).partition(":")
    try:
        layer_class = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{aggregator.name}: expected a Keras layer at {aggregator.layer!r}; {error}"
        ) from error
    vectors = aggregator.vectors(config)
    layer = layer_class(vectors=vectors, n_actions=len(config.actions), **aggregator.parameters())
    inputs = {
        name: keras.Input(shape, dtype=dtype, name=name)
        for name, (dtype, shape) in input_shapes(config.length, config.dim).items()
    }
    outputs = layer(**inputs)
    came = {field: output.shape[-1] for field, output in outputs.items()}
    if came != vectors:
        raise InputError(
            f"{aggregator.name}: expected {aggregator.layer} to return {vectors}, came {came}"
        )
    return keras.Model(inputs, outputs, name=aggregator.name)


def input_shapes(length: int, dim: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the contract's inputs: name → (dtype, shape without the batch), in order."""
    return {
        "item_embeddings": ("float32", (length, dim)),
        "actions": ("int32", (length,)),
        "ages": ("float32", (length,)),
    }
