"""The rule of a sequence for one as_of or many, over actions that were put in order once.

Of whole snapshots, or of some members, each as of its own timestamps. Both are held equal to the
SQL: by test_many_snapshots.py and test_rows_read.py in tests/transformations/.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transformations.attributes import ARROW_TYPES
from transformations.member_columns import UTC_US, MemberRows, member_columns
from transformations.rules import MISSING, Attribute, Rules
from transformations.stream import Actions
from transformations.timestamps import MICROSECOND, microseconds

Integers = NDArray[np.int64]


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


@dataclass(frozen=True)
class Series:
    """Snapshots at equal distances.

    Attributes:
        first: The first as_of.
        step: Between two of them. A microsecond: a store that is always up to date, in which every
            timestamp is an as_of.
        publish_delay: From a snapshot's as_of until it can be read.
    """

    first: datetime
    step: timedelta
    publish_delay: timedelta

    def newest(self, timestamps: Integers) -> Integers:
        """Return the newest as_of at or before each timestamp, as if there were no first one.

        A snapshot every second from the fifth on:

        >>> from transformations.timestamps import EPOCH
        >>> second = timedelta(seconds=1)
        >>> series = Series(EPOCH + 5 * second, second, 0 * second)
        >>> series.newest(np.array([1_500_000, 5_000_000, 6_999_999]))
        array([1000000, 5000000, 6000000])

        Args:
            timestamps: Microseconds since 1970.
        """
        first, step = microseconds(self.first), self.step // MICROSECOND
        return first + (timestamps - first) // step * step

    def snapshots(self, until: datetime) -> list[Snapshot]:
        """Return the snapshots before a timestamp, oldest first."""
        number = -((self.first - until) // self.step)
        as_ofs = [self.first + index * self.step for index in range(number)]
        return [Snapshot(at, at - self.step, at + self.publish_delay) for at in as_ofs]


@dataclass(frozen=True)
class _Reach:
    """The actions that some rows may hold.

    Attributes:
        first: Position of each row's first action in the window [rows].
        end: The position after its last one [rows].
        late: For each action in a window that is not visible yet: its row.
        left: Positions of the visible actions that have left a window since the previous as_of,
            ascending within each row.
        left_rows: The row of each of them.
    """

    first: Integers
    end: Integers
    late: NDArray[np.integer]
    left: Integers
    left_rows: NDArray[np.integer]


class LastActions:
    """The actions of some members, and the rows of member_sequences that they have.

    For snapshots, every member has a range of positions in the window, which moves on from one
    as_of to the next: a snapshot costs what it holds, however many actions and snapshots there are
    beside it. For single rows the ranges are looked up.

    Attributes:
        member_ids: Each member once, ascending.
    """

    def __init__(self, ordered: pa.Table, rules: Rules) -> None:
        """Take actions as sql/ordered_actions.sql gives them, with the action names sorted."""
        self._rules, self._window = rules, rules.window // MICROSECOND
        self._schema, self._action_names = sequences_schema(rules), sorted(rules.actions)
        runs = pc.run_end_encode(ordered["member_id"].combine_chunks(), run_end_type=pa.int32())
        self.member_ids = runs.values
        ends = runs.run_ends.to_numpy().astype(np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        self._member = np.arange(len(ends), dtype=np.int32).repeat(ends - self._starts)
        self._items = ordered["item_id"].combine_chunks()
        self._actions = ordered["action_place"].to_numpy()
        self._timestamps = _integers(ordered["event_timestamp"])
        self._known_at = _integers(ordered["known_at"])
        self._attributes = {
            name: _carried(attribute, pc.struct_field(ordered["attributes"], name))
            for name, attribute in rules.attributes.items()
        }
        # How many of each action lie before a position.
        is_action = [self._actions == place for place in range(len(self._action_names))]
        self._n_before = [np.concatenate([[0], mask.cumsum(dtype=np.int32)]) for mask in is_action]
        # The same actions in the order of time, where those of a window lie together.
        self._by_time = np.argsort(self._timestamps)
        self._timestamps_by_time = self._timestamps[self._by_time]
        self._known_at_by_time = self._known_at[self._by_time]
        # Each member's actions in the window of the last snapshot, and the edges of that window.
        self._first, self._end = self._starts.copy(), self._starts.copy()
        self._left = self._entered = 0

    def rows(self, snapshot: Snapshot) -> tuple[pa.RecordBatch, int]:
        """Return a snapshot's rows in the order of member_id, and how many actions it sees.

        The snapshots come in the order of their as_of.
        """
        as_of, previous = microseconds(snapshot.as_of), microseconds(snapshot.previous_as_of)
        self._move(as_of)
        window = slice(self._left, self._entered)
        late = self._by_time[window][self._known_at_by_time[window] >= as_of]
        edges = [previous - self._window, as_of - self._window]
        gone = slice(*np.searchsorted(self._timestamps_by_time, edges))
        left = np.sort(self._by_time[gone][self._known_at_by_time[gone] < as_of])
        reach = _Reach(self._first, self._end, self._member[late], left, self._member[left])
        members = np.arange(len(self.member_ids))
        times = (as_of, previous, microseconds(snapshot.created_timestamp))
        rows = self._built(members, reach, *(np.full(len(members), time) for time in times))
        return rows, int((self._end - self._first).sum() - late.size)

    def rows_at(self, members: Integers, as_ofs: Integers, series: Series) -> pa.RecordBatch:
        """Return the rows that a series' snapshots have of single members, in this order.

        There is none of a member without a visible action in the window and in that of the
        snapshot before.

        Args:
            members: Their positions in `member_ids` [rows].
            as_ofs: Of each row, one of the series; microseconds since 1970 [rows].
        """
        previous = as_ofs - series.step // MICROSECOND
        created = as_ofs + series.publish_delay // MICROSECOND
        reach = self._looked_up(members, as_ofs, previous)
        return self._built(members, reach, as_ofs, previous, created)

    def newest_rows(self, members: Integers, as_ofs: Integers, series: Series) -> Integers:
        """Return the as_of of each member's newest row in a series' snapshots up to an as_of.

        It is that as_of while an action of the member is visible in the window. Later it is the
        first snapshot without one. If there is no such row, it is before the first snapshot.

        Args:
            members: Their positions in `member_ids` [n].
            as_ofs: Each one of the series; microseconds since 1970 [n].

        Returns:
            Microseconds since 1970 [n].
        """
        reach = self._looked_up(members, as_ofs, as_ofs)
        acted = reach.end - reach.first > np.bincount(reach.late, minlength=len(members))
        # The last snapshot whose window an action lies in; it was visible if it was known by then.
        last_in = series.newest(self._timestamps + self._window)
        visible = np.flatnonzero(last_in > self._known_at)
        index = np.searchsorted(visible, reach.first)
        # In front stands a position before that of any member: none.
        newest = np.concatenate([[-1], visible])[index]
        lapsed = np.append(last_in, 0)[newest] + series.step // MICROSECOND
        never = microseconds(series.first) - 1
        lapsed = np.where(newest >= self._starts[members], lapsed, never)
        return np.where(acted, as_ofs, lapsed)

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

    def _looked_up(self, members: Integers, as_ofs: Integers, previous: Integers) -> _Reach:
        """Look up what the rows of single members may hold."""
        first = self._position(members, as_ofs - self._window)
        end = self._position(members, as_ofs)
        # Whatever is not visible yet happened at most the longest delay ago.
        delay = int((self._known_at - self._timestamps).max(initial=0))
        young = np.maximum(first, self._position(members, as_ofs - delay))
        late = self._known_at[_ranges(young, end - young)]
        late_rows = np.arange(len(members)).repeat(end - young)
        left_from = np.minimum(first, self._position(members, previous - self._window))
        left = _ranges(left_from, first - left_from)
        left_rows = np.arange(len(members)).repeat(first - left_from)
        seen = self._known_at[left] < as_ofs[left_rows]
        return _Reach(first, end, late_rows[late >= as_ofs[late_rows]], left[seen], left_rows[seen])

    def _position(self, members: Integers, timestamps: Integers) -> Integers:
        """Return the position of each member's first action at or after a timestamp."""
        ranks = np.searchsorted(self._timestamps_by_time, timestamps)
        return np.searchsorted(self._keys, members * (len(self._timestamps) + 1) + ranks)

    @cached_property
    def _keys(self) -> Integers:
        """Member and timestamp as one number in the same order; a timestamp as its rank."""
        ranks = np.searchsorted(self._timestamps_by_time, self._timestamps)
        return self._member.astype(np.int64) * (len(self._timestamps) + 1) + ranks

    def _built(
        self,
        members: Integers,
        reach: _Reach,
        as_ofs: Integers,
        previous: Integers,
        created: Integers,
    ) -> pa.RecordBatch:
        """Return the rows of those members that have one; every argument is [rows]."""
        positions, lengths, late = self._chosen(reach, as_ofs)
        ends, acted = lengths.cumsum(), lengths > 0
        last_action_at = np.zeros(len(lengths), np.int64)
        # They ascend, so a row's newest one stays.
        last_action_at[reach.left_rows] = self._timestamps[reach.left]
        last_action_at[acted] = self._timestamps[positions[ends[acted] - 1]]
        was_there = self._known_at[reach.left] < previous[reach.left_rows]
        lapsed = np.zeros(len(lengths), bool)
        lapsed[reach.left_rows[was_there]] = True

        shown = np.flatnonzero(acted | lapsed)
        offsets = pa.array(np.concatenate([[0], ends[shown]]).astype(np.int32))
        as_ofs, last_action_at = as_ofs[shown], last_action_at[shown]
        counts = [n[shown] for n in self._counts(positions, lengths, reach.end, late)]
        of_rows = MemberRows(
            lengths[shown],
            counts,
            as_ofs,
            last_action_at,
            lambda: self._flat(positions, lengths[shown]),
        )
        taken = pa.array(positions)
        columns = [
            self.member_ids.take(pa.array(members[shown])),
            _timestamps(as_ofs),
            _timestamps(created[shown]),
            _lists(offsets, self._items_at(positions)),
            _lists(offsets, self._names(positions)),
            _lists(offsets, _timestamps(self._timestamps.take(positions))),
            *(_lists(offsets, values.take(taken)) for values in self._attributes.values()),
            *(column.array(of_rows) for column in member_columns(self._rules)),
        ]
        return pa.record_batch(columns, schema=self._schema)

    def _chosen(self, reach: _Reach, as_ofs: Integers) -> tuple[Integers, Integers, Integers]:
        """Return the positions of the last visible actions in the window.

        Returns:
            The positions, row after row [chosen]; how many each has [rows]; the rows with an action
            in the window that is not visible yet.
        """
        length, n_in_window = self._rules.length, reach.end - reach.first
        lengths = np.minimum(n_in_window, length)
        # Of rows with late actions, that many more hold `length` visible ones, if there are any.
        rows, n_late = np.unique(reach.late, return_counts=True)
        taken = np.minimum(n_in_window[rows], length + n_late)
        visible = _ranges(reach.end[rows] - taken, taken)
        of_row = np.arange(len(rows)).repeat(taken)
        is_visible = self._known_at[visible] < as_ofs[rows][of_row]
        visible = visible[is_visible]
        n_visible = np.bincount(of_row[is_visible], minlength=len(rows))
        lengths[rows] = np.minimum(n_visible, length)

        positions = _ranges(reach.end - lengths, lengths)
        places = _ranges((lengths.cumsum() - lengths)[rows], lengths[rows])
        positions[places] = visible[_ranges(n_visible.cumsum() - lengths[rows], lengths[rows])]
        return positions, lengths, rows

    def _counts(
        self, positions: Integers, lengths: Integers, end: Integers, late: Integers
    ) -> list[Integers]:
        """Return how often each row has each configured action: arrays [rows].

        Only the rows with `late` actions have others in between than those of the window.
        """
        places = _ranges((lengths.cumsum() - lengths)[late], lengths[late])
        of_late = self._actions[positions[places]]
        row = np.arange(len(late)).repeat(lengths[late])
        counted = []
        for name in self._rules.actions:
            place = self._action_names.index(name)
            before = self._n_before[place]
            counts = before[end] - before[end - lengths]
            counts[late] = np.bincount(row[of_late == place], minlength=len(late))
            counted.append(counts)
        return counted

    def _flat(self, positions: Integers, lengths: Integers) -> Actions:
        """Return the actions at these positions; each row has that many of them."""
        codes = np.array([self._rules.action_code(name) for name in self._action_names], np.int64)
        return Actions.of(
            self._rules,
            np.arange(len(lengths)).repeat(lengths),
            self._items_at(positions).to_numpy(zero_copy_only=False),
            codes[self._actions[positions]],
            self._timestamps[positions],
            {name: values.take(pa.array(positions)) for name, values in self._attributes.items()},
        )

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
            pa.field("event_timestamp", UTC_US, nullable=False),
            pa.field("created_timestamp", UTC_US, nullable=False),
            pa.field("item_ids", pa.list_(item_ids)),
            pa.field("actions", pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            pa.field("event_timestamps", pa.list_(UTC_US)),
            *(
                pa.field(name, pa.list_(ARROW_TYPES[attribute.kind]))
                for name, attribute in rules.attributes.items()
            ),
            *(column.field for column in member_columns(rules)),
        ]
    )


def sequences_writer(file: Path, rules: Rules) -> pq.ParquetWriter:
    """Open a file for rows of member_sequences, encoded as `transformations.duck.copy` does it."""
    schema = sequences_schema(rules)
    varied = {"event_timestamps.list.element"}
    varied |= {column.name for column in member_columns(rules) if column.kind == "timestamp"}
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
        write_page_checksum=True,
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


def _carried(attribute: Attribute, values: pa.ChunkedArray) -> pa.Array:
    """Return an attribute's values as they stand in lists: NaN or MISSING where missing.

    Arrow moves texts in a fraction of NumPy's time for objects.
    """
    kind = ARROW_TYPES[attribute.kind]
    nothing = pa.scalar(float("nan") if attribute.kind == "number" else MISSING, kind)
    return pc.fill_null(values.combine_chunks().cast(kind), nothing)


def _integers(timestamps: pa.ChunkedArray) -> NDArray[np.int64]:
    return timestamps.combine_chunks().view(pa.int64()).to_numpy()


def _timestamps(integers: NDArray[np.int64]) -> pa.Array:
    return pa.array(integers).view(UTC_US)


def _lists(offsets: pa.Array, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets, values)
