"""The lists of `Popular`: one row, the same for all members, or a row for each segment of them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from models.candidates.spec import ALL, CLUSTER, Popular
from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.errors import InputError
from transformations.layout import files_between
from transformations.quoting import identifier
from transformations.tables import activity_query

FEWEST = 5
"""Members whose likes make a list of their segment; of fewer it would be the taste of a few."""


def lists(
    line: Popular, config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime
) -> Iterator[pa.RecordBatch]:
    """Yield segment, item_ids, scores; of what is popular the score is its number of members.

    Where clusters of items take turns the score falls from 1, by the place. No row where no item
    qualifies. Contract: models/candidates/build.py.

    Args:
        config: In the first item space, for clusters.

    Raises:
        InputError: the line goes by a category of profiles, and none are staged with it.
    """
    start = as_of - timedelta(days=line.days)
    parameters = {"start": start, "as_of": as_of, "count": line.count}
    if line.newest:
        found = _for_all(con.sql(sql("newest_items", __file__), params=parameters).to_arrow_table())
    else:
        activity = activity_query(config, con, files_between(config.layout.activity, start, as_of))
        con.execute(f"create or replace temp view activity_so_far as {activity}")
        found = _popular(line, config, con, parameters)
        con.execute("drop view activity_so_far")
    yield from found.to_batches()


def _popular(
    line: Popular, config: Config, con: duckdb.DuckDBPyConnection, parameters: dict[str, Any]
) -> pa.Table:
    """Return segment, item_ids, scores of what members liked; reads `activity_so_far`."""
    if line.profile is not None:
        _profiles(config, con, line.profile)
        by_profile = con.sql(
            sql("popular_by_profile", __file__), params={**parameters, "fewest": FEWEST}
        ).to_arrow_table()
        con.execute("drop view profiles")
        return by_profile.combine_chunks()
    clustered = line.by == CLUSTER
    if clustered:  # where clusters take turns, the first of one may be popular with few
        parameters = {**parameters, "count": None}
    best = con.sql(sql("popular_items", __file__), params=parameters).to_arrow_table()
    if clustered:
        from models.candidates.clusters import in_turn  # scikit-learn

        best = in_turn(line, config, con, parameters["as_of"], best.combine_chunks())
    return _for_all(best)


def _for_all(best: pa.Table) -> pa.Table:
    """Return the list of everybody of item_id and score, the best first; no row without items."""
    ends = pa.array([0, len(best)], pa.int32())
    best = best.combine_chunks()
    columns = {
        name: pa.ListArray.from_arrays(ends, best[column].combine_chunks())
        for name, column in (("item_ids", "item_id"), ("scores", "score"))
    }
    return pa.table({"segment": pa.array([ALL]), **columns}).slice(0, min(len(best), 1))


def _profiles(config: Config, con: duckdb.DuckDBPyConnection, column: str) -> None:
    """Make the view `profiles`: member_id, available_at and the value of a category."""
    file = config.layout.members
    columns = con.execute(f"describe from {parquet([file])}").fetchall() if file.exists() else []
    if column not in {name for name, *_ in columns}:
        raise InputError(
            f"expected profiles of members with {column} in {file}, as a candidate source goes by "
            "it, found none; first: activity run"
        )
    con.execute(
        "create or replace temp view profiles as select member_id, available_at, "
        f"{identifier(column)} as value from {parquet([file])}"
    )
