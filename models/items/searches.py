"""Vectors of searches that no daily run has encoded yet: made at once, or read from elsewhere."""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.items.protocol import Corpus, Document, FittedEncoder
from models.items.saved import saved
from models.sequences import ItemTable, Padded
from transformations.config import Config
from transformations.searches import Id, are_searches

KEPT = 100_000
"""Vectors in memory, at most about."""

Vector = NDArray[np.float32]


class SearchVectors:
    """Makes and keeps the vectors of searches, in one item space; threads may share it.

    Args:
        config: Its space is the one to encode in. Without a saved encoder, texts have no vector.
        read: Returns the vectors of those of these searches that have one elsewhere.
    """

    def __init__(self, config: Config, read: Callable[[Sequence[Id]], Mapping[Id, Vector]]) -> None:
        self.view = config.item_view
        self._has_texts = bool(config.rules.texts)
        self._encoder: FittedEncoder | None = saved(config) if self._has_texts else None
        self._read = read
        self._known: dict[Id, Vector] = {}

    def learn(self, texts: Mapping[Id, str]) -> dict[Id, Vector]:
        """Return the vectors [dim] of normalized texts, by their ids; none without a known word.

        It is the vector that a daily run makes of the same text with the same encoder.
        """
        known = {item: self._known[item] for item in texts if item in self._known}
        new = [item for item in texts if item not in known]
        if new and self._encoder is not None:
            vectors = self._encoder.encode(Corpus([Document(texts[item], []) for item in new]))
            found = {
                item: vector for item, vector in zip(new, vectors, strict=True) if vector.any()
            }
            self._keep(found)
            known |= found
        return known

    def over(
        self, items: ItemTable, item_ids: pa.Array, learned: Mapping[Id, Vector] | None = None
    ) -> ItemTable:
        """Return an item table that also has the searches among these ids.

        Args:
            items: What it has, it decides. Returned as it is where nothing is to be added.
            item_ids: Those to be looked up [ids].
            learned: What `learn` has just returned.
        """
        if not self._has_texts or not len(item_ids):
            return items
        some = item_ids.filter(are_searches(item_ids)).unique()
        if not len(some):
            return items
        wanted = [
            item
            for item, row in zip(some.to_pylist(), items.rows(some).tolist(), strict=True)
            if row == 0
        ]
        if not wanted:
            return items
        known = ChainMap(dict(learned or {}), self._known)
        found = {item: known[item] for item in wanted if item in known}
        missing = [item for item in wanted if item not in found]
        if missing:
            read = dict(self._read(missing))
            self._keep(read)
            found |= read
        return WithSearches(items, found, item_ids.type) if found else items

    def _keep(self, vectors: Mapping[Id, Vector]) -> None:
        if len(self._known) + len(vectors) > KEPT:
            self._known = {}
        self._known |= vectors


class WithSearches(ItemTable):
    """An item table and the vectors of some searches, whose rows follow those of the table."""

    def __init__(self, items: ItemTable, searches: Mapping[Id, Vector], kind: pa.DataType) -> None:
        more = np.stack(list(searches.values()))
        super().__init__(
            pa.array(list(searches), kind), np.concatenate([np.zeros_like(more[:1]), more])
        )
        self._items = items

    def rows(self, item_ids: pa.Array) -> NDArray[np.int32]:
        """Return the row of each item's vector, 0 if it has none; int32 [ids]."""
        rows, more = self._items.rows(item_ids), super().rows(item_ids)
        is_more = (rows == 0) & (more > 0)
        return np.where(is_more, more + len(self._items.vectors) - 1, rows).astype(np.int32)

    def gathered(self, padded: Padded) -> tuple[Padded, Vector]:
        """Return the same sequences over a small table of only the vectors that they read.

        Returns:
            The sequences, and the table, float32 [rows + 1, dim]; its row 0 is zeros.
        """
        flat = np.append(padded.rows.ravel(), np.int32(0))  # row 0 is always among them
        used, indices = np.unique(flat, return_inverse=True)
        count = len(self._items.vectors)
        vectors = np.zeros((len(used), self.vectors.shape[1]), np.float32)
        is_item = used < count
        vectors[is_item] = self._items.vectors[used[is_item]]
        vectors[~is_item] = self.vectors[used[~is_item] - count + 1]
        rows = indices[:-1].reshape(padded.rows.shape).astype(np.int32)
        return replace(padded, rows=rows), vectors
