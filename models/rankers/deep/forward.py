"""`WideAndDeep` in NumPy, for serving: as network.py, some hundred pairs in about a millisecond.

The wide part's weights, its factors and the network's first layer all multiply the same columns, so
they stand side by side in one matrix; what is said of a member is multiplied once. A test holds
both equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.rankers.additive import added
from models.rankers.inputs import Floats
from models.rankers.preprocessing import Encoded


@dataclass(frozen=True, eq=False)
class Forward:
    """Weights, laid out for one pass.

    Attributes:
        bias: float32 [heads], with the position's.
        first, first_table: Linear weights, factors and first layer, of the dense columns [width,
            heads + factors + units] and of the codes [codes, the same].
        squares, squares_table: The factors squared, [width, factors] and [codes, factors].
        factor_heads: float32 [factors, heads].
        layers: Kernel and bias of the layers after the first; before them, the first one's bias.
    """

    bias: Floats
    first: Floats
    first_table: Floats
    squares: Floats
    squares_table: Floats
    factor_heads: Floats
    layers: tuple[tuple[Floats, Floats], ...]

    @classmethod
    def of(
        cls,
        weights: Mapping[str, NDArray[np.float32]],
        width: int,
        offsets: Sequence[int],
        wide_columns: Sequence[int],
        wide_fields: Sequence[int],
        bias: Floats,
    ) -> "Forward":
        """Lay out the weights of a network.

        Args:
            weights: As `Network.arrays` returns them.
            bias: Added to each head's own.
        """
        factors, heads = weights["factor_heads"].shape
        codes = offsets[-1]
        # What the wide part does not read counts nothing in it.
        wide = np.zeros((width, heads + factors), np.float32)
        wide[list(wide_columns)] = np.hstack([weights["linear"], weights["factors"]])
        table = np.zeros((codes, heads + factors), np.float32)
        for field in wide_fields:
            rows = slice(offsets[field], offsets[field + 1])
            table[rows] = np.hstack([weights["linear_table"][rows], weights["factor_table"][rows]])
        first, first_table = [wide], [table]
        layers = []
        count = sum(name.startswith("kernel_") for name in weights)
        if count:
            kernel = weights["kernel_0"]
            first.append(kernel[:width])
            first_table.append(_looked_up(weights["embeddings"], kernel[width:], offsets))
            layers = [(weights[f"kernel_{i}"], weights[f"bias_{i}"]) for i in range(1, count)]
            layers.insert(0, (kernel[:0], weights["bias_0"]))
        return cls(
            bias=(weights["bias"] + bias).astype(np.float32),
            first=np.ascontiguousarray(np.hstack(first)),
            first_table=np.ascontiguousarray(np.hstack(first_table)),
            squares=np.square(wide[:, heads:]),
            squares_table=np.square(table[:, heads:]),
            factor_heads=weights["factor_heads"],
            layers=tuple(layers),
        )

    def logits(self, encoded: Encoded) -> Floats:
        """Return float32 [n, heads]."""
        factors, heads = self.factor_heads.shape
        made = added(encoded, self.first, self.first_table)
        sums = made[:, heads : heads + factors]
        squares = added(encoded, self.squares, self.squares_table, squared=True)
        logits = self.bias + made[:, :heads]
        logits += (0.5 * (np.square(sums) - squares)) @ self.factor_heads
        if self.layers:
            (_, bias), *later = self.layers
            x = made[:, heads + factors :] + bias
            for kernel, bias in later:
                x = np.maximum(x, 0.0) @ kernel + bias
            logits += x
        return logits


def _looked_up(embeddings: Floats, kernel: Floats, offsets: Sequence[int]) -> Floats:
    """Return what the first layer makes of each code's embedding, [codes, units]."""
    dim = embeddings.shape[1]
    made = [
        embeddings[start:end] @ kernel[field * dim : (field + 1) * dim]
        for field, (start, end) in enumerate(pairwise(offsets))
    ]
    return np.concatenate(made) if made else np.zeros((0, kernel.shape[1]), np.float32)
