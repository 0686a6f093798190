"""The weights of a packaged line, for a training that goes on from them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import tf
from models.inputs import Inputs
from models.packaging import load
from models.spec import Aggregator
from transformations.config import Config
from transformations.files import plain_path

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True, eq=False)
class Before:
    """What a training goes on from.

    Attributes:
        weights: Of the aggregator's variables, in their order.
        head: Of the objective's head: name → weights; what is not there begins from nothing.
        further: How its further inputs are read. Statistics and categories stay as they are: a
            category that is new is the unknown one until a full fit.
    """

    weights: Sequence[NDArray[Any]]
    head: Mapping[str, Any]
    further: Inputs

    def give(self, aggregator: Any, head: Any) -> None:
        """Write the weights into a Keras model and the layer of an objective."""
        for variable, weights in zip(aggregator.variables, self.weights, strict=True):
            if variable.trainable:
                variable.assign(weights)
        for variable in head.trainable_weights:
            if variable.name in self.head:
                variable.assign(np.asarray(self.head[variable.name], np.float32))

    def digest(self) -> str:
        """Return what tells it from another."""
        digest = hashlib.sha256(repr(sorted(self.head.items())).encode())
        for weights in self.weights:
            digest.update(np.ascontiguousarray(weights).tobytes())
        return digest.hexdigest()


def before_of(aggregator: Aggregator, config: Config) -> tuple[Before, datetime]:
    """Return the weights of a packaged learned line, and the time before which it saw all it saw.

    Args:
        config: In the space of that fit.

    Raises:
        InputError, RunFailedError: as `models.packaging.load`.
    """
    load(aggregator, config)
    manifest = aggregator.manifest(config)
    with plain_path(aggregator.artifact(config)) as path:
        checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        names = {n for n in checkpoint.get_variable_to_shape_map() if n.startswith("weights/")}
        count = sum(name.endswith(VALUE) for name in names)
        weights = [checkpoint.get_tensor(f"weights/{number}{VALUE}") for number in range(count)]
    before = Before(weights, manifest.get("head", {}), Inputs.of_manifest(manifest))
    return before, datetime.fromisoformat(manifest["trained_until"])
