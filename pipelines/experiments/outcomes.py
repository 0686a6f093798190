"""What members of an experiment were shown and did: relations in DuckDB, moments of each metric.

    impressions ──► exposures ──► experiment_members ──┐
    activity ─────► metric_events ─────────────────────┴──► amount, size of each member ──► moments

A member counts from its first impression in an arm on, with all that it did since: it was assigned,
so nothing that the arms change can choose who counts.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from duckdb import DuckDBPyConnection as Connection

from operations.experiments.assignment import control_from, logged_arm, numbers_in_sql
from operations.experiments.intervals import Moments
from operations.experiments.metrics import (
    FILLED,
    IMPRESSIONS,
    LATENCY,
    OF_SIGNS,
    SESSION_MINUTES,
    Metric,
)
from operations.experiments.records import Experiment
from pipelines.ranking.impressions import expect_ids
from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, named_in, parquet, sql
from transformations.errors import InputError
from transformations.layout import files_between, parts_between
from transformations.quoting import identifier, quoted
from transformations.tables import activity_query

ALL = "all"
"""The cohort of everybody."""
FOREVER = timedelta(days=36_500)


def exposed(
    config: Config,
    con: Connection,
    since: datetime,
    until: datetime,
    experiment: Experiment | None = None,
    only_acted: bool = False,
) -> int:
    """Make the temp relations of [since, until): exposures, experiment_members, activity.

    Args:
        experiment: Whose arms; None: all that were shown something, as one arm.
        only_acted: All that acted instead, for times when nothing was shown yet.

    Returns:
        How many members there are.

    Raises:
        InputError: impressions or activity have ids of other types.
    """
    numbers_in_sql(con)
    activity = activity_query(config, con, files_between(config.layout.activity, since, until))
    con.execute(
        f"create or replace temp view experiment_activity as select * from ({activity}) where "
        f"event_timestamp >= {_time(since)} and event_timestamp < {_time(until)} "
        f"and coalesce(ingested_at < {_time(until)}, true)"
    )
    files = parts_between(config.layout.impressions, "shown_at", since, until)
    name = experiment.name if experiment else ""
    parameters: dict[str, Any] = {
        "since": since,
        "until": until,
        "any_arm": experiment is None,
        "treatment": logged_arm(name, "treatment"),
        "control": logged_arm(name, "control"),
        "is_assigned": experiment is not None,
        "name": name,
        "salt": experiment.salt if experiment else "",
        "share": experiment.share if experiment else 1.0,
        "control_from": control_from(experiment.share) if experiment else 0.0,
    }
    query = sql("acting_members" if only_acted else "exposures", __file__)
    if files:
        shown = f"select * from {parquet(files, 'union_by_name = true')}"
        expect_ids(config, con, shown)
        # Who writes impressions elsewhere, or wrote them before, may lack a column.
        shown = f"{shown} union all by name {_no_impressions(config)}"
    else:
        shown = _no_impressions(config)
    con.execute(f"create or replace temp view impressions as {shown}")
    for table, made in (
        ("exposures", query),
        ("experiment_members", sql("experiment_members", __file__)),
    ):
        con.execute(f"create or replace temp table {table} as {made}", named_in(made, parameters))
    ((members,),) = con.execute("select count(*) from experiment_members").fetchall()
    return int(members)


def moments(
    config: Config, con: Connection, metric: Metric, by: str | None = None
) -> Mapping[str, tuple[Moments, Moments]]:
    """Return the moments of the control and the treatment, by cohort; needs `exposed` before.

    Args:
        by: A category of members' profiles; the value that a member had at its first impression.
            None: all members are one cohort.

    Raises:
        InputError: no profile has such a category.
    """
    _cohorts(config, con, by)
    con.execute(f"create or replace temp view metric_events as {_events(metric, config)}")
    _measure(config, con, metric)
    found: dict[str, dict[bool, Moments]] = {}
    for cohort, is_treatment, *numbers in con.execute(sql("metric_moments", __file__)).fetchall():
        found.setdefault(cohort, {})[is_treatment] = Moments(*numbers)
    none = Moments.of([])
    return {cohort: (arms.get(False, none), arms.get(True, none)) for cohort, arms in found.items()}


def _measure(config: Config, con: Connection, metric: Metric) -> None:
    """Make the temp table `metric_of_members`: the amount and the size of each member."""
    if metric.per == "session" or metric.of == SESSION_MINUTES:
        sessions = sql("member_sessions", __file__)
        con.execute(f"create or replace temp table member_sessions as {sessions}")
    if metric.per == "list":
        lists = sql("member_lists", __file__)
        con.execute(f"create or replace temp table member_lists as {lists}")
    if metric.of == LATENCY:
        query = "select member_id, seconds as amount, n_timed as size from member_lists"
    elif metric.of == FILLED:
        query = "select member_id, n_filled as amount, n_lists as size from member_lists"
    elif metric.of == IMPRESSIONS:
        query = "select member_id, n_impressions as amount, 1 as size from experiment_members"
    elif metric.of == SESSION_MINUTES:
        query = "select member_id, minutes as amount, 1 as size from member_sessions"
    elif metric.per == "impression":
        query = sql("metric_per_impression", __file__)
    else:
        query = sql("metric_per_member", __file__)
    if metric.per == "session" or (metric.per == "list" and metric.of not in (LATENCY, FILLED)):
        counts = f"member_{metric.per}s"
        query = (
            f"select measured.member_id, measured.amount, {counts}.n_{metric.per}s as size "
            f"from ({query}) as measured inner join {counts} using (member_id)"
        )
    always = config.recommend.attribution if metric.per == "impression" else FOREVER
    parameters = {
        "within": metric.within or always,
        # An action counts once of an impression, however often it was done; numbers add up.
        "most": 1.0 if metric.of in {*config.actions, *OF_SIGNS} else float("inf"),
    }
    con.execute(
        f"create or replace temp table metric_of_members as {query}", named_in(query, parameters)
    )


def _events(metric: Metric, config: Config) -> str:
    """Return the query of the events that a metric counts, with their amount."""
    amount, condition = "1", "true"
    if metric.of in config.actions:
        condition = f"action = {quoted(metric.of)}"
    elif metric.of in config.rules.attributes:
        amount = f"attributes[{quoted(metric.of)}]"
        condition = f"{amount} is not null"
    elif metric.of in OF_SIGNS:
        condition = f"sign = {OF_SIGNS[metric.of]}"
    return (
        f"select member_id, item_id, event_timestamp, {amount}::double as amount "
        f"from experiment_activity where {condition}"
    )


def _cohorts(config: Config, con: Connection, by: str | None) -> None:
    if by is None:
        query = f"select member_id, {quoted(ALL)} as cohort from experiment_members"
    else:
        there = [name for name, column in config.members.columns.items()
                 if column in config.members.categorical]  # fmt: skip
        if by not in there or not config.layout.members.exists():
            known = ", ".join(there) or "none is configured (members.categorical)"
            raise InputError(f"expected a category of members' profiles ({known}), got {by!r}")
        query = (
            "select experiment_members.member_id, "
            f"coalesce(said.{identifier(by)}, '(missing)') as cohort from experiment_members "
            f"asof left join {parquet([config.layout.members])} as said "
            "on experiment_members.member_id = said.member_id "
            "and experiment_members.exposed_at >= said.available_at"
        )
    con.execute(f"create or replace temp table member_cohorts as {query}")


def _no_impressions(config: Config) -> str:
    ids = ", ".join(
        f"null::{SQL_ID_TYPES[kind]} as {name}" for name, kind in config.rules.id_types.items()
    )
    texts = ", ".join(
        f"null::varchar as {name}" for name in ("request_id", "surface", "path", "arm", "release")
    )
    return (
        f"select * from (select {ids}, {texts}, null::bigint as position, "
        "null::double as seconds, null::timestamptz as shown_at) where false"
    )


def _time(at: datetime) -> str:
    return f"timestamptz {quoted(at.isoformat())}"
