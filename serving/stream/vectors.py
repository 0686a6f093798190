"""Computes the vectors of the streamed aggregators: models loaded once, one call for all."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from models.embed import together, view_rows, view_schema
from models.lines import by_space
from models.packaging import load
from models.sequences import ItemTable, pad
from models.spec import Aggregator
from transformations.config import Config
from transformations.duck import connect


class Vectors:
    """Models and item vectors of every space in memory, as of a timestamp."""

    def __init__(self, config: Config, aggregators: Sequence[Aggregator], as_of: datetime) -> None:
        self._config = config
        self._models = [
            (own, [load(aggregator, own) for aggregator in of_space])
            for own, of_space in by_space(config, aggregators)
        ]
        self.refresh(as_of)

    def refresh(self, as_of: datetime) -> None:
        """Read the item vectors available at `as_of`, as the batch does."""
        with connect(self._config) as con:
            tables = [ItemTable.read(own, con, as_of) for own, _ in self._models]
        self._spaces = [
            (models, items, together(models, items, own.rules))
            for (own, models), items in zip(self._models, tables, strict=True)
        ]

    def rows(self, sequences: pa.RecordBatch, as_of: datetime) -> dict[str, pa.RecordBatch]:
        """Return each view's rows of member_embeddings for these rows of member_sequences."""
        created, rules = sequences["created_timestamp"][0].as_py(), self._config.rules
        rows: dict[str, pa.RecordBatch] = {}
        for models, items, run in self._spaces:
            if models:
                results = run(pad(sequences, items, rules, as_of))
                for model, vectors in zip(models, results, strict=True):
                    schema = view_schema(model, sequences.schema, rules)
                    rows[model.aggregator.view] = view_rows(sequences, vectors, created, schema)
        return rows
