"""What a member's vectors take in each type of number, and the vectors as they come back."""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from transformations.errors import InputError

Dtype = Literal["float32", "float16", "int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
LARGEST = 127


def bytes_per_member(vectors: int, dim: int, dtype: Dtype) -> int:
    """Return the bytes of a member's vectors; int8's scales are the view's, not a member's.

    >>> [bytes_per_member(3, 64, dtype) for dtype in DTYPES]
    [768, 384, 192]
    """
    return vectors * dim * np.dtype(dtype).itemsize


@dataclass(frozen=True, eq=False)
class Quantization:
    """Vectors in a byte a dimension: q = clip(round((x - offset) / scale), -127, 127).

    Attributes:
        offset: float32 [dim], the middle of each dimension's range.
        scale: float32 [dim], one step. Inside the range the error is at most half of it.
    """

    offset: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, vectors: NDArray[np.floating], cut: float = 0.0) -> Self:
        """Take each dimension's range from vectors, float [n, dim]: those of the train period.

        Args:
            cut: Share of each dimension's values that may lie outside at either end: a few far
                ones would make the step coarse for all.

        Raises:
            InputError: there is no vector, or one is not finite.
        """
        if not len(vectors):
            raise InputError("expected vectors to take the range from, got none")
        _refuse_not_finite(vectors)
        ends = np.quantile(vectors, [cut, 1 - cut], axis=0, method="closest_observation")
        low, high = ends.astype(np.float64)
        step = (high - low) / (2 * LARGEST)
        # A dimension that is constant, or too narrow for float32 to hold its step, needs only its
        # offset.
        scale = np.where(step > np.finfo(np.float32).tiny, step, 1.0)
        return cls(((low + high) / 2).astype(np.float32), scale.astype(np.float32))

    def to_int8(self, vectors: NDArray[np.floating]) -> NDArray[np.int8]:
        """Return int8 [n, dim]; what lies outside the range goes to its nearest end.

        Raises:
            InputError: a number is not finite.
        """
        _refuse_not_finite(vectors)
        steps = np.round((vectors.astype(np.float64) - self.offset) / self.scale)
        return np.clip(steps, -LARGEST, LARGEST).astype(np.int8)

    def from_int8(self, quantized: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return float32 [n, dim]."""
        return quantized.astype(np.float32) * self.scale + self.offset

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest keeps."""
        return {"dtype": "int8", "offset": self.offset.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` returned.

        Raises:
            InputError: it is something else.
        """
        if document.get("dtype") != "int8" or not {"offset", "scale"} <= document.keys():
            raise InputError(
                f"expected dtype int8 with offset and scale, got {sorted(document)} of dtype "
                f"{document.get('dtype')!r}"
            )
        return cls(*(np.array(document[key], np.float32) for key in ("offset", "scale")))


def stored(
    vectors: NDArray[np.float32], dtype: Dtype, quantization: Quantization | None = None
) -> NDArray[np.float32]:
    """Return vectors as they come back from being stored in a type, float32 [n, dim].

    Args:
        vectors: float32 [n, dim].
        dtype: float32, float16 or int8.
        quantization: For int8 only, where it is needed.

    Raises:
        InputError: int8 without a quantization, or a number that float16 cannot hold.
    """
    if dtype == "int8":
        if quantization is None:
            raise InputError("expected a quantization for int8, got none; fit one first")
        return quantization.from_int8(quantization.to_int8(vectors))
    largest = np.finfo(dtype).max
    if np.abs(vectors).max(initial=0.0) > largest:
        raise InputError(
            f"expected numbers of at most {largest} for {dtype}, got "
            f"{np.abs(vectors).max()}; keep these vectors in float32"
        )
    return vectors.astype(dtype).astype(np.float32)


def _refuse_not_finite(vectors: NDArray[np.floating]) -> None:
    wrong = int((~np.isfinite(vectors)).any(axis=-1).sum())
    if wrong:
        raise InputError(
            f"expected finite vectors, got {wrong:,} of {len(vectors):,} with NaN or infinity"
        )
