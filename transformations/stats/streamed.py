"""Actions that the stream has read and no run has staged yet, as rows of activity.

streamed rows of member_sequences ──► their actions, each once ──► without those that are staged
"""

from datetime import datetime, timedelta

import duckdb

from transformations.attributes import SQL_TYPES, struct_of
from transformations.config import Config
from transformations.duck import sql
from transformations.layout import files_between
from transformations.quoting import identifier
from transformations.rules import Attribute
from transformations.signs import sign_expression
from transformations.tables import activity_query

LATE = timedelta(days=2)
"""The source of events has what happened after this time; what it lacks then does not count."""


def streamed_actions(
    config: Config, con: duckdb.DuckDBPyConnection, rows: str, as_of: datetime
) -> str:
    """Make the temp table `streamed_actions`; return its query, with the columns of activity.

    It has the actions of the time LATE before as_of that were told before as_of and that no staged
    row has which was there by then. `ingested_at` is when the first row with it could be read.

    Args:
        rows: Query of what the stream wrote to member_sequences; also rows that are older.
    """
    since = as_of - LATE
    lists = {"item_ids": "item_id", "actions": "action", "event_timestamps": "event_timestamp"}
    unnested = "".join(f", unnest({column}) as {name}" for column, name in lists.items())
    there = set(con.sql(rows).columns)
    values = {name: _value(name, one) for name, one in config.rules.attributes.items()}
    # Rows of before an attribute was configured have no list of it.
    unnested += "".join(
        f", unnest({identifier(name)}) as {identifier(name)}" for name in values if name in there
    )
    absent = "".join(
        f", null::{SQL_TYPES[one.kind]} as {identifier(name)}"
        for name, one in config.rules.attributes.items()
        if name not in there
    )
    cleaned = "".join(f", {value} as {identifier(name)}" for name, value in values.items())
    carried = struct_of(config.rules.attributes, {name: identifier(name) for name in values})
    columns = f"member_id, {', '.join(lists.values())}, created_timestamp"
    con.execute(
        f"create or replace temp view streamed_rows as "
        f"select {columns}, {carried}, {sign_expression(config.rules)} as sign from ("
        f"select {columns}{cleaned} from ("
        f"select member_id, created_timestamp{unnested}{absent} from ({rows})))"
    )
    staged = activity_query(config, con, files_between(config.layout.activity, since, as_of))
    con.execute(f"create or replace temp view staged as {staged}")
    con.execute(
        f"create or replace temp table streamed_actions as {sql('streamed_actions', __file__)}",
        {"since": since, "as_of": as_of},
    )
    for view in ("streamed_rows", "staged"):
        con.execute(f"drop view {view}")
    return "from streamed_actions"


def _value(name: str, attribute: Attribute) -> str:
    """Return SQL for an element of an attribute's list; null where it is missing there."""
    column = identifier(name)
    if attribute.kind == "number":
        return f"case when not isnan({column}) then {column} end"
    return f"nullif({column}, chr(26))"
