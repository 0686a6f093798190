"""Arrow columns of the simulated market."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa

from pipelines.datasets.market import Bools, Floats, Ints


def timestamps(start: datetime, seconds: Floats) -> pa.Array:
    """Return UTC timestamps of seconds after the start; [n]."""
    microseconds = int(start.timestamp() * 1_000_000) + np.round(seconds * 1e6).astype(np.int64)
    return pa.array(microseconds, pa.timestamp("us", tz="UTC"))


def named(codes: Ints, names: Sequence[str], missing: Bools | None = None) -> pa.Array:
    """Return the names of codes, null where missing; strings [n].

    >>> named(np.array([1, 0]), ("feed", "mail"), np.array([False, True])).to_pylist()
    ['mail', None]
    """
    indices = pa.array(codes.astype(np.int8), mask=missing)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names)).dictionary_decode()
