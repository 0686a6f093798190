"""A member's vectors in smaller dtypes: their bytes, and the vectors after a round trip."""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from transformations.errors import InputError

Dtype = Literal["float32", "float16", "int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
LARGEST = 127


def bytes_per_member(vectors: int, dim: int, dtype: Dtype) -> int:
    """Return the bytes of a member's vectors; int8's scales are stored once per view.

    >>> [bytes_per_member(3, 64, dtype) for dtype in DTYPES]
    [768, 384, 192]
    """
    return vectors * dim * np.dtype(dtype).itemsize


@dataclass(frozen=True, eq=False)
class Quantization:
    """Vectors with one byte per dimension: q = clip(round((x - offset) / scale), -127, 127).

    Attributes:
        offset: float32 [dim], the middle of each dimension's range.
        scale: float32 [dim], one step. Inside the range the error is at most half a step.
    """

    offset: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, vectors: NDArray[np.floating], cut: float = 0.0) -> Self:
        """Take each dimension's range from the vectors of the train period, float [n, dim].

        Args:
            cut: Share of each dimension's values outside the range at either end: a few outliers
                would make the step coarse for all.

        Raises:
            InputError: there is no vector, or one is not finite.
        """
        if not len(vectors):
            raise InputError("expected vectors to take the range from, got none")
        _refuse_not_finite(vectors)
        ends = np.quantile(vectors, [cut, 1 - cut], axis=0, method="closest_observation")
        low, high = ends.astype(np.float64)
        step = (high - low) / (2 * LARGEST)
        # A constant dimension, or one too narrow for a float32 step, needs only its offset.
        scale = np.where(step > np.finfo(np.float32).tiny, step, 1.0)
        return cls(((low + high) / 2).astype(np.float32), scale.astype(np.float32))

    def to_int8(self, vectors: NDArray[np.floating]) -> NDArray[np.int8]:
        """Return int8 [n, dim]; values outside the range are clipped to it.

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
        """Return the JSON that a manifest keeps."""
        return {"dtype": "int8", "offset": self.offset.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """Read what `to_json` returned.

        Raises:
            InputError: dtype, offset or scale is missing or wrong.
        """
        if saved.get("dtype") != "int8" or not {"offset", "scale"} <= saved.keys():
            raise InputError(
                f"expected dtype int8 with offset and scale, got {sorted(saved)} of dtype "
                f"{saved.get('dtype')!r}"
            )
        return cls(*(np.array(saved[key], np.float32) for key in ("offset", "scale")))


def stored(
    vectors: NDArray[np.float32], dtype: Dtype, quantization: Quantization | None = None
) -> NDArray[np.float32]:
    """Return vectors after a round trip through a dtype, float32 [n, dim].

    Args:
        vectors: float32 [n, dim].
        dtype: float32, float16 or int8.
        quantization: Required for int8, otherwise unused.

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
