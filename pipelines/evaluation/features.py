"""Labels with what a ranker would have been given at their time, fetched through Feast."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore
from numpy.typing import NDArray

from models.evaluation.cohorts import count_between
from models.evaluation.gates import assert_nothing_from_the_future
from models.evaluation.item_days import RECENT, ItemDays
from models.evaluation.ranker import SLOTS, Labels
from models.evaluation.scoring import Task, random_items, seen_items
from models.sequences import DAY, ItemTable, Padded, pad, read_items
from models.spec import Aggregator
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.world import World
from transformations import names
from transformations.config import Config
from transformations.duck import sql
from transformations.errors import InputError
from transformations.layout import partition_files
from transformations.names import SEQUENCE_VIEW
from transformations.tables import activity_query

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Period:
    """The labels of one part of the time.

    Attributes:
        frame: label, member_id, item_id, action, event_timestamp, as_of; one row a label.
        task: The labels as arrays, and what they are ranked among. `labels.habits` are zeros until
            a variant brings its own.
        first_seen: When each label's member first acted, as pandas timestamps; null where the
            label itself is the first.
    """

    name: str
    frame: pd.DataFrame
    task: Task
    first_seen: pd.Series


@dataclass(frozen=True, eq=False)
class Ground:
    """What every period shares.

    Attributes:
        items: The items' first vectors, row 0 of the table standing for none.
        events: Every event as arrays: member code, item column, microseconds, positive.
        members: How many different members there are.
        ids: Item ids by column.
    """

    items: ItemTable
    item_days: ItemDays
    events: "Events"
    members: int
    ids: list[Any]


@dataclass(frozen=True, eq=False)
class Events:
    """Activity on items that have a vector, ordered by time; every array is [events]."""

    members: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    positive: NDArray[np.bool_]


def read_ground(world: World, con: Connection) -> tuple[Ground, pd.Index]:
    """Read items and events; return them, and the index of the members' codes.

    Raises:
        InputError: there is no item vector.
    """
    config, split = world.config, world.split
    items = ItemTable.read(config, con, split.test_until, which="first_items")
    positive = [name for name, kind in config.actions.items() if kind == "positive"]
    table: pa.Table = con.sql(
        "select member_id, item_id, list_contains($positive, action) as positive, "
        f"epoch_us(event_timestamp) as moment from ({_activity(config, con)}) "
        "where event_timestamp < $until and list_contains($actions, action) "
        "order by event_timestamp, member_id, item_id, action",
        params={"positive": positive, "actions": list(config.actions), "until": split.test_until},
    ).to_arrow_table()
    index = pd.Index(table["member_id"].unique().to_pandas())
    rows = items.rows(table["item_id"].combine_chunks())
    known = rows > 0
    events = Events(
        index.get_indexer(table["member_id"].to_pandas())[known].astype(np.int64),
        rows[known].astype(np.int64) - 1,
        table["moment"].to_numpy()[known],
        table["positive"].to_numpy()[known],
    )
    read_items(config, con, split.test_until, "first_items")
    available: pa.Table = con.sql("select item_id, available_at from first_items").to_arrow_table()
    moments = np.zeros(len(items), np.int64)
    places = items.rows(available["item_id"].combine_chunks()) - 1
    moments[places] = available["available_at"].cast(pa.int64()).to_numpy()
    ids: list[Any] = [None] * len(items)
    for place, item in zip(places, available["item_id"].to_pylist(), strict=True):
        ids[place] = item
    item_days = ItemDays.count(events.items, events.times, events.positive, moments)
    return Ground(items, item_days, events, len(index), ids), index


def read_period(
    name: str,
    between: tuple[datetime, datetime],
    world: World,
    con: Connection,
    ground: Ground,
    index: pd.Index,
    protocol: Protocol,
) -> Period:
    """Read the labels of one part of the time.

    Raises:
        InputError: it has no label.
    """
    config = world.config
    con.execute(f"create or replace temp view activity as {_activity(config, con)}")
    parameters = {
        "since": between[0],
        "before": between[1],
        "publish_delay": config.publish_delay,
        "actions": list(config.actions),
        "seed": name,
        "share": 1.0,
        "first_snapshot": world.split.weights_until,
    }
    query = sql("labels", __file__)
    if protocol.max_labels is not None:
        ((count,),) = con.execute(f"select count(*) from ({query})", parameters).fetchall()
        parameters["share"] = min(1.0, protocol.max_labels / max(count, 1))
    frame = con.execute(query, parameters).df()
    if frame.empty:
        raise InputError(
            f"expected labels in the {name} period, {between[0]:%Y-%m-%d} to "
            f"{between[1]:%Y-%m-%d}, on items that had a vector by then; found none"
        )
    labels = Labels(
        members=index.get_indexer(pd.Index(frame["member_id"])).astype(np.int64),
        items=ground.items.rows(pa.array(frame["item_id"])).astype(np.int64) - 1,
        days=_microseconds(frame["as_of"]) // DAY,
        times=_microseconds(frame["event_timestamp"]),
        positive=frame["action"].map(config.actions).eq("positive").to_numpy(),
        habits=np.zeros((len(frame), 0), np.float32),
    )
    events = ground.events
    task = Task(
        labels,
        ground.item_days,
        seen_items(labels, events.members, events.items, events.times),
        random_items(labels, events.items, events.times),
    )
    return Period(name, frame, task, _first_seen(events, labels))


def join(
    store: FeatureStore, config: Config, aggregator: Aggregator, period: Period
) -> tuple[Floats, Floats]:
    """Fetch a variant's features for each label through its feature service.

    Returns:
        The member's vectors, zeros where there are none, float32 [labels, SLOTS, dim]; and its
        habits, float32 [labels, n].

    Raises:
        RunFailedError: a feature is of a later time than its label.
        InputError: the aggregator has more vectors than the ranker has places, or vectors of
            another dimension than the items'.
    """
    fields = aggregator.vectors(config)
    if len(fields) > SLOTS or set(fields.values()) != {config.dim}:
        raise InputError(
            f"{aggregator.name}: expected at most {SLOTS} vectors of dimension {config.dim}, which "
            f"the ranker multiplies with the items', got {fields}"
        )
    joined = _ask(store, period, store.get_feature_service(aggregator.service))
    frame = joined.select(["event_timestamp", "last_action_at"]).to_pandas()
    assert_nothing_from_the_future(frame, ["last_action_at"])
    vectors = np.zeros((len(frame), SLOTS, config.dim), np.float32)
    for slot, field in enumerate(fields):
        vectors[:, slot] = _matrix(joined[field], config.dim)
    counts = {name: joined[name].to_numpy() for name in config.rules.count_columns}
    return vectors, habits(config, counts, frame)


@dataclass(frozen=True, eq=False)
class Sequences:
    """The labels' own sequences, as the feature store has them; one row a label.

    Attributes:
        padded: As the aggregators take them in.
        habits: float32 [labels, n].
        history: n_actions and last_action_at; null where the member has no row.
    """

    padded: Padded
    habits: Floats
    history: pd.DataFrame


def join_sequences(
    store: FeatureStore, config: Config, ground: Ground, period: Period
) -> Sequences:
    """Fetch each label's sequence from the feature store.

    Raises:
        RunFailedError: a sequence holds an action from its label's future.
    """
    wanted = [
        "item_ids",
        "actions",
        "event_timestamps",
        "last_action_at",
        *config.rules.count_columns,
    ]
    joined = _ask(store, period, [f"{SEQUENCE_VIEW}:{name}" for name in wanted])
    frame = joined.select(["event_timestamp", "last_action_at", "n_actions"]).to_pandas()
    assert_nothing_from_the_future(frame, ["last_action_at"])
    lists = pa.table(
        {
            name: pc.coalesce(joined[name], pa.scalar([], joined[name].type))
            for name in ("item_ids", "actions", "event_timestamps")
        }
    ).combine_chunks()
    moments = pa.array(period.frame["as_of"].dt.as_unit("us"))
    padded = pad(lists.to_batches()[0], ground.items, config.rules, moments)
    counts = {
        name: joined[name].fill_null(0).to_numpy().astype(np.int64)
        for name in config.rules.count_columns
    }
    return Sequences(padded, habits(config, counts, frame), frame[["n_actions", "last_action_at"]])


def habits(config: Config, counts: dict[str, NDArray[Any]], frame: pd.DataFrame) -> Floats:
    """Return what a ranker is told of a member besides vectors, float32 [labels, 4 + actions].

    Whether nothing is known; logs of the counts of all and of each action; share of negative
    actions, smoothed; log of the days since the last action.
    """
    total = counts["n_actions"].astype(np.float64)
    negative = sum(
        counts[names.count_column(action)]
        for action, kind in config.actions.items()
        if kind == "negative"
    )
    since = (frame["event_timestamp"] - frame["last_action_at"]).dt.total_seconds() / 86_400
    days = since.fillna(2 * config.window.days).to_numpy()
    columns = [total == 0, *(np.log1p(counts[name]) / 2 for name in config.rules.count_columns)]
    columns += [(negative + 0.5) / (total + 3), np.log1p(days) / 3]
    return np.stack(columns, axis=1).astype(np.float32)


def facts(period: Period, ground: Ground) -> pd.DataFrame:
    """Return what `models.evaluation.cohorts` parts the labels by, but for the member's history."""
    labels, events = period.task.labels, ground.events
    return pd.DataFrame(
        {
            "event_timestamp": period.frame["event_timestamp"],
            "first_seen_at": period.first_seen,
            "item_popularity": count_between(
                events.items[events.positive],
                events.times[events.positive],
                labels.items,
                labels.days * DAY,
                RECENT,
            ),
        }
    )


def _ask(store: FeatureStore, period: Period, features: Any) -> pa.Table:
    """Join the labels with features as of their time; rows in the order of the labels."""
    asked = period.frame[["label", "member_id", "item_id", "event_timestamp"]]
    table = store.get_historical_features(
        entity_df=asked, features=features, filter_by_created_timestamp=True
    ).to_arrow()
    return table.sort_by("label")


def _matrix(column: pa.ChunkedArray, dim: int) -> Floats:
    """Return a column of lists, some of them null, as float32 [rows, dim]."""
    lists = column.combine_chunks()
    there = np.asarray(lists.is_valid())
    found = np.zeros((len(lists), dim), np.float32)
    found[there] = lists.flatten().to_numpy().astype(np.float32).reshape(-1, dim)
    return found


def _microseconds(moments: pd.Series) -> NDArray[np.int64]:
    return moments.dt.as_unit("us").astype("int64").to_numpy()


def _first_seen(events: Events, labels: Labels) -> pd.Series:
    """Return when each label's member first acted; null where that is the label itself."""
    members, places = np.unique(events.members, return_index=True)
    place = np.minimum(np.searchsorted(members, labels.members), len(members) - 1)
    first = events.times[places][place]
    known = (members[place] == labels.members) & (first < labels.times)
    return pd.Series(pd.to_datetime(first, unit="us", utc=True)).where(known)


def _activity(config: Config, con: Connection) -> str:
    files = partition_files(config.layout.activity)
    return activity_query(config, con, files)
