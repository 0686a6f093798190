"""The lists of `Neighbours`: for each item with a vector, the nearest that may be recommended."""

from collections.abc import Iterator
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.candidates.nearest import Nearest
from models.candidates.spec import Neighbours
from models.lines import similarity_of
from models.sequences import ItemTable
from transformations.config import Config

ITEMS_AT_ONCE = 10_000


def lists(
    line: Neighbours, config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime
) -> Iterator[pa.RecordBatch]:
    """Yield item_id, item_ids, scores; the item itself is not among its neighbours.

    Vectors are the newest available at `as_of`. An item that is over keeps a list, since members
    acted on it, and stands in none. Contract: models/candidates/build.py.

    Args:
        config: In the space that the line names.
    """
    table = ItemTable.read(config, con, as_of)
    there = con.sql("select item_id from items_there order by item_id").to_arrow_table()
    ids = there["item_id"].combine_chunks()
    of_there = table.rows(ids)
    ids, of_there = ids.filter(pa.array(of_there > 0)), of_there[of_there > 0]
    nearest = Nearest(table.vectors[of_there], similarity_of(config))
    listed = con.sql("from listed").to_arrow_table()["item_id"].combine_chunks()
    # By id, since the last bit of a product hangs on which others it is made with.
    by_id = pc.sort_indices(table.ids).to_numpy() + 1
    wanted = by_id[~np.isin(by_id, table.rows(listed))]
    for start in range(0, len(wanted), ITEMS_AT_ONCE):
        rows = wanted[start : start + ITEMS_AT_ONCE]
        # One more, as most find themselves.
        found, scores = nearest.of(table.vectors[rows], line.nearest + 1)
        kept = (found >= 0) & (of_there[found] != rows[:, None])
        kept &= np.cumsum(kept, axis=1) <= line.nearest
        has_list = kept.any(axis=1)
        if has_list.any():
            kept = kept[has_list]
            yield pa.RecordBatch.from_pydict(
                {
                    "item_id": table.ids.take(pa.array(rows[has_list] - 1)),
                    "item_ids": _lists(pc.take(ids, pa.array(found[has_list][kept])), kept),
                    "scores": _lists(pa.array(scores[has_list][kept]), kept),
                }
            )


def _lists(values: pa.Array, kept: NDArray[np.bool_]) -> pa.ListArray:
    ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values)
