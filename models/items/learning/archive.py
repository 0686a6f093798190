"""Encoders as bytes: NumPy archives without pickle, equal for equal encoders."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def packed(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """Return arrays and facts (JSON values) as one archive."""
    file = BytesIO()
    named: dict[str, Any] = {"facts": _bytes(json.dumps(dict(facts)).encode()), **arrays}
    np.savez_compressed(file, **named)
    return file.getvalue()


def unpacked(archive: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `packed` wrote."""
    with np.load(BytesIO(archive), allow_pickle=False) as read:
        arrays = {name: read[name] for name in read.files if name != "facts"}
        return arrays, json.loads(read["facts"].tobytes())


def nested(archive: bytes) -> NDArray[np.uint8]:
    """Return an archive as an array of another one; its `tobytes` gives it back."""
    return _bytes(archive)


def ids_array(ids: pa.Array) -> NDArray[Any]:
    """Return ids as an array: int64, or the bytes of a JSON list of strings."""
    if pa.types.is_integer(ids.type):
        return ids.to_numpy(zero_copy_only=False)
    return strings_array(ids.to_pylist())


def ids_of(array: NDArray[Any]) -> pa.Array:
    """Read what `ids_array` returned."""
    if array.dtype != np.uint8:
        return pa.array(array)
    return pa.array(strings_of(array), pa.string())


def strings_array(strings: Sequence[str]) -> NDArray[np.uint8]:
    """Return strings as the bytes of a JSON list."""
    return _bytes(json.dumps(list(strings)).encode())


def strings_of(array: NDArray[np.uint8]) -> list[str]:
    """Read what `strings_array` returned."""
    strings: list[str] = json.loads(array.tobytes())
    return strings


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
