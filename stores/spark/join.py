"""A training join in Spark: the driver divides the labels, tasks join the parts, all in order.

The driver reads footers and the labels of an entity frame. Each part is joined by
`stores.asof.join.Join` in a task (stores/spark/tasks.py). The rows go back in chunks of labels: a
shuffle brings the pieces of a chunk from all parts together, and the driver fetches one chunk
after the other, so that it never holds more than two.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from stores.asof.coverage import added, summed
from stores.asof.fetch import Fetch
from stores.asof.find import first_positions
from stores.asof.join import (
    OVERHEAD_PER_ROW,
    Join,
    Joined,
    check_unchanged,
    cut,
    listed_files,
    schema_of,
    span_of,
)
from stores.asof.keys import compared
from stores.asof.labels import AsofLabels
from stores.asof.query import AsofView, LabelRange, files_sql
from stores.asof.session import fingerprint, session
from stores.objects import let_read
from stores.parquet import listed
from stores.spark.given import DIVIDED_SCHEMA, Divide, of_driver
from stores.spark.parts import divided
from stores.spark.tasks import ANSWERS_SCHEMA, Work, in_chunks, raise_told, unpacked

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CHUNK_BYTES = 2**26
LABELS_PER_PART = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Planned:
    """A join that is ready to run: labels on the way to the tasks, and what these need to know."""

    given: DataFrame
    work: Work
    span: LabelRange
    schema: pa.Schema
    bytes_per_row: float
    con: duckdb.DuckDBPyConnection


@dataclass(frozen=True)
class SparkJoin(Join):
    """A join whose parts run in Spark.

    Attributes:
        spark: The session.
        frame: The labels where they are a Spark DataFrame; `labels` then holds no rows.
        uncompared: The labels and views before their keys were made to compare.
        buckets: Into how many the files are divided.
        parts: Into how many the labels are divided; None: by their number, or as Spark says.
        task_limits: Those of a session in a task.
    """

    spark: Any = None
    frame: Any = None
    uncompared: Any = None
    buckets: int | None = None
    parts: int | None = None
    task_limits: Any = None

    def span(self) -> LabelRange:
        """Count the labels and find their first and last timestamp; a DataFrame is computed."""
        if self.frame is None:
            return super().span()
        with self.planned(whole=True) as planned:
            return planned.span

    @contextmanager
    def run(self, rows_per_batch: int | None = None) -> Iterator[Joined]:
        """Join; yield the rows in the labels' order, to be read inside the block.

        Raises:
            ValueError, RuntimeError, duckdb.Error: as `Join.run`, also where a task raised it.
            RuntimeError: a part was lost.
        """
        whole = self.frame is not None
        with self.planned(whole) as planned:
            chunks = self._pieces(planned, whole)
            ages = next(chunks)
            tables = self._tables(planned, chunks, whole)
            if rows_per_batch is not None:
                tables = cut(tables, rows_per_batch)
            coverage = [
                summed(view, hours, planned.span.count)
                for view, hours in zip(self.views, ages, strict=True)
            ]
            yield Joined(planned.span, planned.schema, tables, tuple(ages), tuple(coverage))

    @contextmanager
    def planned(self, whole: bool, keep: bool = False) -> Iterator[Planned]:
        """Read footers, number and divide the labels.

        Args:
            whole: Tasks get all columns of the labels; else the keys and times alone.
            keep: The labels of a Spark DataFrame stay in Spark's cache.
        """
        with session(self.limits) as con, ExitStack() as stack:
            let_read(con, *(view.path for view in self.views))
            self.labels.load(con)
            files = listed_files(con, self.views)
            fetches = []
            for number, (view, some) in enumerate(zip(self.views, files, strict=True)):
                con.execute(files_sql(number, view.scan.files_sql(con, first_positions(some))))
                fetches.append(Fetch(con, view, number, first_positions(some)))
            labels, views = self._needed(whole)
            row = _unused(labels.columns)
            if self.frame is None:
                span = span_of(con, self.labels)
                least = self.parts or -(-span.count // LABELS_PER_PART)
                parts = divided(self.views, files, self.buckets, least)
                wanted = list(labels.columns)
                rows = of_driver(con, self.labels, wanted, row, parts)
                given, offsets = self.spark.createDataFrame(rows), {0: 0}
            else:
                least = self.parts or int(self.spark.conf.get("spark.sql.shuffle.partitions"))
                parts = divided(self.views, files, self.buckets, least)
                given = self._divided(Divide(self.labels, parts, self.task_limits))
                if not keep:
                    stack.callback(given.unpersist)
                offsets, span = _counted(given)
            schema = schema_of(con, self._typed(con), fetches)
            work = Work(
                labels=replace(labels, source="", columns={**labels.columns, row: "BIGINT"}),
                row=row,
                views=tuple(views),
                known_at=self.known_at,
                limits=self.task_limits,
                files=tuple(files),
                before={file: fingerprint(file) for some in files for file in some},
                parts=parts,
                offsets=offsets,
                retries=_retries(self.spark),
            )
            given = given.select("part", "source", "first", "labels")
            if self.frame is not None or parts.count > self.spark.sparkContext.defaultParallelism:
                given = given.repartitionById(parts.count, "part")
            size: float = OVERHEAD_PER_ROW * (1 + len(labels.columns))
            size += sum(map(partial(_bytes_per_row, con), self.views, files))
            yield Planned(given, work, span, schema, size, con)

    def _needed(self, whole: bool) -> tuple[AsofLabels, Sequence[AsofView]]:
        labels, views = self.uncompared
        if whole:
            return self.labels, self.views
        named = {labels.timestamp, *(key for view in views for key in view.keys.values())}
        columns = {name: kind for name, kind in labels.columns.items() if name in named}
        return compared(replace(labels, columns=columns), views)

    def _typed(self, con: duckdb.DuckDBPyConnection) -> AsofLabels:
        """Return the labels as tasks give them back: of a Spark DataFrame, texts as times."""
        if self.frame is None:
            return self.labels
        names = ", ".join(map(self.labels.column, self.labels.columns))
        none = con.sql(f"select {names} from labels limit 0").to_arrow_table()
        return replace(self.labels, source=none.rename_columns(list(self.labels.columns)))

    def _divided(self, divide: Divide) -> DataFrame:
        from pyspark.sql.pandas.types import from_arrow_schema
        from pyspark.storagelevel import StorageLevel

        numbered = self.frame.toDF(*(f"column_{n}" for n in range(len(self.labels.columns))))
        found = numbered.mapInArrow(divide, from_arrow_schema(DIVIDED_SCHEMA))
        # Counted first, joined then: computed once, and numbered once.
        return found.persist(StorageLevel.MEMORY_AND_DISK)

    def _pieces(self, planned: Planned, whole: bool) -> Iterator[Any]:
        """Yield the ages per view, then each chunk's number and the streams of its pieces."""
        if not planned.span.count:
            yield [[] for _ in self.views]
            return
        size = max(1, int(CHUNK_BYTES / planned.bytes_per_row))
        count = -(-planned.span.count // size)
        task = partial(in_chunks, work=planned.work, rows_per_chunk=size, whole=whole)
        answers = planned.given.mapInArrow(task, ANSWERS_SCHEMA)
        if count == 1:
            found: Iterator[Any] = iter(answers.collect())
        else:
            found = answers.repartitionById(count, "chunk").toLocalIterator(prefetchPartitions=True)
        chunks = groupby(found, key=itemgetter("chunk"))
        _, first = next(chunks)
        ages: list[bytes] = []
        pieces: list[bytes] = []
        for _, kind, answer in first:
            raise_told(kind, answer)
            (ages if kind == "ages" else pieces).append(answer)
        yield [added(parts) for parts in zip(*map(pickle.loads, ages), strict=True)]
        yield pieces
        for _, rest in chunks:
            yield [answer for _, _, answer in rest]

    def _tables(
        self, planned: Planned, chunks: Iterator[list[bytes]], whole: bool
    ) -> Iterator[pa.Table]:
        """Put the pieces of each chunk in order, and the labels before them."""
        first = 0
        row = planned.work.row
        for pieces in chunks:
            found = pa.concat_tables(unpacked(pa.py_buffer(piece)) for piece in pieces)
            numbers = found[row].to_numpy()
            order = np.argsort(numbers)
            end = first + len(numbers)
            if not np.array_equal(numbers[order], np.arange(first, end)):
                raise RuntimeError(
                    f"expected labels {first} to {end - 1} of the tasks, each once, got others. "
                    "The DataFrame gave its rows in another order when a lost task ran again: "
                    "write it to Parquet first, or order it by a unique key"
                )
            check_unchanged(planned.work.before)
            table = found.combine_chunks().take(pa.array(order))
            columns = list(table.drop_columns(row).columns)
            if not whole:
                columns = [*self.labels.part(planned.con, first, end).columns, *columns]
            yield pa.table(columns, schema=planned.schema)
            first = end


def _counted(given: DataFrame) -> tuple[dict[int, int], LabelRange]:
    """Return the number of the first label of each partition, and how many there are, and when."""
    from pyspark.sql import functions as f

    rows = (
        given.groupBy("source")
        .agg(f.sum("n_labels"), f.min("first_us"), f.max("last_us"))
        .orderBy("source")
        .collect()
    )
    offsets, count = {}, 0
    for source, some, *_ in rows:
        offsets[source] = count
        count += some
    times = [EPOCH + timedelta(microseconds=us) for _, _, *both in rows for us in both if us]
    return offsets, LabelRange(count, min(times, default=None), max(times, default=None))


def _bytes_per_row(
    con: duckdb.DuckDBPyConnection, view: AsofView, files: Mapping[str, int]
) -> float:
    """Estimate the memory of a view's features in a row of the result, by a footer alone."""
    file = list(files)[-1]
    [(size,)] = con.execute(
        f"select sum(greatest(num_values * if(type in ('FLOAT', 'INT32'), 4, 8), "
        f"total_uncompressed_size)) from parquet_metadata([{listed([file])}]) "
        "where list_contains($names, split_part(path_in_schema, ', ', 1))",
        {"names": list(view.features.values())},
    ).fetchall()
    return float(size or 0) / max(files[file], 1)


def _retries(spark: SparkSession) -> bool:
    """Return whether Spark runs a task again that has failed; in local mode it does not."""
    context = spark.sparkContext
    return (
        not str(context.master).startswith("local[")
        and context.getConf().get("spark.task.maxFailures", "4") != "1"
    )


def _unused(names: Mapping[str, str]) -> str:
    """Return a name that none of the columns has."""
    return next(
        name for name in (f"row{'_' * n}" for n in range(len(names) + 1)) if name not in names
    )
