"""The item vectors that a ranker multiplies with: those of one space, as of each midnight."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.item_versions import ItemVersions
from transformations.timestamps import DAY_US

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Each item's newest vector by a midnight; zeros for an item without one.

    Attributes:
        versions: Every version of every vector of the space.
        numbers: Of each item in `versions`, int32 [items]; 0 for one without any vector.
    """

    versions: ItemVersions
    numbers: NDArray[np.int32]
    _rows: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    _all: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, versions: ItemVersions, item_ids: pa.Array) -> "ItemVectors":
        """Return the vectors of these items, in their order."""
        return cls(versions, versions.numbers(item_ids))

    @classmethod
    def fixed(cls, vectors: Floats) -> "ItemVectors":
        """Return vectors that never change, float32 [items, dim]."""
        items = np.arange(len(vectors))
        table = np.concatenate([np.zeros_like(vectors[:1]), vectors])
        first = np.concatenate([[0], items + 1, [len(vectors) + 1]])
        since = np.full(len(vectors) + 1, np.iinfo(np.int64).min)
        return cls.of(ItemVersions("", pa.array(items), table, first, since), pa.array(items))

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.versions.vectors.shape[1])

    def at(self, day: int, items: NDArray[np.integer] | slice = slice(None)) -> Floats:
        """Return the vectors at the midnight at the start of `day`, float32 [items, dim].

        Args:
            items: Their indices; default: all.
        """
        if day not in self._rows:
            as_of = self.versions.at(np.array(day * DAY_US))
            self._rows[day] = as_of.rows_of(self.numbers)
        rows = self._rows[day]
        if not isinstance(items, slice):
            return self.versions.vectors[rows[items]]
        # Between two days that items are folded in on, all vectors stay.
        if not (self._all and np.array_equal(self._all[0], rows)):
            self._all[:] = rows, self.versions.vectors[rows]
        return self._all[1][items]
