"""The aggregators' Keras layers: a member's sequence in, one or more vectors out.

A layer's arguments are `vectors` (field → dimension, in order), `n_actions` (codes 1 to n_actions
are actions, 0 is PAD) and the catalogue line's parameters. It is called with

    item_embeddings  float32 [batch, length, dim]
    actions          int32   [batch, length]
    ages             float32 [batch, length]      days before as_of

and returns each field's vector, float32 [batch, dimension]. Sequences are padded on the left: the
newest action is always last. The vector and age in a PAD slot must not matter.

A line that `reads` some actions sees the others as PAD, and codes of its own. For one that asks for
signs or attributes (models/inputs.py), the layer has one more argument, `further`, the number of
their features, and is called with one more input (models/layers/further.py)

    further          float32 [batch, length, features]
"""

from importlib import import_module
from typing import Any

from models.backend import keras
from models.inputs import Inputs, asked_by
from models.layers.further import Further, OwnCodes, width
from models.spec import Aggregator
from transformations.config import Config
from transformations.errors import InputError


def build(aggregator: Aggregator, config: Config, fitted: Inputs | None = None) -> Any:
    """Return the Keras model of a catalogue line: its inputs → {vector field: output}.

    Args:
        fitted: What it reads beside items, actions and ages, with the statistics of its fit.
            Default: statistics of nothing. The model keeps it as `further`.

    Raises:
        InputError: the line's layer does not exist, or its outputs are not the fields and
            dimensions that the line declares to Feast; it asks for what is not configured.
    """
    further = asked_by(aggregator, config) if fitted is None else fitted
    vectors = aggregator.vectors(config)
    reads = aggregator.reads or tuple(config.actions)
    more = {"further": width(further)} if further else {}
    layer = layer_class(aggregator)(
        vectors=vectors, n_actions=len(reads), **aggregator.parameters(), **more
    )
    inputs = {
        name: keras.Input(shape, dtype=dtype, name=name)
        for name, (dtype, shape) in input_shapes(config.length, config.dim, further).items()
    }
    given = {name: inputs[name] for name in ("item_embeddings", "actions", "ages")}
    if aggregator.reads:
        codes = [config.rules.action_code(action) for action in reads]
        given["actions"] = OwnCodes(codes)(inputs["actions"])
    if further:
        own = {name: inputs[name] for name in further.shapes(config.length)}
        given["further"] = Further(further)(given["actions"], own)
    outputs = layer(**given)
    got = {field: output.shape[-1] for field, output in outputs.items()}
    if got != vectors:
        raise InputError(
            f"{aggregator.name}: expected {aggregator.layer} to return {vectors}, got {got}"
        )
    model = keras.Model(inputs, outputs, name=aggregator.name)
    model.further = further
    return model


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


def input_shapes(
    length: int, dim: int, further: Inputs | None = None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the contract's inputs: name → (dtype, shape without the batch), in order."""
    return {
        "item_embeddings": ("float32", (length, dim)),
        "actions": ("int32", (length,)),
        "ages": ("float32", (length,)),
        **(further or Inputs()).shapes(length),
    }
