"""Every version of every item's vector, looked up as of one timestamp or of many."""

import copy
from datetime import datetime
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.sequences import ItemTable, read_items, take_vectors
from transformations.config import Config
from transformations.timestamps import microseconds

ALWAYS = np.iinfo(np.int64).min  # since when PAD is available
NEWEST = np.iinfo(np.int64).max


class ItemVersions(ItemTable):
    """All versions of all items; it looks items up as of one timestamp, at first the end of time.

    Attributes:
        key: Names the item parts that it was made from; empty in memory.
        vectors: float32 [versions + 1, dim], mapped from a file or in memory. Row 0 holds zeros and
            stands for PAD and for items without a vector at that timestamp.
    """

    def __init__(
        self,
        key: str,
        ids: pa.Array,
        vectors: NDArray[np.float32],
        first: NDArray[np.int64],
        available_at: NDArray[np.int64],
    ) -> None:
        super().__init__(ids, vectors)
        self.key = key
        self._first = first
        self._available_at = available_at
        self._as_of: int | NDArray[np.int64] = NEWEST
        # How often the search among the versions of one item may have to halve.
        self._halvings = int(np.diff(first).max()).bit_length()
        # Arrow's look-up of text rebuilds its hash table each time: nothing beside a snapshot, but
        # 5 ms per request with 100,000 items.
        self._numbers = (
            None
            if pa.types.is_integer(ids.type)
            else {item: number for number, item in enumerate(ids.to_pylist(), start=1)}
        )
        self.rows(ids[:1])  # pandas makes its hash table at the first look-up: before threads come

    @classmethod
    def read_between(
        cls,
        config: Config,
        con: duckdb.DuckDBPyConnection,
        first_as_of: datetime,
        last_as_of: datetime,
    ) -> "ItemVersions":
        """Read into memory the versions that some as_of from the first to the last may look up.

        Raises:
            InputError: there is no item vector at all, or one is not of the configured dimension.
        """
        read_items(config, con, last_as_of, "versions_between", first_as_of)
        columns, vectors = take_vectors(config, con, "versions_between")
        ids, first = first_rows(columns["item_id"].combine_chunks())
        available_at = np.concatenate([[ALWAYS], columns["available_at"].to_numpy()])
        return cls("", ids, vectors, first, available_at)

    def at(self, as_of: datetime | NDArray[np.int64]) -> Self:
        """Return the table as of a timestamp: an item's vector is the newest one available by then.

        Args:
            as_of: One timestamp for all, or one per id looked up (microseconds since 1970).
        """
        table = copy.copy(self)
        table._as_of = microseconds(as_of) if isinstance(as_of, datetime) else as_of
        return table

    def rows(self, item_ids: pa.Array) -> NDArray[np.int32]:
        """Return the row of each item's vector as of the timestamp, 0 without one; int32 [ids]."""
        return self.rows_of(self.numbers(item_ids))

    def rows_of(self, items: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return `rows` of items by their number; int32 [items]."""
        first = self._first[items]
        # `low` is the last version known to be available, or the row before the item's first one.
        low, high = first - 1, self._first[items + 1] - 1
        for _ in range(self._halvings):
            middle = (low + high + 1) // 2
            available = self._available_at[middle] <= self._as_of
            low = np.where(available, np.maximum(middle, low), low)
            high = np.where(available, high, np.maximum(middle - 1, low))
        return np.where(low < first, 0, low).astype(np.int32)

    def numbers(self, item_ids: pa.Array) -> NDArray[np.int32]:
        """Return each item's number, from 1 on; 0 for one that the table does not hold."""
        if self._numbers is None or len(item_ids) > len(self.ids):
            return super().rows(item_ids)
        found = [self._numbers.get(item, 0) for item in item_ids.to_pylist()]
        return np.array(found, np.int32)


def first_rows(item_ids: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return each item once, and the row of its oldest version.

    Args:
        item_ids: That of each version, an item's together [versions].

    Returns:
        item_id [items]; int64 [items + 2], where item 0 is PAD and the last is the table's end.
    """
    runs = pc.run_end_encode(item_ids, run_end_type=pa.int64())
    return runs.values, np.concatenate([[0, 1], runs.run_ends.to_numpy() + 1])
