"""The catalogue's aggregators in this process, compiled for fixed sizes, in one call."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import tf
from models.packaging import Loaded, load, specs
from models.quantization import stored
from models.sequences import Padded
from models.spec import Aggregator
from transformations.config import Config

# Numbers of members per call: a request is padded to the next of these sizes. Each size has one
# graph, built before the first request.
SIZES = (1, 8, 64)

Vectors = dict[str, dict[str, NDArray[np.float32]]]


class CompiledModels:
    """Several aggregators as one graph per size in SIZES; threads may share it.

    Attributes:
        loaded: The aggregators, in the catalogue's order.
        weights: View → weights_sha256 of its loaded package.
    """

    def __init__(self, config: Config, aggregators: Iterable[Aggregator]) -> None:
        self.loaded: list[Loaded] = []
        self.weights = {}
        for aggregator in aggregators:
            # Read first: if it is packaged again meanwhile, the next refresh sees a difference.
            self.weights[aggregator.view] = weights_of(config, aggregator)
            self.loaded.append(load(aggregator, config))
        self.traces = 0
        self._calls = {size: self._compiled(config, size) for size in SIZES}

    def _compiled(self, config: Config, size: int) -> Callable[..., Any]:
        @tf.function(autograph=False)
        def embed(
            item_embeddings: Any, actions: Any, ages: Any, further: list[dict[str, Any]]
        ) -> Any:
            self.traces += 1
            inputs = {"item_embeddings": item_embeddings, "actions": actions, "ages": ages}
            # One output, because fetching one costs as much as the arithmetic of a small model.
            results = [
                model.embed(**inputs, **own)
                for model, own in zip(self.loaded, further, strict=True)
            ]
            return tf.concat(
                [
                    outputs[field]
                    for model, outputs in zip(self.loaded, results, strict=True)
                    for field in model.vectors
                ],
                axis=1,
            )

        shape = (size, config.length)
        inputs = (
            tf.TensorSpec((*shape, config.dim), "float32"),
            tf.TensorSpec(shape, "int32"),
            tf.TensorSpec(shape, "float32"),
            [specs(model.further.shapes(config.length), size) for model in self.loaded],
        )
        compiled = embed.get_concrete_function(*inputs)
        # The first call is the slowest: make it now.
        compiled(*tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), inputs))
        return compiled

    def embed(self, vectors: NDArray[np.float32], padded: Padded) -> Vectors:
        """Return view → field → vectors [members, dim] of any number of padded sequences.

        They are what the views give: after a round trip through what the line keeps.

        Args:
            vectors: The item table, float32 [rows, dim]; gathered once for all models.
        """
        members = len(padded.rows)
        further = [model.further.arrays(padded) for model in self.loaded]
        pieces = [
            self._call(vectors, padded, further, slice(start, start + SIZES[-1]))
            for start in range(0, members, SIZES[-1])
        ]
        together = np.concatenate(pieces) if len(pieces) != 1 else pieces[0]
        named: Vectors = {}
        start = 0
        for model in self.loaded:
            fields = named[model.aggregator.view] = {}
            for field, dim in model.vectors.items():
                fields[field] = stored(together[:, start : start + dim], model.store)
                start += dim
        return named

    def _call(
        self,
        vectors: NDArray[np.float32],
        padded: Padded,
        further: list[dict[str, NDArray[Any]]],
        piece: slice,
    ) -> NDArray[np.float32]:
        rows, actions, ages = padded.rows[piece], padded.actions[piece], padded.ages[piece]
        members = len(rows)
        size = next(size for size in SIZES if size >= members)
        # The fill is PAD: action 0, and row 0 of the item table.
        fill = ((0, size - members), (0, 0))
        inputs = (
            tf.constant(values)
            for values in (vectors[np.pad(rows, fill)], np.pad(actions, fill), np.pad(ages, fill))
        )
        more = [
            {name: tf.constant(np.pad(values[piece], fill)) for name, values in own.items()}
            for own in further
        ]
        result: NDArray[np.float32] = self._calls[size](*inputs, more).numpy()
        return result[:members]


def packaged_of(config: Config, lines: Sequence[Aggregator]) -> list[Aggregator]:
    """Return the lines whose aggregator is packaged."""
    return [line for line in lines if line.is_packaged(config)]


def weights_of(config: Config, aggregator: Aggregator) -> str:
    """Return the weights_sha256 of a package, which identifies its numbers."""
    return str(aggregator.manifest(config)["weights_sha256"])
