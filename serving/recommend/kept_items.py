"""Items' features, kept for some seconds: most candidates of a request are another's too."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.read import Features, Reader

KEPT = 60.0
"""Seconds for which an item's row is not read again. It changes with a run or a refresh."""
AT_ONCE = 500
"""Items that are renewed by one read."""
MOST = 200_000
"""Items that are kept; of more, the memory starts again."""


class KeptItems:
    """What a reader read of items; threads share it.

    Args:
        reader: Of features by item_id.
        clock: In seconds.
    """

    def __init__(
        self,
        reader: Reader,
        seconds: float = KEPT,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader, self._seconds, self._most, self._clock = reader, seconds, most, clock
        self._lock = threading.Lock()
        self._clear()

    def read(self, items: Sequence[Any]) -> Features:
        """Return the features of items, as `Reader.read` does; those that are kept are not read.

        Args:
            items: Distinct ids.
        """
        now = self._clock()
        with self._lock:
            if len(self._row) + len(items) > self._most:
                self._clear()
            known = self._row
            rows = np.array([known.get(item, -1) for item in items], np.int64)
            old = (rows < 0) | (self._at[rows] <= now - self._seconds)
        if old.any():
            wanted = [items[int(place)] for place in np.flatnonzero(old)]
            self._keep(wanted, self.reader.read({"item_id": wanted}), now)
        with self._lock:
            rows = np.array([self._row.get(item, -1) for item in items], np.int64)
            if (rows >= 0).all():
                return Features(
                    {name: values[rows] for name, values in self._arrays.items()},
                    {name: values[rows] for name, values in self._present.items()},
                    {view: values[rows] for view, values in self._timestamps.items()},
                )
        return self.reader.read({"item_id": list(items)})  # another thread started again

    def renew(self) -> None:
        """Read what is half as old as it may be, so that no request has to."""
        now = self._clock()
        with self._lock:
            old = [i for i, row in self._row.items() if self._at[row] <= now - self._seconds / 2]
        for start in range(0, len(old), AT_ONCE):
            some = old[start : start + AT_ONCE]
            self._keep(some, self.reader.read({"item_id": some}), now)

    def _clear(self) -> None:
        self._row: dict[Any, int] = {}
        self._at = np.full(1, -np.inf)
        self._arrays: dict[str, NDArray[Any]] = {}
        self._present: dict[str, NDArray[np.bool_]] = {}
        self._timestamps: dict[str, NDArray[np.datetime64]] = {}

    def _keep(self, items: Sequence[Any], read: Features, now: float) -> None:
        with self._lock:
            for item in items:
                self._row.setdefault(item, len(self._row))
            rows = np.array([self._row[item] for item in items], np.int64)
            size = max(len(self._row), 1)
            if size > len(self._at):
                size = max(2 * len(self._at), size, 1_024)
                self._at = _grown(self._at, size, -np.inf)
                for kept in (self._arrays, self._present, self._timestamps):
                    for name, values in kept.items():
                        kept[name] = _grown(values, size, 0)
            self._at[rows] = now
            for kept, new in (
                (self._arrays, read.arrays),
                (self._present, read.present),
                (self._timestamps, read.event_timestamps),
            ):
                for name, values in new.items():
                    if name not in kept:
                        kept[name] = np.zeros((len(self._at), *values.shape[1:]), values.dtype)
                    kept[name][rows] = values


def _grown(values: NDArray[Any], size: int, fill: float) -> NDArray[Any]:
    """Return the values with more rows."""
    grown = np.full((size, *values.shape[1:]), fill, values.dtype)
    grown[: len(values)] = values
    return grown
