"""Computes the vectors of the streamed aggregators: models loaded once, one call for all."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from models.embed import together, view_rows, view_schema
from models.packaging import load
from models.sequences import ItemTable, pad
from models.spec import Aggregator
from transformations.config import Config
from transformations.duck import connect


class Vectors:
    """Models and item vectors in memory, as of a timestamp."""

    def __init__(self, config: Config, aggregators: Sequence[Aggregator], as_of: datetime) -> None:
        self._config = config
        self._models = [load(aggregator, config) for aggregator in aggregators]
        self.refresh(as_of)

    def refresh(self, as_of: datetime) -> None:
        """Read the item vectors available at `as_of`, as the batch does."""
        with connect(self._config) as con:
            self._items = ItemTable.read(self._config, con, as_of)
        self._run = together(self._models, self._items, self._config.rules)

    def rows(self, sequences: pa.RecordBatch, as_of: datetime) -> dict[str, pa.RecordBatch]:
        """Return each view's rows of member_embeddings for these rows of member_sequences."""
        if not self._models:
            return {}
        results = self._run(pad(sequences, self._items, self._config.rules, as_of))
        created = sequences["created_timestamp"][0].as_py()
        return {
            model.aggregator.view: view_rows(
                sequences,
                vectors,
                created,
                view_schema(model, sequences.schema, self._config.rules),
            )
            for model, vectors in zip(self._models, results, strict=True)
        }
