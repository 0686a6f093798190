"""What runs inside Spark's tasks: the DuckDB store's join, of one part of the labels at a time.

A part's labels come as Arrow streams, and what a task gives goes back as Arrow streams, each in one
binary value: Spark moves them without a look inside, so every type of DuckDB's comes through, and a
vector is copied as memory. Needed here: DuckDB, numpy, pyarrow, and this package, which the driver
sends along; Feast only where there are on-demand views.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.asof.join import ACROSS, Join, Joined, check_unchanged
from stores.asof.labels import AsofLabels
from stores.asof.query import AsofView
from stores.asof.session import Fingerprint, Limits, session
from stores.objects import let_read
from stores.spark.parts import Parts, check_buckets

if TYPE_CHECKING:
    from stores.asof.on_demand import OnDemand

Answers = Callable[..., Iterator[pa.RecordBatch]]
GIVEN_SCHEMA = pa.schema(
    [("part", pa.int32()), ("source", pa.int32()), ("first", pa.int64()), ("labels", pa.binary())]
)
"""Some labels of a part: the partition of their source, and how many came before them there. In
the last column of `labels` they are numbered from there on."""
ANSWERS_SCHEMA = "chunk int, kind string, answer binary"
"""What becomes of them: of which chunk (or part), what it is, and it itself."""


@dataclass(frozen=True)
class Work:
    """What every task of a join knows.

    Attributes:
        labels: The columns that tasks get; its source is empty.
        row: The last of them, which numbers all labels from 0.
        files: Per view, its files and their rows.
        before: What each file was when the join was planned (size, time of change).
        parts: How the labels are divided.
        offsets: Per partition of the labels' source, the number of its first label.
        retries: Whether Spark runs a task again that fails.
    """

    labels: AsofLabels
    row: str
    views: tuple[AsofView, ...]
    known_at: bool
    limits: Limits
    files: tuple[Mapping[str, int], ...]
    before: Mapping[str, Fingerprint]
    parts: Parts
    offsets: Mapping[int, int]
    retries: bool


def _or_error(answers: Answers) -> Answers:
    """Let a task answer an error that would come again wherever it ran; the driver raises it."""

    @wraps(answers)
    def told(
        batches: Iterator[pa.RecordBatch], work: Work, **others: Any
    ) -> Iterator[pa.RecordBatch]:
        try:
            yield from answers(batches, work, **others)
        except Exception as error:
            if work.retries and isinstance(error, OSError | duckdb.IOException | MemoryError):
                raise
            yield _answer(0, "error", pickle.dumps(error))

    return told


def raise_told(kind: str, answer: bytes) -> None:
    """Raise the error that a task has answered, if it is one."""
    if kind == "error":
        raise pickle.loads(answer)


def packed(table: pa.Table) -> bytes:
    """Return a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(stream: pa.Buffer) -> pa.Table:
    """Return the table of an Arrow stream, whose memory it shares."""
    return pa.ipc.open_stream(stream).read_all()


@_or_error
def in_chunks(
    batches: Iterator[pa.RecordBatch], work: Work, rows_per_chunk: int, whole: bool
) -> Iterator[pa.RecordBatch]:
    """Join parts; give the rows of each chunk of labels, and before them the ages of the rows.

    Of the labels, `whole` gives all columns, else only their numbers.
    """
    for part, labels in _parts(batches, work):
        with _join(work, part, labels) as joined:
            yield _answer(0, "ages", pickle.dumps(joined.ages))
            first = 0 if whole else len(work.labels.columns) - 1
            for table in joined.tables:
                chosen = table.select(range(first, table.num_columns))
                for chunk, some in _divided(chosen, work.row, rows_per_chunk):
                    yield _answer(chunk, "rows", packed(some))


def as_rows(
    batches: Iterator[pa.RecordBatch], work: Work, on_demand: OnDemand | None, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Join parts; give the rows of the result as Spark's, in columns of `schema`."""
    for part, labels in _parts(batches, work):
        for table in _results(work, part, labels, on_demand):
            columns = [
                column.cast(field.type) for column, field in zip(table.columns, schema, strict=True)
            ]
            yield from pa.table(columns, schema=schema).to_batches()


@_or_error
def into_files(
    batches: Iterator[pa.RecordBatch], work: Work, on_demand: OnDemand | None, folder: str
) -> Iterator[pa.RecordBatch]:
    """Join parts; write each into a Parquet file of `folder`, and give the file's name."""
    for part, labels in _parts(batches, work):
        # A task may run twice, also at the same time: each writes a file of its own.
        name = f"part-{part:05d}-{uuid4().hex}.parquet"
        with ExitStack() as stack:
            writer = None
            for table in _results(work, part, labels, on_demand):
                if writer is None:
                    file = pq.ParquetWriter(Path(folder, name), table.schema)
                    writer = stack.enter_context(file)
                writer.write_table(table)
        yield _answer(part, name, b"")


def _parts(batches: Iterator[pa.RecordBatch], work: Work) -> Iterator[tuple[int, pa.Table]]:
    """Yield each part that has come, and its labels in order, with the numbers of all labels."""
    found: dict[int, list[pa.Table]] = {}
    for batch in batches:
        for part, source, first, stream in zip(
            *(batch[name].to_pylist() for name in ("part", "source", "first")),
            batch["labels"],
            strict=True,
        ):
            labels = unpacked(stream.as_buffer())
            last = labels.num_columns - 1
            rows = pc.add(labels.column(last), work.offsets[source] + first)
            numbered = labels.set_column(last, work.row, rows)
            found.setdefault(part, []).append(numbered.rename_columns(list(work.labels.columns)))
    for part in sorted(found):
        labels = pa.concat_tables(found.pop(part))
        yield part, labels.take(pc.sort_indices(labels[work.row]))


@contextmanager
def _join(work: Work, part: int, labels: pa.Table) -> Iterator[Joined]:
    """Join the labels of a part with the files that it needs, which must be as they were."""
    files = [
        {file: some[file] for file in work.parts.files(number, part, view, some)}
        for number, (view, some) in enumerate(zip(work.views, work.files, strict=True))
    ]
    # Not the inode's number: another machine may count its own.
    check_unchanged({file: work.before[file] for some in files for file in some}, of=ACROSS)
    if work.parts.buckets is not None:
        with session(work.limits) as con:
            let_read(con, *(view.path for view in work.views))
            for number in work.parts.bucketed:
                view = work.views[number]
                check_buckets(con, view, list(files[number]), work.parts.buckets)
    source = replace(work.labels, source=labels)
    join = Join(source, work.views, work.known_at, work.limits, files)
    with join.run(rows_per_batch=len(labels)) as joined:
        yield joined


def _results(
    work: Work, part: int, labels: pa.Table, on_demand: OnDemand | None
) -> Iterator[pa.Table]:
    """Yield the rows of the result, without their numbers."""
    with _join(work, part, labels) as joined:
        for table in joined.tables:
            result = table.remove_column(len(work.labels.columns) - 1)
            yield result if on_demand is None else on_demand.added_to(result)


def _divided(table: pa.Table, row: str, rows: int) -> Iterator[tuple[int, pa.Table]]:
    """Divide a table, whose numbers ascend, into chunks of that many numbers each."""
    chunks = table[row].to_numpy() // rows
    bounds = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(chunks)]
    for start, end in pairwise(bounds):
        if start < end:
            yield int(chunks[start]), table.slice(start, end - start)


def _answer(chunk: int, kind: str, answer: bytes) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "chunk": pa.array([chunk], pa.int32()),
            "kind": pa.array([kind], pa.string()),
            "answer": pa.array([answer], pa.binary()),
        }
    )
