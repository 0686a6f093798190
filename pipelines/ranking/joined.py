"""Features as they could be read at a time: Feast's training join, as arrays."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from serving.publish.feast_store import quiet


@dataclass(frozen=True, eq=False)
class Joined:
    """As `stores.read.Features`: row i belongs to the i-th row that was asked for."""

    arrays: dict[str, NDArray[Any]]
    present: dict[str, NDArray[np.bool_]]


def join(
    store: FeatureStore,
    features: Sequence[str],
    keys: Mapping[str, NDArray[Any]],
    timestamps: pd.DatetimeIndex,
    dims: Mapping[str, int],
) -> Joined:
    """Return features as of timestamps; only what could be read by then.

    Args:
        features: As "view:feature".
        keys: The join keys [rows] each.
        timestamps: [rows].
        dims: Result name of a vector → its dimension; other lists stay lists.
    """
    if not features:
        return Joined({}, {})
    frame = pd.DataFrame({**keys, "event_timestamp": timestamps, "row": np.arange(len(timestamps))})
    job: Any = store.get_historical_features(
        entity_df=frame,
        features=list(features),
        full_feature_names=True,
        filter_by_created_timestamp=True,
    )
    with quiet(), _silent("stores.asof.coverage"):  # who had not acted has no row: no news
        table = job.to_arrow().sort_by("row")
    names = [feature.replace(":", "__", 1) for feature in features]
    found = {name: column_of(table[name], dims.get(name)) for name in names}
    return Joined({n: v for n, (v, _) in found.items()}, {n: p for n, (_, p) in found.items()})


def column_of(
    column: pa.ChunkedArray | pa.Array, dim: int | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return values and which are there, as `stores.read.Features` has them."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # of no row
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    present = np.asarray(array.is_valid())
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = _plain(array.flatten())
        if dim is not None:
            vectors = np.zeros((len(array), dim), np.float32)
            vectors[present] = flat.reshape(-1, dim)
            return vectors, present
        lengths = np.asarray(array.value_lengths().fill_null(0))
        rows = np.empty(len(array), object)
        for row, part in enumerate(np.split(flat, np.cumsum(lengths)[:-1]) if len(array) else ()):
            rows[row] = part
        return rows, present
    return _plain(array), present


def _plain(array: pa.Array) -> NDArray[Any]:
    """Return values; 0, NaT or None where null."""
    if pa.types.is_timestamp(array.type):
        values: NDArray[Any] = array.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
        return values
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        array = array.fill_null(0)
    return array.to_numpy(zero_copy_only=False)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a logger's warnings back inside the block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
