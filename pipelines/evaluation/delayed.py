"""Labels with what a store that is late by some time would have held at each label's own time.

A store that is late by `delay` holds at a label's time what one without delay held `delay` before:
every member's row is the rule of a sequence as of `label time - delay`, from the events that were
known by then, and ages count from that moment. A daily snapshot is the same rule as of a midnight.

All labels have an as_of of their own. transformations/stream.py folds many members as of one
moment; so a label takes a member's place, and its moments are counted from its own as_of, which
changes neither their order nor what lies in the window.
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
from models.evaluation.ranker import SLOTS
from models.evaluation.scoring import random_items
from models.packaging import load
from models.sequences import pad
from models.spec import Aggregator
from pipelines.evaluation.features import Ground, Period, habits
from pipelines.evaluation.variants import Given
from pipelines.evaluation.world import World
from serving.request.item_table import ItemVersions
from transformations.config import Config
from transformations.duck import sql
from transformations.layout import partition_files
from transformations.stream import EPOCH, MICROSECOND, NEVER, Actions, States, fold, to_sequences
from transformations.tables import activity_query

Moments = NDArray[np.int64]
"""Microseconds since 1970, one a label."""
LABELS_AT_ONCE = 2_048
REDRAWS = 20


@dataclass(frozen=True, eq=False)
class Log:
    """Every action that there was, member after member, oldest first.

    Attributes:
        actions: `member` is the member's code, as in the labels.
        ingested: When each one was known, int64 [actions]; NEVER where the source does not say.
    """

    actions: Actions
    ingested: NDArray[np.int64]

    @classmethod
    def read(cls, world: World, con: Connection, index: pd.Index) -> "Log":
        """Read the log that an evaluation's labels are from; `index` gives the members' codes."""
        config = world.config
        files = partition_files(config.layout.activity)
        con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
        query = sql("delayed_events", __file__)
        parameters = {"until": world.split.test_until, "actions": list(config.actions)}
        table = con.sql(query, params=parameters).to_arrow_table()
        members = index.get_indexer(table["member_id"].to_pandas()).astype(np.int64)
        codes = pc.index_in(table["action"], value_set=pa.array(list(config.actions))).to_numpy()
        moments = table["moment"].to_numpy()
        # Codes need not be in the order of the ids.
        order = np.lexsort((moments, members))
        items = table["item_id"].to_numpy()
        actions = Actions.of(config.rules, members, items, codes + 1, moments).take(order)
        return cls(actions, pc.fill_null(table["ingested"], int(NEVER)).to_numpy()[order])

    def before(
        self, members: NDArray[np.int64], moments: Moments
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return every pair of a label and an action that was known of its member by a moment.

        Returns:
            The labels' places, ascending, and the actions' places, ascending for each label.
        """
        times = self.actions.moment
        starts = np.searchsorted(self.actions.member, members, side="left")
        after = np.searchsorted(self.actions.member, members, side="right")
        counts = np.array(
            [
                np.searchsorted(times[start:end], moment, side="left")
                for start, end, moment in zip(starts, after, moments, strict=True)
            ],
            np.int64,
        )
        labels = np.repeat(np.arange(len(members)), counts)
        within = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(starts, counts) + within
        known = self.ingested[places] < moments[labels]
        return labels[known], places[known]


def late(period: Period, delay: timedelta) -> Moments:
    """Return the moment that each label's row is of, in a store that is late by `delay`."""
    return period.task.labels.times - delay // MICROSECOND


def as_written(log: Log, period: Period) -> Moments:
    """Return when a stream without delay wrote each label's row: right after the last action.

    The label's own time where its member has no action before.
    """
    labels = period.task.labels
    moments = labels.times.copy()
    rows, places = log.before(labels.members, labels.times)
    # The last action of each label is the last pair that names it.
    moments[rows] = log.actions.moment[places] + 1
    return moments


def sequences_as_of(
    config: Config, log: Log, members: NDArray[np.int64], as_of: Moments
) -> pa.RecordBatch:
    """Return the row of member_sequences that each label has as of its own moment.

    All moments in the rows are counted from the label's as_of, which stands at the epoch. A member
    is known from the first action on that was in its window when it was known.

    Args:
        members: Codes, int64 [labels].
        as_of: What each label's row is of; an action at or after it is not seen.
    """
    batches = []
    for start in range(0, max(len(members), 1), LABELS_AT_ONCE):
        some = slice(start, start + LABELS_AT_ONCE)
        labels, places = log.before(members[some], as_of[some])
        seen = log.actions.take(places)
        moments = seen.moment - as_of[some][labels]
        seen = Actions(labels, seen.item, seen.code, moments)
        last = np.full(len(members[some]), NEVER)
        met = log.ingested[places] <= seen.moment + as_of[some][labels] + (
            config.window // MICROSECOND
        )
        last[labels[met]] = moments[met]
        states = replace(States.empty(config.rules, len(last)), last=last)
        folded = fold(config.rules, states, seen, 0).states
        ids = pa.array(np.arange(start, start + len(last)))
        batches.append(to_sequences(config.rules, ids, folded, 0, EPOCH))
    (rows,) = pa.Table.from_batches(batches).combine_chunks().to_batches() or batches[:1]
    return rows


def given_as_of(
    lines: Sequence[Aggregator],
    config: Config,
    items: ItemVersions,
    log: Log,
    period: Period,
    as_of: Moments,
) -> list[Given]:
    """Return what each line gives a ranker for a period's labels as of a moment each.

    An item's vector is the newest that was available by that moment.

    Args:
        items: Every version of every item.
    """
    rows = sequences_as_of(config, log, period.task.labels.members, as_of)
    moments = np.repeat(as_of, rows["n_actions"].to_numpy())
    table = items.at(moments)
    padded = pad(rows, table, config.rules, EPOCH)
    frame = pd.DataFrame({"event_timestamp": period.frame["event_timestamp"]})
    since = rows["last_action_at"].cast(pa.int64())
    last = pd.to_datetime(pc.fill_null(since, 0).to_numpy() + as_of, unit="us", utc=True)
    frame["last_action_at"] = pd.Series(last).where(since.is_valid().to_numpy(False))
    counts = {name: rows[name].to_numpy() for name in config.rules.count_columns}
    told = habits(config, counts, frame)
    run = together([load(line, config) for line in lines], table, config.rules)
    found = []
    for fields in run(padded):
        vectors = np.zeros((len(told), SLOTS, config.dim), np.float32)
        for slot, field in enumerate(fields.values()):
            vectors[:, slot] = field
        found.append(Given(vectors, told))
    return found


def without_repeats(period: Period, ground: Ground, log: Log) -> Period:
    """Return the period ranked among what a member had not acted on right before the label.

    The evaluation leaves out what lies before the label's midnight. Here an item of a minute ago
    would be left in, and the fresher a vector is, the nearer to it: what nobody would be shown
    again would count against the fresh.
    """
    labels, events = period.task.labels, ground.events
    columns = ground.items.rows(pa.array(log.actions.item)).astype(np.int64) - 1
    rows, places = log.before(labels.members, labels.times)
    with_vector = columns[places] >= 0
    rows, own = rows[with_vector], columns[places[with_vector]]
    counts = np.bincount(rows, minlength=len(labels))
    seen = np.full((len(labels), max(int(counts.max(initial=0)), 1)), -1, np.int32)
    seen[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = own
    done = np.sort(rows * len(ground.items) + own)
    drawn = period.task.random_items
    for seed in range(1, REDRAWS):
        asked = np.arange(len(labels))[:, None] * len(ground.items) + drawn
        repeated = np.isin(asked, done)
        if not repeated.any():
            break
        again = random_items(labels, events.items, events.times, seed)
        drawn = np.where(repeated, again, drawn)
    return replace(period, task=replace(period.task, seen=seen, random_items=drawn))
