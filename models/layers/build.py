"""The aggregators' Keras layers: a member's sequence in, one or more vectors out.

A layer's arguments are `vectors` (field → dimension, in order), `n_actions` (codes 1 to n_actions
are actions, 0 is PAD) and the catalogue line's parameters. It is called with

    item_embeddings  float32 [batch, length, dim]
    actions          int32   [batch, length]
    ages             float32 [batch, length]      days before as_of

and returns each field's vector, float32 [batch, dimension]. Sequences are padded on the left: the
newest action is always last. The vector and age in a PAD slot must not matter.
"""

from importlib import import_module
from typing import Any

from models.backend import keras
from models.spec import Aggregator
from transformations.config import Config
from transformations.errors import InputError


def build(aggregator: Aggregator, config: Config) -> Any:
    """Return the Keras model of a catalogue line: the three inputs → {vector field: output}.

    Raises:
        InputError: the line's layer does not exist, or its outputs are not the fields and
            dimensions that the line declares to Feast.
    """
    vectors = aggregator.vectors(config)
    layer = layer_class(aggregator)(
        vectors=vectors, n_actions=len(config.actions), **aggregator.parameters()
    )
    inputs = {
        name: keras.Input(shape, dtype=dtype, name=name)
        for name, (dtype, shape) in input_shapes(config.length, config.dim).items()
    }
    outputs = layer(**inputs)
    got = {field: output.shape[-1] for field, output in outputs.items()}
    if got != vectors:
        raise InputError(
            f"{aggregator.name}: expected {aggregator.layer} to return {vectors}, got {got}"
        )
    return keras.Model(inputs, outputs, name=aggregator.name)


def layer_class(aggregator: Aggregator) -> Any:
    """Return the Keras class that a line names.

    Raises:
        InputError: there is none at that address.
    """
    module, _, name = str(aggregator.layer).partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{aggregator.name}: expected a Keras layer at {aggregator.layer!r}; {error}"
        ) from error


def input_shapes(length: int, dim: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the contract's inputs: name → (dtype, shape without the batch), in order."""
    return {
        "item_embeddings": ("float32", (length, dim)),
        "actions": ("int32", (length,)),
        "ages": ("float32", (length,)),
    }
