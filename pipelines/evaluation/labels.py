"""The labels of a world, and the events and items that they are ranked among."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.evaluation.cohorts import count_between
from models.evaluation.item_days import ACTIVE_DAYS, ItemDays
from models.evaluation.references import PositiveEvents
from models.evaluation.task import RankerLabels, Task, random_items, seen_items
from models.sequences import ItemTable
from pipelines.evaluation.protocol import Protocol, Times
from pipelines.evaluation.world import World
from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.errors import InputError
from transformations.item_kinds import other_items
from transformations.layout import partition_files
from transformations.tables import activity_query
from transformations.timestamps import DAY_US

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Period:
    """The labels of one period: train, and validation or test.

    Attributes:
        frame: label, member_id, item_id, action, event_timestamp, positive, midnight; one row per
            label.
        task: The labels as arrays, and the items that they are ranked among.
        first_seen: When each label's member first acted, as pandas timestamps; null where the
            label itself is the first.
    """

    name: str
    frame: pd.DataFrame
    task: Task
    first_seen: pd.Series


@dataclass(frozen=True, eq=False)
class EventArrays:
    """Actions with a sign on items that are predicted, ordered by time; every array is [events].

    Attributes:
        members: Code of the member.
        items: Index of the item.
        times: Microseconds since 1970.
        positive: Whether the action is one that is to be predicted.
    """

    members: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    positive: NDArray[np.bool_]

    def positives(self) -> PositiveEvents:
        """Return the positive ones alone."""
        chosen = self.positive
        return PositiveEvents(self.members[chosen], self.items[chosen], self.times[chosen])


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """The events, items and labels of a world.

    Attributes:
        item_ids: Every item that may be ranked, whatever space it has a vector in.
        member_codes: Maps member ids to codes.
        periods: Period's name → its labels.
    """

    item_ids: pa.Array
    item_days: ItemDays
    events: EventArrays
    member_codes: pd.Index
    periods: dict[str, Period] = field(default_factory=dict)


def positive_times(config: Config, con: Connection, predicts: Sequence[str]) -> Times:
    """Return the times of all positive actions, microseconds since 1970, ascending.

    Raises:
        InputError: there is no activity, or none that is positive.
    """
    if not partition_files(config.layout.activity):
        raise InputError(
            f"expected activity in {config.layout.activity}, found none; first: activity run"
        )
    read_activity(config, con, predicts)
    query = sql("positive_times", __file__)
    parameters = {"predicted": list(predicts or config.actions)}
    times = con.sql(query, params=parameters).to_arrow_table()["timestamp_us"].to_numpy()
    if not len(times):
        raise InputError(f"expected positive actions in {config.layout.activity}, found none")
    return times


def read_data(world: World, con: Connection, protocol: Protocol) -> EvaluationData:
    """Read items, events and the labels of both periods.

    Raises:
        InputError: no item may be ranked, or a period has no label.
    """
    data = _read_events(world, con, protocol)
    names = world.split.periods(world.name)
    return replace(
        data, periods={name: _read_period(name, world, con, data, protocol) for name in names}
    )


def _read_events(world: World, con: Connection, protocol: Protocol) -> EvaluationData:
    config, split = world.config, world.split
    read_activity(config, con, protocol.predicts)
    con.execute(
        f"create or replace temp view stg_items as from {parquet([config.layout.staged_items])}"
    )
    con.execute(f"create or replace temp table known_items as {sql('known_items', __file__)}")
    known: pa.Table = con.sql("from known_items").to_arrow_table()
    if not known.num_rows:
        raise InputError(f"expected items to rank in {config.items.source}, found none")
    item_ids = known["item_id"].combine_chunks()
    table: pa.Table = con.sql(
        sql("events", __file__),
        params={**predicted(config, protocol.predicts), "until": split.until},
    ).to_arrow_table()
    member_codes = pd.Index(table["member_id"].unique().to_pandas())
    rows = indices_of(item_ids, table["item_id"].combine_chunks())
    there = rows >= 0
    events = EventArrays(
        member_codes.get_indexer(table["member_id"].to_pandas())[there].astype(np.int64),
        rows[there],
        table["timestamp_us"].to_numpy()[there],
        table["positive"].to_numpy()[there],
    )
    counted = events.positive | table["negative"].to_numpy()[there]
    item_days = ItemDays.count(
        events.items[counted],
        events.times[counted],
        events.positive[counted],
        known["available_at"].cast(pa.int64()).to_numpy(),
    )
    return EvaluationData(item_ids, item_days, events, member_codes)


def read_activity(config: Config, con: Connection, predicts: Sequence[str]) -> None:
    """Make the view `activity` and the table `other_items`, those that are not predicted."""
    files = partition_files(config.layout.activity)
    con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
    query = other_items(config, con, predicts)
    con.execute(f"create or replace temp table other_items as {query}")


def predicted(config: Config, predicts: Sequence[str]) -> dict[str, object]:
    """Return the parameters of the SQL that say what is predicted."""
    return {"actions": list(config.actions), "predicted": list(predicts or config.actions)}


def indices_of(item_ids: pa.Array, wanted: pa.Array) -> NDArray[np.int64]:
    """Return the index of each wanted item, -1 where it is none of them; int64 [wanted]."""
    return ItemTable(item_ids, np.zeros((0, 1), np.float32)).rows(wanted).astype(np.int64) - 1


def _read_period(
    name: str, world: World, con: Connection, data: EvaluationData, protocol: Protocol
) -> Period:
    config, (since, until) = world.config, world.split.periods(world.name)[name]
    if name == "train":
        since += config.publish_delay  # before that, no snapshot with these fits could be read
    parameters = {
        "since": since,
        "before": until,
        **predicted(config, protocol.predicts),
        "seed": f"{world.name} {name}",
        "share": 1.0,
        "per_member": protocol.per_member,
    }
    query = sql("labels", __file__)
    if protocol.max_labels is not None:
        ((count,),) = con.execute(f"select count(*) from ({query})", parameters).fetchall()
        parameters["share"] = min(1.0, protocol.max_labels / max(count, 1))
    frame = con.execute(query, parameters).df()
    if frame.empty:
        raise InputError(
            f"expected labels in the {name} period, {since:%Y-%m-%d} to {until:%Y-%m-%d}, on items "
            "that are new to their member and were known by then; found none"
        )
    labels = RankerLabels(
        members=data.member_codes.get_indexer(pd.Index(frame["member_id"])).astype(np.int64),
        items=indices_of(data.item_ids, pa.array(frame["item_id"])),
        days=_microseconds(frame["midnight"]) // DAY_US,
        times=_microseconds(frame["event_timestamp"]),
        positive=frame["positive"].to_numpy(),
    )
    events = data.events
    seen = seen_items(labels, events.members, events.items, events.times, len(data.item_ids))
    drawn = random_items(labels, events.items, events.times, seen=seen)
    return Period(
        name, frame, Task(labels, data.item_days, seen, drawn), _first_seen(events, labels)
    )


def cohort_columns(period: Period, data: EvaluationData) -> pd.DataFrame:
    """Return the columns that `cohorts` needs, except the member's history."""
    labels, events = period.task.labels, data.events
    return pd.DataFrame(
        {
            "event_timestamp": period.frame["event_timestamp"],
            "first_seen_at": period.first_seen,
            "item_popularity": count_between(
                events.items[events.positive],
                events.times[events.positive],
                labels.items,
                labels.days * DAY_US,
                ACTIVE_DAYS,
            ),
            "item_first_at": _first_of_items(data)[labels.items],
        }
    )


def _first_of_items(data: EvaluationData) -> NDArray[np.int64]:
    """Return when each item was first acted on, microseconds; the end of time for never."""
    first = np.full(len(data.item_ids), np.iinfo(np.int64).max)
    np.minimum.at(first, data.events.items, data.events.times)
    return first


def _microseconds(timestamps: pd.Series) -> NDArray[np.int64]:
    return timestamps.dt.as_unit("us").astype("int64").to_numpy()


def _first_seen(events: EventArrays, labels: RankerLabels) -> pd.Series:
    """Return when each label's member first acted; null where that is the label itself."""
    members, firsts = np.unique(events.members, return_index=True)
    index = np.minimum(np.searchsorted(members, labels.members), len(members) - 1)
    first = events.times[firsts][index]
    known = (members[index] == labels.members) & (first < labels.times)
    return pd.Series(pd.to_datetime(first, unit="us", utc=True)).where(known)
