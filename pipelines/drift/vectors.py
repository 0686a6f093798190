"""The measures of a snapshot's vectors: their lengths, how far they moved, how many are empty."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.quantization import from_int8
from models.spec import Aggregator
from operations.drift import Measured
from transformations.config import Config
from transformations.duck import parquet
from transformations.layout import partition, partitions
from transformations.quoting import identifier

SAMPLE = 20_000
"""Members, evenly out of a snapshot, which is ordered by member."""
EMPTY = 1e-6
"""A shorter vector is empty, as that of a member without an action."""


def vector_measures(
    config: Config, con: Connection, as_of: datetime, lines: Sequence[Aggregator]
) -> list[Measured]:
    """Measure each vector field of these lines: the part is `<view>.<field>`.

    `empty` is the share of members whose window has no action or whose vector has no length; `norm`
    the mean length of the others; `centroid shift` how far their mean moved since the snapshot
    before, in mean lengths.
    """
    measured = []
    for line in lines:
        folder = config.layout.embeddings(line.view)
        file, before = partition(folder, as_of), [at for at in partitions(folder) if at < as_of]
        earlier = partition(folder, before[-1]) if before else None
        for field in line.vectors(config):
            part = f"{line.view}.{field}"
            members, full = _read(con, file, field)
            empty = 1 - len(full) / max(members, 1)
            measured.append(Measured("vectors", "empty", part, "share", empty, members))
            if not len(full):
                continue
            norm = float(np.linalg.norm(full, axis=1).mean())
            measured.append(Measured("vectors", "norm", part, "size", norm, members))
            old = _read(con, earlier, field)[1] if earlier else full[:0]
            if len(old):
                moved = float(np.linalg.norm(full.mean(axis=0) - old.mean(axis=0))) / norm
                shift = Measured("vectors", "centroid shift", part, "distance", moved, members)
                measured.append(shift)
    return measured


def _read(con: Connection, file: Path, field: str) -> tuple[int, NDArray[np.float32]]:
    """Return how many members were read, and the vectors [n, dim] of those that are not empty."""
    every = max(pq.read_metadata(file).num_rows // SAMPLE, 1)
    table: pa.Table = con.sql(
        f"select {identifier(field)} as vector, n_actions > 0 as acts "
        f"from {parquet([file], 'file_row_number = true')} where file_row_number % {every} = 0"
    ).to_arrow_table()
    column = table["vector"].combine_chunks()
    if pa.types.is_binary(column.type):
        kept = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
        vectors = from_int8(kept.reshape(len(table), -1)) if len(table) else kept.reshape(0, 0)
    else:
        vectors = column.flatten().to_numpy().reshape(len(table), -1)
    vectors = vectors.astype(np.float32, copy=False)
    full = table["acts"].to_numpy() & (np.linalg.norm(vectors, axis=1) > EMPTY)
    return len(table), vectors[full]
