"""Labels on their way to the tasks: out of the driver's memory, or out of a Spark DataFrame.

Both give rows of `tasks.GIVEN_SCHEMA`: some labels of one part as an Arrow stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stores.asof.labels import ROW, AsofLabels
from stores.asof.session import Limits, session
from stores.spark.parts import Parts
from stores.spark.tasks import GIVEN_SCHEMA, packed

# Spark cuts batches where they exceed 64 MB.
MOST_LABELS = 500_000
DIVIDED_SCHEMA = pa.schema(
    [*GIVEN_SCHEMA, *((name, pa.int64()) for name in ("n_labels", "first_us", "last_us"))]
)
"""Besides, how many labels those are, and the times they span in microseconds."""


def of_driver(
    con: duckdb.DuckDBPyConnection, labels: AsofLabels, wanted: list[str], row: str, parts: Parts
) -> pa.Table:
    """Divide labels that are loaded into parts; return rows of GIVEN_SCHEMA.

    Args:
        wanted: The columns that tasks get.
        row: What the column of their numbers is called.
    """
    order = con.sql(
        f"select {ROW} as row, {parts.sql(ROW)} as part from labels order by part, row"
    ).to_arrow_table()
    count = len(order)
    table = labels.part(con, 0, count).select(wanted)
    found = []
    part = order["part"].to_numpy()
    rows = order["row"].combine_chunks()
    for start, end in _runs(part):
        some = table.take(rows.slice(start, end - start))
        numbered = some.append_column(row, rows.slice(start, end - start))
        found.append((int(part[start]), 0, 0, packed(numbered)))
    columns = list(zip(*found, strict=True)) or [()] * len(GIVEN_SCHEMA)
    arrays = [pa.array(c, kind) for c, kind in zip(columns, GIVEN_SCHEMA.types, strict=True)]
    return pa.table(arrays, schema=GIVEN_SCHEMA)


@dataclass(frozen=True)
class Divide:
    """Divides the rows of a Spark DataFrame into parts, inside its tasks."""

    labels: AsofLabels
    parts: Parts
    limits: Limits

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Give rows of DIVIDED_SCHEMA; the batches have the labels' columns in order."""
        from pyspark import TaskContext

        context = TaskContext.get()
        source = 0 if context is None else context.partitionId()
        first = 0
        for table in _gathered(batches):
            yield from self._divided(table, source, first)
            first += len(table)

    def _divided(self, table: pa.Table, source: int, first: int) -> Iterator[pa.RecordBatch]:
        with session(self.limits) as con:
            here = replace(self.labels, source=table.rename_columns(list(self.labels.columns)))
            here.load(con)
            names = ", ".join(map(here.column, here.columns))
            found = con.sql(
                f"select {names}, {ROW} as row, {self.parts.sql(ROW)} as part, "
                f"epoch_us({here.time}) as us from labels order by part, row"
            ).to_arrow_table()
        part, us = found["part"].to_numpy(), found["us"]
        labels = found.drop_columns(["part", "us"])
        for start, end in _runs(part):
            times = us.slice(start, end - start).drop_null()
            said = {
                "part": int(part[start]),
                "source": source,
                "first": first,
                "labels": packed(labels.slice(start, end - start)),
                "n_labels": end - start,
                "first_us": pc.min(times).as_py() if len(times) else None,
                "last_us": pc.max(times).as_py() if len(times) else None,
            }
            yield pa.RecordBatch.from_pylist([said], schema=DIVIDED_SCHEMA)


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Put Spark's small batches together: a table costs a DuckDB session."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= MOST_LABELS:
            yield pa.Table.from_batches(held)
            held = []
    if any(map(len, held)):
        yield pa.Table.from_batches(held)


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield where each run of equal values starts and ends."""
    if len(values):
        yield from pairwise([0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)])
