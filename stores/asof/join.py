"""A training join: the labels and views of one, run in a DuckDB session of its own.

Nothing here knows Feast, so that a task of a cluster runs the same join (stores/spark/tasks.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from stores.asof.coverage import Ages, Coverage, count_ages, summed
from stores.asof.fetch import Fetch, TooLargeError
from stores.asof.find import find, first_positions
from stores.asof.labels import AsofLabels
from stores.asof.query import AsofView, LabelRange, label_range_sql
from stores.asof.session import Fingerprint, Limits, fingerprint, memory_limit, session
from stores.objects import let_read
from stores.parquet import find_files, rows_per_file

# The size of a chunk, as a share of DuckDB's own limit (session.DUCKDB_SHARE). Two chunks may be
# alive at a time: the join reads one while the caller still holds the one before.
CHUNK_SHARE = 1 / 3
# Arrow counts the numbers of a vector column in 32 bits.
MOST_CHUNK_BYTES = 2**30
OVERHEAD_PER_ROW = 64
# What of a fingerprint is compared: a machine may give a shared file an inode's number of its own.
HERE, ACROSS = slice(None), slice(1, None)


@dataclass(frozen=True)
class Joined:
    """The rows of a running join."""

    span: LabelRange
    schema: pa.Schema
    tables: Iterator[pa.Table]
    ages: tuple[Ages, ...]
    """Per view."""
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True)
class Join:
    """The labels and views of a join and its limits; nothing is read before `run`."""

    labels: AsofLabels
    views: Sequence[AsofView]
    known_at: bool
    limits: Limits
    files: Sequence[Mapping[str, int]] | None = None
    """Per view, its files and their rows; None: whatever lies there."""

    def span(self) -> LabelRange:
        """Count the labels and find their first and last timestamp. Runs a SQL text once."""
        with session(self.limits) as con:
            self.labels.load(con)
            return span_of(con, self.labels)

    @contextmanager
    def run(self, rows_per_batch: int | None = None) -> Iterator[Joined]:
        """Join; yield the rows in the labels' order, to be read inside the block.

        If `rows_per_batch` is None the caller holds all rows, so the tables need not be small.

        Raises:
            RuntimeError: a source file was replaced while it was read.
            duckdb.Error: out of memory or disk, or a file that cannot be read.
        """
        with session(self.limits) as con:
            let_read(con, *(view.path for view in self.views))
            self.labels.load(con)
            span = span_of(con, self.labels)
            fetches, ages = [], []
            before: dict[str, Fingerprint] = {}
            for number, (view, files) in enumerate(
                zip(self.views, self.files or listed_files(con, self.views), strict=True)
            ):
                before |= {file: fingerprint(file) for file in files}
                find(con, view, number, files, self.labels, span, self.known_at)
                ages.append(count_ages(con, view, number))
                fetches.append(Fetch(con, view, number, first_positions(files)))
            schema = schema_of(con, self.labels, fetches)
            most_bytes: float = MOST_CHUNK_BYTES
            if rows_per_batch is not None:
                most_bytes = min(most_bytes, memory_limit(con) * CHUNK_SHARE)
            tables = self._chunks(con, span.count, fetches, schema, before, most_bytes)
            if rows_per_batch is not None:
                tables = cut(tables, rows_per_batch)
            coverage = [
                summed(view, hours, span.count)
                for view, hours in zip(self.views, ages, strict=True)
            ]
            yield Joined(span, schema, tables, tuple(ages), tuple(coverage))

    def _chunks(
        self,
        con: duckdb.DuckDBPyConnection,
        count: int,
        fetches: Sequence[Fetch],
        schema: pa.Schema,
        before: Mapping[str, Fingerprint],
        most_bytes: float,
    ) -> Iterator[pa.Table]:
        """Yield the labels with their features, in chunks that fit into memory.

        Each chunk reads the files that its labels need: few files if the labels are in the order of
        time.
        """
        first, size = 0, max(1, int(most_bytes / bytes_per_row(con, self.labels, fetches)))
        while first < count:
            end = min(first + size, count)
            columns = list(self.labels.part(con, first, end).columns)
            try:
                for fetch in fetches:
                    columns += fetch.columns(first, end, 2 * most_bytes)
            except TooLargeError:
                # The sample was not typical.
                size = (end - first + 3) // 4
                continue
            check_unchanged(before)
            yield pa.table(columns, schema=schema)
            first = end


def listed_files(
    con: duckdb.DuckDBPyConnection, views: Sequence[AsofView]
) -> list[Mapping[str, int]]:
    """Return per view its files and their rows."""
    return [rows_per_file(con, find_files(view.path)) for view in views]


def schema_of(
    con: duckdb.DuckDBPyConnection, labels: AsofLabels, fetches: Sequence[Fetch]
) -> pa.Schema:
    """Return the columns of the result: the labels' (which are loaded), then the features."""
    schema = labels.part(con, 0, 0).schema
    for fetch in fetches:
        for name, kind in fetch.types.items():
            schema = schema.append(pa.field(name, kind))
    return schema


def bytes_per_row(
    con: duckdb.DuckDBPyConnection, labels: AsofLabels, fetches: Sequence[Fetch]
) -> float:
    """Estimate the memory of a row of the result by a sample."""
    samples = [labels.part(con, 0, 1000)]
    samples += [fetch.sample() for fetch in fetches]
    return OVERHEAD_PER_ROW + sum(sample.nbytes / max(len(sample), 1) for sample in samples)


def span_of(con: duckdb.DuckDBPyConnection, labels: AsofLabels) -> LabelRange:
    """Return the number and times of the labels, which are loaded."""
    [row] = con.execute(label_range_sql(labels)).fetchall()
    return LabelRange(*row)


def cut(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield slices of `rows` rows."""
    for table in tables:
        for first in range(0, len(table), rows):
            yield table.slice(first, rows)


def check_unchanged(before: Mapping[str, Fingerprint], of: slice = HERE) -> None:
    """Raise if a file has changed since the positions in it were found.

    Args:
        of: HERE, or ACROSS where another machine looks than the one that has looked before.

    Raises:
        RuntimeError: names one of those files.
    """
    changed = [
        file for file, then in before.items() if (then or ())[of] != (fingerprint(file) or ())[of]
    ]
    if changed:
        raise RuntimeError(
            f"expected the source files to stay unchanged during the join, got {changed[0]} and "
            f"{len(changed) - 1} more replaced or rewritten. Run the join again"
        )
