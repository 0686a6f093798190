"""The lists of `Popular`: one row, the same for all members."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from models.candidates.spec import Popular
from transformations.config import Config
from transformations.duck import sql
from transformations.layout import files_between
from transformations.tables import activity_query


def lists(
    line: Popular, config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime
) -> Iterator[pa.RecordBatch]:
    """Yield segment, item_ids, scores; of what is popular the score is its number of members.

    No row where no item qualifies. Contract: models/candidates/build.py.
    """
    start = as_of - timedelta(days=line.days)
    parameters = {"start": start, "as_of": as_of, "count": line.count}
    if line.newest:
        query = sql("newest_items", __file__)
    else:
        activity = activity_query(config, con, files_between(config.layout.activity, start, as_of))
        con.execute(f"create or replace temp view activity_so_far as {activity}")
        query = sql("popular_items", __file__)
    best: pa.Table = con.sql(query, params=parameters).to_arrow_table().combine_chunks()
    con.execute("drop view if exists activity_so_far")
    if len(best):
        ends = pa.array([0, len(best)], pa.int32())
        yield pa.RecordBatch.from_pydict(
            {
                "segment": ["all"],
                "item_ids": pa.ListArray.from_arrays(ends, best["item_id"].combine_chunks()),
                "scores": pa.ListArray.from_arrays(ends, best["score"].combine_chunks()),
            }
        )
