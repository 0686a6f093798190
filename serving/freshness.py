"""How fresh what a ranker reads is: the age of the rows online, and from an action to its row."""

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
from transformations.layout import files_between, partition, partitions
from transformations.names import SEQUENCE_VIEW
from transformations.tables import activity_query


@dataclass(frozen=True)
class Freshness:
    """One view's figures; times in seconds, None where there is nothing to measure.

    Attributes:
        members: Members of the newest snapshot that were looked up online.
        age_p50, age_p99: How long before now their rows' moments lie.
        older: Share of them whose row is older than the bound, or that have none.
        actions: Actions of the time looked at.
        visible: How many of them a readable row holds.
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
    Delays come from the offline tables, whose created_timestamp is when a row could be read, by
    snapshots and stream alike; of actions that the daily run has staged.

    Args:
        bound: What counts as old.
        since: Look at actions from then on.

    Raises:
        InputError: there is no snapshot.
    """
    built = [as_of for as_of in partitions(config.layout.sequences) if as_of <= now]
    if not built:
        raise InputError(f"no snapshot was built yet into {config.data}; first: activity run")
    folders = {SEQUENCE_VIEW: config.layout.sequences} | {
        aggregator.view: config.layout.embeddings(aggregator.view) for aggregator in aggregators
    }
    with connect(config) as con:
        drawn = con.execute(
            f"select member_id from {parquet([partition(config.layout.sequences, built[-1])])} "
            "order by hash(member_id) limit $members",
            {"members": members},
        ).fetchall()
        files = files_between(config.layout.activity, since, now)
        con.execute(f"create temp view activity as {activity_query(config, con, files)}")
        query = sql("event_to_visible", __file__)
        found = []
        for view, folder in folders.items():
            parts = sorted(folder.glob("as_of=*/*.parquet"))
            if not parts:  # a line of the catalogue that no run has embedded yet
                continue
            ages = _ages(store, view, [member for (member,) in drawn], now)
            known = ages[~np.isnan(ages)]
            rows = parquet(parts, "union_by_name = true")
            con.execute(f"create or replace temp view member_rows as from {rows}")
            moments = {"since": since, "until": now, "actions": list(config.actions)}
            ((actions, visible, p50, p99),) = con.execute(query, moments).fetchall()
            found.append(
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
    return found


def write_metrics(found: Sequence[Freshness], bound: timedelta, file: Path) -> None:
    """Write the figures as Prometheus reads them, at once (node_exporter's textfile collector)."""
    registry = CollectorRegistry()
    older = Gauge(
        "activity_freshness_older_ratio",
        "Share of members whose row online is older than so many seconds, or missing.",
        ["view", "older_than"],
        registry=registry,
    )
    ages, delays = (
        Gauge(f"activity_freshness_{name}_seconds", text, ["view", "quantile"], registry=registry)
        for name, text in (
            ("row_age", "Age of the rows online."),
            ("event_to_visible", "From an action until a row that holds it could be read."),
        )
    )
    for row in found:
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
    """Return how old each member's row online is, in seconds; NaN where there is none."""
    if not members:
        return np.zeros(0)
    with Reader(store, [f"{view}:last_action_at"], event_timestamps=True) as reader:
        moments = reader.read({"member_id": members}).event_timestamps[view]
    ages = np.datetime64(now.replace(tzinfo=None), "us") - moments
    return np.where(np.isnat(moments), np.nan, ages / np.timedelta64(1, "s"))
