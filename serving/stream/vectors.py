"""Computes the vectors of the streamed aggregators: models loaded once, one call for all."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import pyarrow as pa
from feast import FeatureStore

from models.backend import tf
from models.embed import Graph
from models.items.searches import Vector, WithSearches
from models.lines import by_space
from models.packaging import load
from models.sequences import ItemTable, pad
from models.spec import Aggregator
from models.view_files import view_rows, view_schema
from serving.searches import search_vectors
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import part_files
from transformations.searches import Id


class Vectors:
    """Models and item vectors of every space in memory, as of a timestamp.

    Args:
        store: Where vectors of searches are found that other workers encoded.
    """

    def __init__(
        self,
        config: Config,
        aggregators: Sequence[Aggregator],
        as_of: datetime,
        store: FeatureStore,
    ) -> None:
        self._config = config
        self._spaces = [
            (
                own,
                Graph([load(aggregator, own) for aggregator in of_space], own.rules),
                search_vectors(own, store),
            )
            for own, of_space in by_space(config, aggregators)
        ]
        self.refresh(as_of)

    def refresh(self, as_of: datetime) -> None:
        """Read the item vectors available at `as_of`, as the batch does."""
        self._parts = self._item_parts()
        with connect(self._config) as con:
            items = [ItemTable.read(own, con, as_of) for own, _, _ in self._spaces]
        self._items = [(table, tf.constant(table.vectors)) for table in items]

    def has_new_items(self) -> bool:
        """Whether there are other item parts than those that were read."""
        return self._item_parts() != self._parts

    def _item_parts(self) -> list[tuple[str, int, int]]:
        files = [file for own, _, _ in self._spaces for file in part_files(own.items_dir)]
        return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]

    def learn(self, texts: Mapping[Id, str]) -> list[tuple[str, dict[Id, Vector]]]:
        """Encode the normalized texts of searches, by their ids.

        Returns:
            Of each space, its items' view and the vectors [dim] of the texts that have one.
        """
        return [(searches.view, searches.learn(texts)) for _, _, searches in self._spaces]

    def rows(self, sequences: pa.RecordBatch, as_of: datetime) -> dict[str, pa.RecordBatch]:
        """Return each view's rows of member_embeddings for these rows of member_sequences."""
        created, rules = sequences["created_timestamp"][0].as_py(), self._config.rules
        rows: dict[str, pa.RecordBatch] = {}
        for (_, graph, searches), (items, table) in zip(self._spaces, self._items, strict=True):
            if not graph.models:
                continue
            known = searches.over(items, sequences["item_ids"].flatten())
            padded = pad(sequences, known, rules, as_of)
            if isinstance(known, WithSearches):
                padded, table = known.gathered(padded)
            results = graph.vectors(padded, table)
            for model, vectors in zip(graph.models, results, strict=True):
                schema = view_schema(model, sequences.schema, rules)
                rows[model.aggregator.view] = view_rows(sequences, model, vectors, created, schema)
        return rows
