"""How fresh a ranker's data is: the age of online rows, and the delay from an action to its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from feast import FeatureStore
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from models.spec import Aggregator
from stores.read import Reader
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.errors import InputError
from transformations.layout import files_between, partitions, snapshot_files
from transformations.names import SEQUENCE_VIEW
from transformations.tables import activity_query


@dataclass(frozen=True)
class Freshness:
    """One view's figures; times in seconds, None where there is nothing to measure.

    Attributes:
        members: Members of the newest snapshot that were looked up online.
        age_p50, age_p99: Age of their rows, now minus event_timestamp.
        older: Share of them whose row is older than the bound or missing.
        actions: Actions in the period.
        visible: How many of those actions a readable row holds.
        delay_p50, delay_p99: From such an action until the first row that holds it was readable.
    """

    view: str
    members: int
    age_p50: float | None
    age_p99: float | None
    older: float
    actions: int
    visible: int
    delay_p50: float | None
    delay_p99: float | None


def freshness(
    config: Config,
    store: FeatureStore,
    aggregators: Sequence[Aggregator],
    now: datetime,
    bound: timedelta,
    since: datetime,
    members: int = 10_000,
) -> list[Freshness]:
    """Return every view's figures.

    Ages are read from the online store, for members of the newest snapshot drawn by their hash.
    Delays come from the offline tables, for actions that the daily run has staged:
    created_timestamp says when a row could be read, in snapshots and streamed parts alike.

    Args:
        bound: Rows older than this count as old.
        since: Start of the period whose actions are measured; it ends now.

    Raises:
        InputError: there is no snapshot.
    """
    built = [as_of for as_of in partitions(config.layout.sequences) if as_of <= now]
    if not built:
        raise InputError(f"no snapshot was built yet into {config.data}; first: activity run")
    with connect(config) as con:
        drawn = con.execute(
            f"select member_id from {parquet(snapshot_files(config.layout.sequences, built[-1]))} "
            "order by hash(member_id) limit $members",
            {"members": members},
        ).fetchall()
        files = files_between(config.layout.activity, since, now)
        con.execute(f"create temp view activity as {activity_query(config, con, files)}")
        query = sql("event_to_visible", __file__)
        figures = []
        for view in (SEQUENCE_VIEW, *(line.view for line in aggregators)):
            parts = sorted(config.layout.table(view).rglob("*.parquet"))
            if not parts:  # a catalogue line that no run has embedded yet
                continue
            ages = _ages(store, view, [member for (member,) in drawn], now)
            known = ages[~np.isnan(ages)]
            rows = parquet(parts, "union_by_name = true")
            con.execute(f"create or replace temp view member_rows as from {rows}")
            period = {"since": since, "until": now, "actions": list(config.actions)}
            ((actions, visible, p50, p99),) = con.execute(query, period).fetchall()
            figures.append(
                Freshness(
                    view=view,
                    members=len(ages),
                    age_p50=float(np.quantile(known, 0.5)) if len(known) else None,
                    age_p99=float(np.quantile(known, 0.99)) if len(known) else None,
                    older=float(np.mean(~(ages <= bound.total_seconds()))) if len(ages) else 0.0,
                    actions=actions,
                    visible=visible,
                    delay_p50=p50,
                    delay_p99=p99,
                )
            )
    return figures


def write_metrics(figures: Sequence[Freshness], bound: timedelta, file: Path) -> None:
    """Write the figures to a file in one step, for node_exporter's textfile collector."""
    registry = CollectorRegistry()
    older = Gauge(
        "activity_freshness_older_ratio",
        "Share of members whose online row is older than that many seconds, or missing.",
        ["view", "older_than"],
        registry=registry,
    )
    ages, delays = (
        Gauge(f"activity_freshness_{name}_seconds", text, ["view", "quantile"], registry=registry)
        for name, text in (
            ("row_age", "Age of the online rows."),
            ("event_to_visible", "From an action until a row that holds it could be read."),
        )
    )
    for row in figures:
        older.labels(row.view, f"{bound.total_seconds():g}").set(row.older)
        for gauge, quantile, seconds in (
            (ages, "0.5", row.age_p50),
            (ages, "0.99", row.age_p99),
            (delays, "0.5", row.delay_p50),
            (delays, "0.99", row.delay_p99),
        ):
            if seconds is not None:
                gauge.labels(row.view, quantile).set(seconds)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(file), registry)


def _ages(
    store: FeatureStore, view: str, members: Sequence[int | str], now: datetime
) -> np.ndarray:
    """Return the age of each member's online row in seconds; NaN where there is none."""
    if not members:
        return np.zeros(0)
    with Reader(store, [f"{view}:last_action_at"], event_timestamps=True) as reader:
        timestamps = reader.read({"member_id": members}).event_timestamps[view]
    ages = np.datetime64(now.replace(tzinfo=None), "us") - timestamps
    return np.where(np.isnat(timestamps), np.nan, ages / np.timedelta64(1, "s"))
