"""What came of what was shown: each impression with the first action of its member on its item.

shown ──────────────► window (recommend.attribution) ──────────► over
  │    an action with a sign on it: that is what came of it        │  none: a negative
  └─ shown again: from here on, actions belong to the newer one    └─ not over by then: not known
"""

from datetime import datetime

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, parquet, sql
from transformations.errors import InputError
from transformations.layout import files_between, parts_between
from transformations.quoting import quoted
from transformations.stats.columns import duration
from transformations.tables import activity_query


def attribute_impressions(config: Config, con: Connection, since: datetime, until: datetime) -> int:
    """Make the temp table `attributed_impressions`: what was shown in [since, until).

    Its columns are those of `impressions`, and action, acted_at, dwell (null without an action),
    is_over (whether the window had passed) and sign: 1 or -1 of the action, 0 where the window
    passed without one, null where it had not passed. Nothing at or after `until` is seen: no
    action, no row that was ingested then.

    Returns:
        The number of rows; without any there is no table.

    Raises:
        InputError: impressions have ids of other types than the configuration.
    """
    layout = config.layout
    files = parts_between(layout.impressions, "shown_at", since, until)
    if not files:
        con.execute("drop table if exists attributed_impressions")
        return 0
    shown = f"select * from {parquet(files, 'union_by_name = true')}"
    expect_ids(config, con, shown)
    con.execute(f"create or replace temp view impressions as {shown}")
    dwell = duration(config)
    value = f"attributes[{quoted(dwell)}]" if dwell else "null::double"
    events = activity_query(config, con, files_between(layout.activity, since, until))
    con.execute(
        f"create or replace temp view activity as select *, {value} as dwell from ({events})"
    )
    parameters = {"since": since, "until": until, "attribution": config.recommend.attribution}
    query = sql("attributed_impressions", __file__)
    con.execute(f"create or replace temp table attributed_impressions as {query}", parameters)
    for view in ("impressions", "activity"):
        con.execute(f"drop view {view}")
    ((rows,),) = con.execute("select count(*) from attributed_impressions").fetchall()
    if not rows:
        con.execute("drop table attributed_impressions")
    return int(rows)


def expect_ids(config: Config, con: Connection, shown: str) -> None:
    """Check that a query of impressions has ids as they are configured.

    Raises:
        InputError: it has others.
    """
    layout = config.layout
    wanted = {name: SQL_ID_TYPES[kind] for name, kind in config.rules.id_types.items()}
    kinds = {name: kind for name, kind, *_ in con.execute(f"describe {shown}").fetchall()}
    got = {name: kinds[name] for name in wanted}
    if got != wanted:
        raise InputError(
            f"{config.file.name} expects ids of the types {wanted}, but {layout.impressions} was "
            f"written with {got}; move that folder away: it was shown from other data"
        )
