"""Labels with the features that a store delayed by some time would have had.

A store with a delay holds, at a label's time, what a store without one held `delay` earlier: each
member's row is the sequence as of `label time - delay`, from the events known by then, and ages
count from that timestamp. A daily snapshot is the same rule as of a midnight.

Every label has its own as_of, but transformations/stream.py folds many members as of one
timestamp. So a label takes the role of a member, and its timestamps are counted from its as_of.
That changes neither their order nor what lies in the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.embed import together
from models.evaluation.history import Rows, events_before, padded_rows
from models.evaluation.ranker import RankerFeatures
from models.evaluation.scoring import random_items
from models.item_versions import ItemVersions
from models.packaging import load
from models.sequences import pad
from models.spec import Aggregator
from pipelines.evaluation.features import EvaluationData, Period, member_features, stacked
from pipelines.evaluation.world import World
from transformations.config import Config
from transformations.duck import sql
from transformations.layout import partition_files
from transformations.stream import Actions, States, fold, to_sequences
from transformations.tables import activity_query
from transformations.timestamps import EPOCH, MICROSECOND, NO_TIME

Times = NDArray[np.int64]
"""Microseconds since 1970, one per label."""
BATCH = 2_048
REDRAWS = 20


@dataclass(frozen=True, eq=False)
class Log:
    """All actions by member, oldest first.

    Attributes:
        actions: `member` is the member's code, as in the labels.
        ingested: When each was known, int64 [actions]; NO_TIME where the source does not say.
    """

    actions: Actions
    ingested: Times

    @classmethod
    def read(cls, world: World, con: Connection, member_codes: pd.Index) -> "Log":
        """Read the log that an evaluation's labels are from."""
        config = world.config
        files = partition_files(config.layout.activity)
        con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
        query = sql("delayed_events", __file__)
        parameters = {"until": world.split.test_until, "actions": list(config.actions)}
        table = con.sql(query, params=parameters).to_arrow_table()
        members = member_codes.get_indexer(table["member_id"].to_pandas()).astype(np.int64)
        codes = pc.index_in(table["action"], value_set=pa.array(list(config.actions))).to_numpy()
        times = table["timestamp_us"].to_numpy()
        # Codes need not be in the order of the ids.
        order = np.lexsort((times, members))
        items = table["item_id"].to_numpy()
        carried = {
            name: pc.struct_field(table["attributes"].combine_chunks(), name)
            for name in config.rules.attributes
        }
        actions = Actions.of(config.rules, members, items, codes + 1, times, carried).take(order)
        return cls(actions, pc.fill_null(table["ingested_us"], int(NO_TIME)).to_numpy()[order])

    def before(self, members: NDArray[np.int64], until: Times) -> tuple[Rows, Rows]:
        """Pair each label with every action of its member known before a timestamp.

        Returns:
            As `events_before`.
        """
        labels, actions = events_before(self.actions.member, self.actions.timestamp, members, until)
        known = self.ingested[actions] < until[labels]
        return labels[known], actions[known]


def late(period: Period, delay: timedelta) -> Times:
    """Return the as_of of each label's row in a store with this delay."""
    return period.task.labels.times - delay // MICROSECOND


def as_written(log: Log, period: Period) -> Times:
    """Return when a stream without delay wrote each label's row: right after the last action.

    The label's own time if its member has no earlier action.
    """
    labels = period.task.labels
    as_of = labels.times.copy()
    rows, actions = log.before(labels.members, labels.times)
    # The last pair of each label has its last action.
    as_of[rows] = log.actions.timestamp[actions] + 1
    return as_of


def sequences_as_of(
    config: Config, log: Log, members: NDArray[np.int64], as_of: Times
) -> pa.RecordBatch:
    """Return each label's row of member_sequences as of its own timestamp.

    All timestamps in the rows are counted from the label's as_of, placed at the epoch. A member is
    known from its first action that was ingested within the window.

    Args:
        members: Codes, int64 [labels].
        as_of: Of each label's row; actions at or after it are not in the row.
    """
    batches = []
    for start in range(0, max(len(members), 1), BATCH):
        batch = slice(start, start + BATCH)
        labels, chosen = log.before(members[batch], as_of[batch])
        seen = log.actions.take(chosen)
        relative = seen.timestamp - as_of[batch][labels]
        last = np.full(len(members[batch]), NO_TIME)
        in_time = log.ingested[chosen] <= seen.timestamp + config.window // MICROSECOND
        last[labels[in_time]] = relative[in_time]
        states = replace(States.empty(config.rules, len(last)), last=last)
        seen = replace(seen, member=labels, timestamp=relative)
        folded = fold(config.rules, states, seen, 0).states
        ids = pa.array(np.arange(start, start + len(last)))
        batches.append(to_sequences(config.rules, ids, folded, 0, EPOCH))
    (rows,) = pa.Table.from_batches(batches).combine_chunks().to_batches() or batches[:1]
    return rows


def features_as_of(
    lines: Sequence[Aggregator],
    config: Config,
    items: ItemVersions,
    log: Log,
    period: Period,
    as_of: Times,
) -> list[RankerFeatures]:
    """Return each line's features for a period's labels, each label as of its own timestamp.

    An item's vector is the newest one available by that timestamp.

    Args:
        items: Every version of every item.
    """
    rows = sequences_as_of(config, log, period.task.labels.members, as_of)
    table = items.at(np.repeat(as_of, rows["n_actions"].to_numpy()))
    padded = pad(rows, table, config.rules, EPOCH)
    frame = pd.DataFrame({"event_timestamp": period.frame["event_timestamp"]})
    since = rows["last_action_at"].cast(pa.int64())
    last = pd.to_datetime(pc.fill_null(since, 0).to_numpy() + as_of, unit="us", utc=True)
    frame["last_action_at"] = pd.Series(last).where(since.is_valid().to_numpy(False))
    counts = {name: rows[name].to_numpy() for name in config.rules.count_columns}
    others = member_features(config, counts, frame)
    run = together([load(line, config) for line in lines], table, config.rules)
    return [
        RankerFeatures(stacked(list(fields.values()), config), others) for fields in run(padded)
    ]


def without_repeats(period: Period, data: EvaluationData, log: Log) -> Period:
    """Return the period without the items that a member acted on right before each label.

    The evaluation leaves out items from before the label's midnight. Here an item from a minute
    ago would stay a candidate, and the fresher a vector, the nearer to it: items that nobody would
    show again would count against fresh vectors.
    """
    labels, events = period.task.labels, data.events
    items = data.items.rows(pa.array(log.actions.item)).astype(np.int64) - 1
    rows, actions = log.before(labels.members, labels.times)
    with_vector = items[actions] >= 0
    rows, own = rows[with_vector], items[actions[with_vector]]
    acted_on = np.sort(rows * len(data.items) + own)
    drawn = period.task.random_items
    for seed in range(1, REDRAWS):
        pairs = np.arange(len(labels))[:, None] * len(data.items) + drawn
        repeated = np.isin(pairs, acted_on)
        if not repeated.any():
            break
        again = random_items(labels, events.items, events.times, seed)
        drawn = np.where(repeated, again, drawn)
    seen = padded_rows(rows, own, len(labels))
    return replace(period, task=replace(period.task, seen=seen, random_items=drawn))
