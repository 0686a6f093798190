"""The rule of sql/packed_sequences.sql for many as_ofs, over actions that were put in order once.

The two are held equal by tests/transformations/test_many_snapshots.py.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transformations.rules import Rules
from transformations.timestamps import MICROSECOND, microseconds

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Snapshot:
    """One snapshot to build.

    Attributes:
        as_of: Its timestamp; events at or after it, or ingested so, are not seen.
        previous_as_of: The snapshot whose members get a row in this one even if they lapsed.
        created_timestamp: When its rows can be read online.
    """

    as_of: datetime
    previous_as_of: datetime
    created_timestamp: datetime

    def __post_init__(self) -> None:
        if self.previous_as_of >= self.as_of:
            raise ValueError(
                f"expected a previous_as_of before {self.as_of}, got {self.previous_as_of}"
            )


class LastActions:
    """The actions of some members, and the rows of member_sequences that snapshots have of them.

    Every member has a range of positions in the window, which moves on from one as_of to the next:
    a snapshot costs what it holds, however many actions and snapshots there are beside it.
    """

    def __init__(self, ordered: pa.Table, rules: Rules) -> None:
        """Take actions as sql/ordered_actions.sql gives them, with the action names sorted."""
        self._rules, self._window = rules, rules.window // MICROSECOND
        self._schema, self._action_names = sequences_schema(rules), sorted(rules.actions)
        runs = pc.run_end_encode(ordered["member_id"].combine_chunks(), run_end_type=pa.int32())
        self._member_ids = runs.values
        ends = runs.run_ends.to_numpy()
        starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1]])[: len(ends)]
        self._member = np.arange(len(ends), dtype=np.int32).repeat(ends - starts)
        self._items = ordered["item_id"].combine_chunks()
        self._actions = ordered["action_place"].to_numpy()
        self._timestamps = _integers(ordered["event_timestamp"])
        self._known_at = _integers(ordered["known_at"])
        # How many of each action lie before a position.
        is_action = [self._actions == place for place in range(len(self._action_names))]
        self._n_before = [np.concatenate([[0], mask.cumsum(dtype=np.int32)]) for mask in is_action]
        # The same actions in the order of time, where those of a window lie together.
        self._by_time = np.argsort(self._timestamps)
        self._timestamps_by_time = self._timestamps[self._by_time]
        self._known_at_by_time = self._known_at[self._by_time]
        # Each member's actions in the window: positions from `first` up to `end`.
        self._first, self._end = starts.astype(np.int64), starts.astype(np.int64)
        self._left = self._entered = 0

    def rows(self, snapshot: Snapshot) -> tuple[pa.RecordBatch, int]:
        """Return a snapshot's rows in the order of member_id, and how many actions it sees.

        The snapshots come in the order of their as_of.
        """
        as_of = microseconds(snapshot.as_of)
        self._move(as_of)
        positions, lengths, late, n_visible = self._chosen(as_of)
        last_action_at = np.zeros(len(lengths), np.int64)
        lapsed = self._lapsed(snapshot, lengths, last_action_at)
        ends = lengths.cumsum()
        acted = lengths > 0
        last_action_at[acted] = self._timestamps[positions[ends[acted] - 1]]

        shown = np.flatnonzero(acted | lapsed)
        offsets = pa.array(np.concatenate([[0], ends[shown]]).astype(np.int32))
        columns = [
            self._member_ids.take(pa.array(shown)),
            _repeated(snapshot.as_of, len(shown)),
            _repeated(snapshot.created_timestamp, len(shown)),
            _lists(offsets, self._items_at(positions)),
            _lists(offsets, self._names(positions)),
            _lists(offsets, _timestamps(self._timestamps.take(positions))),
            pa.array(lengths[shown]),
            *(pa.array(n[shown]) for n in self._counts(positions, lengths, late)),
            _timestamps(last_action_at[shown]),
        ]
        return pa.record_batch(columns, schema=self._schema), n_visible

    def _move(self, as_of: int) -> None:
        """Let actions enter the window up to as_of, and leave it up to its start."""
        left, entered = np.searchsorted(self._timestamps_by_time, [as_of - self._window, as_of])
        members = len(self._end)
        for edge, start, stop in (
            (self._first, self._left, left),
            (self._end, self._entered, entered),
        ):
            edge += np.bincount(self._member[self._by_time[start:stop]], minlength=members)
        self._left, self._entered = int(left), int(entered)

    def _chosen(
        self, as_of: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], int]:
        """Return the positions of the last visible actions in the window.

        Returns:
            The positions, member after member [chosen]; how many each has [members]; the members
            with an action in the window that is not visible yet; how many actions are visible in
            the window, also those beyond `length`.
        """
        length, n_in_window = self._rules.length, self._end - self._first
        lengths = np.minimum(n_in_window, length)
        window = slice(self._left, self._entered)
        late = self._by_time[window][self._known_at_by_time[window] >= as_of]
        # Of members with late actions, that many more hold `length` visible ones, if there are any.
        members, n_late = np.unique(self._member[late], return_counts=True)
        taken = np.minimum(n_in_window[members], length + n_late)
        visible = _ranges(self._end[members] - taken, taken)
        is_visible = self._known_at[visible] < as_of
        visible = visible[is_visible]
        n_visible = np.bincount(
            np.arange(len(members)).repeat(taken)[is_visible], minlength=len(members)
        )
        lengths[members] = np.minimum(n_visible, length)

        positions = _ranges(self._end - lengths, lengths)
        places = _ranges((lengths.cumsum() - lengths)[members], lengths[members])
        positions[places] = visible[
            _ranges(n_visible.cumsum() - lengths[members], lengths[members])
        ]
        return positions, lengths, members, int(n_in_window.sum() - late.size)

    def _lapsed(
        self, snapshot: Snapshot, lengths: NDArray[np.int64], last_action_at: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return whose last action has left the window since the previous snapshot [members].

        Their last action's time goes into `last_action_at`.
        """
        as_of, previous = microseconds(snapshot.as_of), microseconds(snapshot.previous_as_of)
        edges = [previous - self._window, as_of - self._window]
        gone = slice(*np.searchsorted(self._timestamps_by_time, edges))
        # Sorted, a member's newest comes last and is the one that stays.
        before = np.sort(self._by_time[gone][self._known_at_by_time[gone] < as_of])
        members = self._member[before]
        last_action_at[members] = self._timestamps[before]
        lapsed = np.zeros(len(lengths), bool)
        lapsed[members[self._known_at[before] < previous]] = True
        return lapsed & (lengths == 0)

    def _counts(
        self, positions: NDArray[np.int64], lengths: NDArray[np.int64], late: NDArray[np.int32]
    ) -> list[NDArray[np.int64]]:
        """Return how often each member has each configured action: arrays [members].

        Only the members with `late` actions have others in between than those of the window.
        """
        places = _ranges((lengths.cumsum() - lengths)[late], lengths[late])
        of_late = self._actions[positions[places]]
        member = np.arange(len(late)).repeat(lengths[late])
        counted = []
        for name in self._rules.actions:
            place = self._action_names.index(name)
            before = self._n_before[place]
            counts = before[self._end] - before[self._end - lengths]
            counts[late] = np.bincount(member[of_late == place], minlength=len(late))
            counted.append(counts)
        return counted

    def _items_at(self, positions: NDArray[np.int64]) -> pa.Array:
        if self._rules.item_id_type == "int64":  # NumPy takes numbers in a third of Arrow's time
            return pa.array(self._items.to_numpy().take(positions))
        return self._items.take(pa.array(positions))

    def _names(self, positions: NDArray[np.int64]) -> pa.DictionaryArray:
        codes = pa.array(self._actions.take(positions))
        return pa.DictionaryArray.from_arrays(codes, self._action_names)


def sequences_schema(rules: Rules) -> pa.Schema:
    """Return the columns of member_sequences; actions are indexes into their names."""
    ids = {"int64": pa.int64(), "string": pa.string()}
    member_ids, item_ids = ids[rules.member_id_type], ids[rules.item_id_type]
    return pa.schema(
        [
            pa.field("member_id", member_ids, nullable=False),
            pa.field("event_timestamp", TIMESTAMP, nullable=False),
            pa.field("created_timestamp", TIMESTAMP, nullable=False),
            pa.field("item_ids", pa.list_(item_ids)),
            pa.field("actions", pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            pa.field("event_timestamps", pa.list_(TIMESTAMP)),
            *(pa.field(name, pa.int64()) for name in rules.count_columns),
            pa.field("last_action_at", TIMESTAMP, nullable=False),
        ]
    )


def sequences_writer(file: Path, rules: Rules) -> pq.ParquetWriter:
    """Open a file for rows of member_sequences, encoded as `transformations.duck.copy` does it."""
    schema = sequences_schema(rules)
    varied = {"event_timestamps.list.element", "last_action_at"}
    for column, kind in (
        ("member_id", rules.member_id_type),
        ("item_ids.list.element", rules.item_id_type),
    ):
        if kind == "int64":
            varied.add(column)
    columns = {f.name if not pa.types.is_list(f.type) else f"{f.name}.list.element" for f in schema}
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        data_page_version="2.0",
        use_dictionary=sorted(columns - varied),
        column_encoding=dict.fromkeys(varied, "DELTA_BINARY_PACKED"),
        write_statistics=[field.name for field in schema if not pa.types.is_list(field.type)],
        store_schema=False,  # readers shall see text, whatever it was written from
    )


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of every range, one range after the other.

    >>> _ranges(np.array([7, 20]), np.array([3, 2]))
    array([ 7,  8,  9, 20, 21])
    """
    some = lengths > 0
    starts, lengths = starts[some], lengths[some]
    steps = np.ones(int(lengths.sum()), np.int64)
    if steps.size:  # NumPy adds up faster than it repeats
        steps[0] = starts[0]
        steps[lengths.cumsum()[:-1]] = starts[1:] - (starts + lengths)[:-1] + 1
    return steps.cumsum()


def _integers(timestamps: pa.ChunkedArray) -> NDArray[np.int64]:
    return timestamps.combine_chunks().view(pa.int64()).to_numpy()


def _timestamps(integers: NDArray[np.int64]) -> pa.Array:
    return pa.array(integers).view(TIMESTAMP)


def _repeated(timestamp: datetime, rows: int) -> pa.Array:
    return _timestamps(np.full(rows, microseconds(timestamp)))


def _lists(offsets: pa.Array, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets, values)
