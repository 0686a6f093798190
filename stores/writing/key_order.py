"""Batches in the order of their serialized keys, for a store whose table is a tree by key.

The bytes of an integer begin with its lowest, so rows in the order of their ids lie all over the
tree: with 5 million of them, each batch would rewrite most of its pages. Rows are put into buckets
by key on disk, one file for each, and come out bucket after bucket. Memory holds one of them.
"""

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

BUCKETS = 256
SAMPLED = 120_000
"""So many rows decide where buckets end; fewer are returned as they are."""


def in_key_order(
    batches: Iterator[pa.RecordBatch],
    keys_of: Callable[[pa.RecordBatch], Sequence[bytes]],
    folder: Path,
    batch_rows: int,
    sampled: int = SAMPLED,
) -> Generator[pa.RecordBatch]:
    """Yield the rows of the batches, ordered by key from bucket to bucket, not inside one.

    Args:
        keys_of: Returns the serialized key of each row.
        folder: Where the buckets may lie; they take what the rows take as Arrow.
        batch_rows: A yielded batch has at most that many.
        sampled: How many rows decide where buckets end.
    """
    first, rows = [], 0
    for batch in batches:
        first.append(batch)
        rows += batch.num_rows
        if rows > sampled:
            break
    else:
        yield from first
        return
    sample = sorted(key for batch in first for key in keys_of(batch))
    ends = [sample[len(sample) * nth // BUCKETS] for nth in range(1, BUCKETS)]
    with tempfile.TemporaryDirectory(prefix="by-key-", dir=folder) as place:
        files = [Path(place) / f"{bucket}.arrows" for bucket in range(BUCKETS)]
        with ExitStack() as stack:
            writers = [
                stack.enter_context(pa.ipc.new_stream(str(file), first[0].schema)) for file in files
            ]
            for several in (first, batches):
                for batch in several:
                    _spread(batch, keys_of(batch), ends, writers)
        for file in files:
            with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as reader:
                table = reader.read_all().combine_chunks()
                yield from table.to_batches(max_chunksize=batch_rows)


def _spread(
    batch: pa.RecordBatch,
    keys: Sequence[bytes],
    ends: Sequence[bytes],
    writers: Sequence[pa.ipc.RecordBatchStreamWriter],
) -> None:
    buckets = np.fromiter((bisect_right(ends, key) for key in keys), np.int64, len(keys))
    order = np.argsort(buckets, kind="stable")
    sorted_rows, starts = (
        batch.take(pa.array(order)),
        np.searchsorted(buckets[order], range(BUCKETS + 1)),
    )
    for bucket in np.unique(buckets).tolist():
        start, end = starts[bucket], starts[bucket + 1]
        writers[bucket].write_batch(sorted_rows.slice(start, end - start))
