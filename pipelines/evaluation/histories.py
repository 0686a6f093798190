"""Labels with the features that they would have had: each member's row as of its own timestamp.

A store that is up to date holds, at a label's time, the sequence of what happened before; one with
a gap of 30 minutes holds what the other held 30 minutes earlier, and ages count from then. A daily
snapshot is the same rule as of a midnight.

Every label has its own as_of, but transformations/stream.py folds many members as of one
timestamp. So a label takes the role of a member, and its timestamps are counted from its as_of.
That changes neither their order nor what lies in the window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.embed import together
from models.evaluation.history import Rows, events_before
from models.item_versions import ItemVersions
from models.packaging import load
from models.sequences import Padded, pad
from models.spec import Aggregator
from pipelines.evaluation.labels import Floats, Period
from pipelines.evaluation.protocol import Times
from transformations import names
from transformations.config import Config
from transformations.duck import sql
from transformations.layout import partition_files
from transformations.stream import Actions, States, fold, to_sequences
from transformations.tables import activity_query
from transformations.timestamps import EPOCH, MICROSECOND, NO_TIME

BATCH = 2_048


@dataclass(frozen=True, eq=False)
class Log:
    """All actions by member, in the order of a sequence.

    Attributes:
        actions: `member` is the member's code, as in the labels.
        ingested: When each was known, int64 [actions]; NO_TIME where the source does not say.
    """

    actions: Actions
    ingested: Times

    @classmethod
    def read(
        cls, config: Config, con: Connection, until: datetime, member_codes: pd.Index
    ) -> "Log":
        """Read the actions of these members before a timestamp."""
        files = partition_files(config.layout.activity)
        con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
        parameters = {"until": until, "actions": list(config.actions)}
        table = con.sql(sql("log", __file__), params=parameters).to_arrow_table()
        members = member_codes.get_indexer(table["member_id"].to_pandas()).astype(np.int64)
        codes = pc.index_in(table["action"], value_set=pa.array(list(config.actions))).to_numpy()
        items = table["item_id"].to_numpy()
        carried = {
            name: pc.struct_field(table["attributes"].combine_chunks(), name)
            for name in config.rules.attributes
        }
        # Codes need not be in the order of the ids; within a member, the order stays.
        order = np.argsort(members, kind="stable")
        order = order[np.searchsorted(members[order], 0) :]
        times = table["timestamp_us"].to_numpy()
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
        timestamps = log.actions.timestamp[chosen]
        last = np.full(len(members[batch]), NO_TIME)
        in_time = log.ingested[chosen] <= timestamps + config.window // MICROSECOND
        last[labels[in_time]] = (timestamps - as_of[batch][labels])[in_time]
        # The fold keeps the last ones; what it would drop need not be sorted.
        ends = np.searchsorted(labels, labels, side="right")
        newest = np.arange(len(labels)) >= ends - config.length
        labels, seen = labels[newest], log.actions.take(chosen[newest])
        states = replace(States.empty(config.rules, len(last)), last=last)
        relative = seen.timestamp - as_of[batch][labels]
        seen = replace(seen, member=labels, timestamp=relative)
        folded = fold(config.rules, states, seen, 0).states
        ids = pa.array(np.arange(start, start + len(last)))
        batches.append(to_sequences(config.rules, ids, folded, 0, EPOCH))
    (rows,) = pa.Table.from_batches(batches).combine_chunks().to_batches() or batches[:1]
    return rows


@dataclass(frozen=True, eq=False)
class Histories:
    """What is known of each label's member as of the label's own timestamp.

    Attributes:
        rows: Of member_sequences, as `sequences_as_of` returns them.
        as_of: Int64 [labels].
        member_features: float32 [labels, n].
        history: n_actions, and last_action_at (null for none); one row per label.
    """

    rows: pa.RecordBatch
    as_of: Times
    member_features: Floats
    history: pd.DataFrame

    @classmethod
    def of(cls, config: Config, log: Log, period: Period, as_of: Times) -> "Histories":
        """Return those of a period's labels."""
        rows = sequences_as_of(config, log, period.task.labels.members, as_of)
        since = rows["last_action_at"].cast(pa.int64())
        last = pd.to_datetime(pc.fill_null(since, 0).to_numpy() + as_of, unit="us", utc=True)
        history = pd.DataFrame(
            {
                "n_actions": rows["n_actions"].to_numpy(),
                "last_action_at": pd.Series(last).where(since.is_valid().to_numpy(False)),
            }
        )
        counts = {name: rows[name].to_numpy() for name in config.rules.count_columns}
        times = period.frame["event_timestamp"]
        return cls(rows, as_of, member_features(config, counts, times, history), history)

    def padded(self, config: Config, versions: ItemVersions) -> Padded:
        """Return the sequences as arrays, each item with its newest vector of that time."""
        as_ofs = np.repeat(self.as_of, self.rows["n_actions"].to_numpy())
        return pad(self.rows, versions.at(as_ofs), config.rules, EPOCH)


@dataclass(eq=False)
class Embedder:
    """Packaged lines on the sequences of labels: float32 [labels, actions, dim].

    Attributes:
        config: Of the world, in the lines' item space.
        versions: Every version of every item of that space.
    """

    config: Config
    versions: ItemVersions
    _runs: dict[str, Callable[[Padded], Any]] = field(default_factory=dict)

    def vectors(self, line: Aggregator, padded: Padded) -> Floats:
        """Return a line's vectors, zeros for those that others have and it has not."""
        run = self._runs.get(str(line))
        if run is None:
            models = [load(line, self.config)]
            run = self._runs[str(line)] = together(models, self.versions, self.config.rules)
        return stacked(list(run(padded)[0].values()), self.config)


def stacked(fields: Sequence[Floats], config: Config) -> Floats:
    """Stack a variant's vectors, zeros for those it lacks: float32 [rows, actions, dim]."""
    vectors = np.zeros((len(fields[0]), len(config.actions), config.dim), np.float32)
    for index, values in enumerate(fields):
        vectors[:, index] = values
    return vectors


def member_features(
    config: Config,
    counts: dict[str, NDArray[Any]],
    times: pd.Series,
    history: pd.DataFrame,
) -> Floats:
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
    since = (times - history["last_action_at"]).dt.total_seconds() / 86_400
    days = since.fillna(2 * config.window.days).to_numpy()
    columns = [total == 0, *(np.log1p(counts[name]) / 2 for name in config.rules.count_columns)]
    columns += [(negative + 0.5) / (total + 3), np.log1p(days) / 3]
    return np.stack(columns, axis=1).astype(np.float32)
