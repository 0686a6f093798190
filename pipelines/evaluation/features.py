"""Labels with their point-in-time features, fetched through Feast."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore
from numpy.typing import NDArray

from models.evaluation.cohorts import count_between
from models.evaluation.item_days import ACTIVE_DAYS, ItemDays
from models.evaluation.promises import assert_nothing_from_the_future
from models.evaluation.ranker import RankerFeatures, RankerLabels
from models.evaluation.scoring import Task, random_items, seen_items
from models.kinds import candidate_rows
from models.sequences import ItemTable, Padded, pad, read_items
from models.spec import Aggregator
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.world import World
from serving.publish.feast_store import quiet
from transformations import names
from transformations.config import Config
from transformations.duck import sql
from transformations.errors import InputError
from transformations.item_kinds import other_items
from transformations.layout import partition_files
from transformations.names import SEQUENCE_VIEW
from transformations.tables import activity_query
from transformations.timestamps import DAY_US, MICROSECOND

Floats = NDArray[np.float32]

NEVER = 2**62
"""When an item that is not predicted becomes available."""


@dataclass(frozen=True, eq=False)
class Period:
    """The labels of one period: train, validation or test.

    Attributes:
        frame: label, member_id, item_id, action, event_timestamp, midnight (of what is known of
            items), as_of (of the newest snapshot of members); one row per label.
        task: The labels as arrays, and the items that they are ranked among.
        first_seen: When each label's member first acted, as pandas timestamps; null where the
            label itself is the first.
        coverage: Member view → what its join counted of rows that are missing or old (`coverage` of
            the job of stores.duckdb_asof); filled as the views are joined.
    """

    name: str
    frame: pd.DataFrame
    task: Task
    first_seen: pd.Series
    coverage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EventArrays:
    """Activity on items that have a vector, ordered by time; every array is [events].

    Attributes:
        members: Code of the member.
        items: Index of the item.
        times: Microseconds since 1970.
        positive: Whether the action is a positive one.
    """

    members: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    positive: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """The events, items and labels of an evaluation.

    Attributes:
        items: The items' first vectors; row 0 of the table stands for none.
        member_codes: Maps member ids to codes.
        periods: Period's name → its labels.
    """

    items: ItemTable
    item_days: ItemDays
    events: EventArrays
    member_codes: pd.Index
    periods: dict[str, Period] = field(default_factory=dict)

    @property
    def readings(self) -> pa.Table:
        """Whose row each label reads, and as of when: member_id, as_of."""
        frames = [period.frame[["member_id", "as_of"]] for period in self.periods.values()]
        return pa.Table.from_pandas(pd.concat(frames), preserve_index=False)


def read_data(
    world: World,
    con: Connection,
    protocol: Protocol,
    periods: Sequence[str] = ("train", "validation", "test"),
) -> EvaluationData:
    """Read items, events and the labels of these periods.

    Raises:
        InputError: there is no item vector, or a period has no label.
    """
    data = _read_events(world, con, protocol)
    labels = {name: _read_period(name, world, con, data, protocol) for name in periods}
    return replace(data, periods=labels)


def _read_events(world: World, con: Connection, protocol: Protocol) -> EvaluationData:
    config, split = world.config, world.split
    items = ItemTable.read(config, con, split.test_until, which="first_items")
    con.execute(f"create or replace temp view activity as {_activity(config, con)}")
    query = other_items(config, con, protocol.predicts)
    con.execute(f"create or replace temp table other_items as {query}")
    table: pa.Table = con.sql(
        sql("events", __file__),
        params={**_predicted(config, protocol), "until": split.test_until},
    ).to_arrow_table()
    member_codes = pd.Index(table["member_id"].unique().to_pandas())
    rows = items.rows(table["item_id"].combine_chunks())
    known = rows > 0
    events = EventArrays(
        member_codes.get_indexer(table["member_id"].to_pandas())[known].astype(np.int64),
        rows[known].astype(np.int64) - 1,
        table["timestamp_us"].to_numpy()[known],
        table["positive"].to_numpy()[known],
    )
    read_items(config, con, split.test_until, "first_items")
    available: pa.Table = con.sql("select item_id, available_at from first_items").to_arrow_table()
    available_at = np.zeros(len(items), np.int64)
    index = items.rows(available["item_id"].combine_chunks()) - 1
    available_at[index] = available["available_at"].cast(pa.int64()).to_numpy()
    candidates = candidate_rows(config, con, items, protocol.predicts)
    if candidates is not None:
        others = np.ones(len(items), bool)
        others[candidates - 1] = False
        available_at[others] = NEVER
    signed = events.positive | table["negative"].to_numpy()[known]
    item_days = ItemDays.count(
        events.items[signed], events.times[signed], events.positive[signed], available_at
    )
    return EvaluationData(items, item_days, events, member_codes)


def _predicted(config: Config, protocol: Protocol) -> dict[str, object]:
    """Return the parameters of the SQL that say what is predicted."""
    return {
        "actions": list(config.actions),
        "predicted": list(protocol.predicts or config.actions),
    }


def _read_period(
    name: str, world: World, con: Connection, data: EvaluationData, protocol: Protocol
) -> Period:
    config, (since, until) = world.config, world.split.periods[name]
    parameters = {
        "since": since,
        "before": until,
        "publish_delay": config.publish_delay,
        **_predicted(config, protocol),
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
            f"expected labels in the {name} period, {since:%Y-%m-%d} to {until:%Y-%m-%d}, on items "
            "that had a vector by then; found none"
        )
    readable = _microseconds(frame["event_timestamp"]) - config.publish_delay // MICROSECOND
    as_of = pd.to_datetime(world.series.newest(readable), unit="us", utc=True)
    frame["as_of"] = as_of.as_unit("us")
    labels = RankerLabels(
        members=data.member_codes.get_indexer(pd.Index(frame["member_id"])).astype(np.int64),
        items=data.items.rows(pa.array(frame["item_id"])).astype(np.int64) - 1,
        days=_microseconds(frame["midnight"]) // DAY_US,
        times=_microseconds(frame["event_timestamp"]),
        positive=frame["positive"].to_numpy(),
    )
    events = data.events
    task = Task(
        labels,
        data.item_days,
        seen_items(labels, events.members, events.items, events.times),
        random_items(labels, events.items, events.times),
    )
    return Period(name, frame, task, _first_seen(events, labels))


def join(
    store: FeatureStore, config: Config, aggregator: Aggregator, period: Period
) -> RankerFeatures:
    """Fetch a variant's features for each label through its feature service.

    A member without a row in the store has vectors of zeros.

    Raises:
        RunFailedError: a feature is from after its label.
        InputError: the aggregator has vectors of another dimension than the items'.
    """
    fields = aggregator.vectors(config)
    if set(fields.values()) != {config.dim}:
        raise InputError(
            f"{aggregator.name}: expected vectors of dimension {config.dim}, which the ranker "
            f"multiplies with the items', got {fields}"
        )
    joined = _fetch(store, period, store.get_feature_service(aggregator.service))
    frame = joined.select(["event_timestamp", "last_action_at"]).to_pandas()
    assert_nothing_from_the_future(frame, ["last_action_at"])
    vectors = stacked([_matrix(joined[name], config.dim) for name in fields], config)
    counts = {name: joined[name].to_numpy() for name in config.rules.count_columns}
    return RankerFeatures(vectors, member_features(config, counts, frame))


def stacked(fields: Sequence[Floats], config: Config) -> Floats:
    """Stack a variant's vectors, zeros for those it lacks: float32 [rows, actions, dim]."""
    vectors = np.zeros((len(fields[0]), len(config.actions), config.dim), np.float32)
    for index, values in enumerate(fields):
        vectors[:, index] = values
    return vectors


@dataclass(frozen=True, eq=False)
class Sequences:
    """The labels' sequences from the feature store; one row per label.

    Attributes:
        padded: As input of the aggregators.
        member_features: float32 [labels, n].
        history: n_actions and last_action_at; null where the member has no row.
    """

    padded: Padded
    member_features: Floats
    history: pd.DataFrame


def join_sequences(
    store: FeatureStore, config: Config, data: EvaluationData, period: Period
) -> Sequences:
    """Fetch each label's sequence from the feature store.

    Raises:
        RunFailedError: a sequence has an action from after its label.
    """
    lists = ["item_ids", "actions", "event_timestamps", *config.rules.attributes]
    wanted = [*lists, "last_action_at", *config.rules.count_columns]
    joined = _fetch(store, period, [f"{SEQUENCE_VIEW}:{name}" for name in wanted])
    frame = joined.select(["event_timestamp", "last_action_at", "n_actions"]).to_pandas()
    assert_nothing_from_the_future(frame, ["last_action_at"])
    sequences = pa.table(
        {name: pc.coalesce(joined[name], pa.scalar([], joined[name].type)) for name in lists}
    ).combine_chunks()
    as_of = pa.array(period.frame["as_of"].dt.as_unit("us"))
    padded = pad(sequences.to_batches()[0], data.items, config.rules, as_of)
    counts = {
        name: joined[name].fill_null(0).to_numpy().astype(np.int64)
        for name in config.rules.count_columns
    }
    history = frame[["n_actions", "last_action_at"]]
    return Sequences(padded, member_features(config, counts, frame), history)


def member_features(config: Config, counts: dict[str, NDArray[Any]], frame: pd.DataFrame) -> Floats:
    """Return the ranker's member features besides vectors, float32 [labels, 4 + actions].

    Whether the member has no actions; logs of the counts of all actions and of each; smoothed
    share of negative actions; log of the days since the last action.
    """
    total = counts["n_actions"].astype(np.float64)
    negative = sum(
        counts[names.count_column(action)]
        for action, given in config.actions.items()
        if given.sign == "negative"
    )
    since = (frame["event_timestamp"] - frame["last_action_at"]).dt.total_seconds() / 86_400
    days = since.fillna(2 * config.window.days).to_numpy()
    columns = [total == 0, *(np.log1p(counts[name]) / 2 for name in config.rules.count_columns)]
    columns += [(negative + 0.5) / (total + 3), np.log1p(days) / 3]
    return np.stack(columns, axis=1).astype(np.float32)


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
        }
    )


def _fetch(store: FeatureStore, period: Period, features: Any) -> pa.Table:
    """Join the labels with features as of their time; rows in the order of the labels."""
    entities = period.frame[["label", "member_id", "item_id", "event_timestamp"]]
    job: Any = store.get_historical_features(
        entity_df=entities, features=features, filter_by_created_timestamp=True
    )
    with quiet():  # the report says what had no row
        table = job.to_arrow()
    period.coverage.update((one.view, one) for one in job.coverage if one.max_age is not None)
    return table.sort_by("label")


def _matrix(column: pa.ChunkedArray, dim: int) -> Floats:
    """Return a column of lists as float32 [rows, dim], zeros for null."""
    lists = column.combine_chunks()
    there = np.asarray(lists.is_valid())
    found = np.zeros((len(lists), dim), np.float32)
    found[there] = lists.flatten().to_numpy().astype(np.float32).reshape(-1, dim)
    return found


def _microseconds(timestamps: pd.Series) -> NDArray[np.int64]:
    return timestamps.dt.as_unit("us").astype("int64").to_numpy()


def _first_seen(events: EventArrays, labels: RankerLabels) -> pd.Series:
    """Return when each label's member first acted; null where that is the label itself."""
    members, firsts = np.unique(events.members, return_index=True)
    index = np.minimum(np.searchsorted(members, labels.members), len(members) - 1)
    first = events.times[firsts][index]
    known = (members[index] == labels.members) & (first < labels.times)
    return pd.Series(pd.to_datetime(first, unit="us", utc=True)).where(known)


def _activity(config: Config, con: Connection) -> str:
    files = partition_files(config.layout.activity)
    return activity_query(config, con, files)
