"""How a member's vectors are kept: four bytes per number, or one and a scale per vector."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.manifest import Store
from transformations.errors import InputError
from transformations.quoting import identifier

Dtype = Literal["float32", "float16", "int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
LARGEST = 127
SCALE = np.dtype("<f4")
"""A vector kept as int8 begins with its scale: float32, little-endian."""
FIRST_SCALE = np.finfo(SCALE).tiny
LAST_SCALE = np.nextafter(np.float32(np.finfo(SCALE).max / LARGEST), np.float32(0))
"""The smallest scale, below which a vector is zeros; the largest, of which 127 are finite."""


def bytes_per_member(vectors: int, dim: int, dtype: Dtype) -> int:
    """Return the bytes of a member's vectors; of int8, each with its scale.

    >>> [bytes_per_member(3, 64, dtype) for dtype in DTYPES]
    [768, 384, 204]
    """
    return vectors * (dim * np.dtype(dtype).itemsize + SCALE.itemsize * (dtype == "int8"))


def to_int8(vectors: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return each vector as its scale and one int8 per dimension: uint8 [n, 4 + dim].

    The scale is the largest absolute value / 127, and a number is round(x / scale), half to even:
    the error is at most half a scale. This is symmetric quantization per vector, as of
    https://arxiv.org/abs/2004.09602 (3.1.2). Zeros have scale 0.

    Args:
        vectors: [n, dim].

    Raises:
        InputError: a number is not finite.

    >>> to_int8(np.array([[127.0, -63.5, 0.5, 1.5]], np.float32)).view(np.int8)[0, 4:].tolist()
    [127, -64, 0, 2]
    """
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0).astype(np.float64)
    wrong = int((~np.isfinite(largest)).sum())
    if wrong:
        raise InputError(
            f"expected finite vectors, got {wrong:,} of {len(vectors):,} with NaN or infinity"
        )
    scale = np.minimum(largest / LARGEST, LAST_SCALE).astype(SCALE)
    scale[scale < FIRST_SCALE] = 0.0
    steps = np.divide(vectors, np.where(scale > 0, scale, np.inf), dtype=np.float64)
    np.rint(steps, out=steps)
    np.clip(steps, -LARGEST, LARGEST, out=steps)
    return np.concatenate([scale.view(np.uint8), steps.astype(np.int8).view(np.uint8)], axis=-1)


def from_int8(kept: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the vectors that `to_int8` kept: float32 [n, dim]; each number times its scale.

    Args:
        kept: uint8 [n, 4 + dim].
    """
    kept = np.ascontiguousarray(kept)
    scale = np.ascontiguousarray(kept[:, : SCALE.itemsize]).view(SCALE)
    return kept[:, SCALE.itemsize :].view(np.int8).astype(np.float32) * scale


def stored(vectors: NDArray[np.float32], dtype: Dtype) -> NDArray[np.float32]:
    """Return vectors after a round trip through a dtype, float32 [n, dim].

    Args:
        vectors: float32 [n, dim].
        dtype: float32, float16 or int8.

    Raises:
        InputError: a number that float16 cannot hold, or for int8 one that is not finite.
    """
    if dtype == "float32":
        return vectors
    if dtype == "int8":
        return from_int8(to_int8(vectors))
    largest = np.finfo(dtype).max
    if np.abs(vectors).max(initial=0.0) > largest:
        raise InputError(
            f"expected numbers of at most {largest} for {dtype}, got "
            f"{np.abs(vectors).max()}; keep these vectors in float32"
        )
    return vectors.astype(dtype).astype(np.float32)


@dataclass(frozen=True)
class Column:
    """One way to keep vectors in a column of a table.

    Attributes:
        kind: The column's Arrow type.
        of: Vectors, float32 [n, dim] → the column.
        dim: SQL of a column's name → a row's dimension; 0 of null.
        finite: SQL of a column's name → whether all of a row's numbers are finite.
    """

    kind: pa.DataType
    of: Callable[[NDArray[np.float32]], pa.Array]
    dim: str
    finite: str


def _lists(vectors: NDArray[np.float32]) -> pa.Array:
    return pa.ListArray.from_arrays(_ends(*vectors.shape), pa.array(vectors.ravel()))


def _binary(vectors: NDArray[np.float32]) -> pa.Array:
    kept = to_int8(vectors)
    buffers = [None, _ends(*kept.shape).buffers()[1], pa.py_buffer(kept)]
    return pa.Array.from_buffers(pa.binary(), len(kept), buffers)


def _ends(rows: int, width: int) -> pa.Array:
    return pa.array(np.arange(rows + 1, dtype=np.int32) * width)


COLUMNS: dict[Store, Column] = {
    "float32": Column(
        pa.list_(pa.float32()),
        _lists,
        "coalesce(len({0}), 0)",
        "isfinite(list_sum({0}))",  # a sum is finite only if each term is
    ),
    "int8": Column(
        pa.binary(),
        _binary,
        f"coalesce(octet_length({{0}}) - {SCALE.itemsize}, 0)",
        # The scale is not finite where all eight bits of its exponent are set.
        "not regexp_matches(hex({0}), '^.{{4}}[89A-F].[7F]F')",
    ),
}
"""How a line says that its vectors are kept → the column that they are kept in."""


def of_vectors(fields: Iterable[str], store: Store) -> str:
    """Return two columns of SQL about a row's vectors: `dims` and `is_not_finite`."""
    named, column = [identifier(field) for field in fields], COLUMNS[store]
    dims = ", ".join(column.dim.format(name) for name in named)
    finite = ", ".join(column.finite.format(name) for name in named)
    return f"[{dims}] as dims, list_contains([{finite}], false) as is_not_finite"


def floats(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column of vectors as lists of float32, also where it keeps them as int8.

    >>> floats(COLUMNS["int8"].of(np.array([[0.0, 2.54]], np.float32))).to_pylist()
    [[0.0, 2.5399999618530273]]
    """
    if not pa.types.is_binary(column.type):
        return column
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([floats(chunk) for chunk in column.chunks], LISTS)
    known = column.drop_null()
    if not len(known):
        return pa.nulls(len(column), LISTS)
    kept = np.frombuffer(b"".join(known.to_pylist()), np.uint8).reshape(len(known), -1)
    vectors = _lists(from_int8(kept))
    if not column.null_count:
        return vectors
    index: NDArray[Any] = np.cumsum(column.is_valid().to_numpy(zero_copy_only=False)) - 1
    return vectors.take(pa.array(index, mask=column.is_null().to_numpy(zero_copy_only=False)))


LISTS = COLUMNS["float32"].kind
