"""Vectors of searches in the items' online view: a stream worker writes them, everyone reads them.

A search's id does not say its text. So whoever meets one in a member's sequence, and has not seen
the text, reads the vector that the worker wrote before it wrote the sequence.
"""

import threading
from collections.abc import Mapping, Sequence

from feast import FeatureStore

from models.items.searches import SearchVectors, Vector
from stores.read import Reader
from transformations.config import Config
from transformations.searches import Id


class OnlineItems:
    """Reads item vectors of one space; threads may share it. It opens at the first read.

    Raises:
        stores.read.ReadError: at a read, the store holds no such table.
    """

    def __init__(self, config: Config, store: FeatureStore) -> None:
        self._view, self._store = config.item_view, store
        self._reader: Reader | None = None
        self._opening = threading.Lock()

    def read(self, item_ids: Sequence[Id]) -> Mapping[Id, Vector]:
        """Return the vectors [dim] of those items that have one online."""
        with self._opening:
            if self._reader is None:
                self._reader = Reader(self._store, [f"{self._view}:embedding"])
        found = self._reader.read({"item_id": list(item_ids)})
        there = zip(item_ids, found["embedding"], found.present["embedding"], strict=True)
        return {item: vector for item, vector, is_there in there if is_there}


def search_vectors(config: Config, store: FeatureStore) -> SearchVectors:
    """Return the searches of the configuration's space, encoded here or read online."""
    return SearchVectors(config, OnlineItems(config, store).read)
