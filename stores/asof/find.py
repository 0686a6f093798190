"""Find the row that each label sees: first by the newest event time, then by an ASOF join.

Feature tables are often snapshots, in which many rows share an event time. `find` looks up the
newest event time that a label can see without reading any key. If the label's key has a row at
that time, the label sees this row, because no row is newer. This takes a hash join, no sort, and no
row from before the first label's time. The other labels (a member left out of that snapshot, say)
go through the ASOF join, and so do all labels of a source that is not a series of snapshots.

Relations of a join, for view number n; the last two are Arrow tables that live for one look-up:

    name        grain: columns                         made by             read by
    labels      label: the entity frame, ROW           AsofLabels.load     all below
    file_<n>    source file: filename, number: its     files_sql           narrow_sql, read_sql
                first row's position; its folders
    narrow_<n>  useful row: keys, times, position      narrow_sql          event_times_sql,
                                                                           at_event_time_sql,
                                                                           asof_sql
    pick_<n>    label that sees a row: its position,   _look_up, asof_sql  left_sql, Fetch,
                and its age at the label's time                            measure
    left_<n>    label not in pick_<n>: as in labels    left_sql            narrow_sql, asof_sql
    asked       label: keys, label_time, event_time    _at_event_times     at_event_time_sql
    picked      label that sees a row: its position    at_event_time_sql   _look_up

A row's position is its index in all files of the view together, in the order of their names. A
picked position is null where the row has expired.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stores.asof.labels import ROW, AsofLabels
from stores.asof.query import (
    FEW_LABELS,
    AsofView,
    LabelRange,
    ages_sql,
    asof_sql,
    at_event_time_sql,
    event_times_sql,
    files_sql,
    left_sql,
    narrow_sql,
)
from stores.asof.session import memory_limit

# A source with at least that many rows per event time counts as a series of snapshots.
ROWS_PER_EVENT_TIME = 100
MOST_EVENT_TIMES = 100_000
# The labels of one look-up take at most this share of memory_limit.
LOOK_UP_SHARE = 0.1
LOOK_UP_BYTES = 200
UTC_US = pa.timestamp("us", "UTC")


def first_positions(files: Mapping[str, int]) -> dict[str, int]:
    """Return the position of each file's first row; `files` maps each file to its rows."""
    ends = np.cumsum([0, *files.values()]).tolist()
    return dict(zip(files, ends, strict=False))


def find(
    con: duckdb.DuckDBPyConnection,
    view: AsofView,
    number: int,
    files: Mapping[str, int],
    labels: AsofLabels,
    span: LabelRange,
    known_at: bool,
) -> None:
    """Create `file_<number>` and `pick_<number>`; `files` maps the view's files to their rows."""
    con.execute(files_sql(number, view.scan.files_sql(con, first_positions(files))))
    cutoff = known_at and view.created_time is not None
    few = FEW_LABELS * sum(files.values())
    only = "labels" if view.keys and span.count < few else None
    since = _since(con, view, files, span, cutoff) if view.keys else None
    con.execute(narrow_sql(view, number, list(files), span, cutoff, since, only))
    found = _at_event_times(con, view, number, files, labels, span, cutoff) if view.keys else 0
    if found < span.count:
        con.execute(left_sql(number))
        if since is not None:
            only = f"left_{number}" if span.count - found < few else None
            con.execute(narrow_sql(view, number, list(files), span, cutoff, None, only))
        con.execute(asof_sql(view, number, labels, cutoff, f"left_{number}"))
        con.execute(f"drop table left_{number}")
    con.execute(f"drop table narrow_{number}")


def _since(
    con: duckdb.DuckDBPyConnection,
    view: AsofView,
    files: Mapping[str, int],
    span: LabelRange,
    cutoff: bool,
) -> datetime | None:
    """Return the newest event time, by the footers, of which every label can see a row."""
    times = {view.event_time, view.created_time}
    if len(files) < 2 or span.first is None or times & {*view.scan.folders}:
        return None
    ages = con.execute(ages_sql(view, list(files), cutoff)).fetchall()
    seen = [first for first, last, seen, told in ages if told and max(last, seen) <= span.first]
    return max(seen, default=None)


def _at_event_times(
    con: duckdb.DuckDBPyConnection,
    view: AsofView,
    number: int,
    files: Mapping[str, int],
    labels: AsofLabels,
    span: LabelRange,
    cutoff: bool,
) -> int:
    """Insert into `pick_<number>` the labels with a row at the newest event time they can see."""
    most = min(MOST_EVENT_TIMES, int(sum(files.values()) / ROWS_PER_EVENT_TIME))
    event_times = _event_times(con, number, most)
    if event_times is None:
        return 0
    event_us, seen_us = event_times
    key_names = [f"key_{index}" for index in range(len(view.keys))]
    keys = ", ".join(
        f"{column} as {key}" for key, column in zip(key_names, view.keys.values(), strict=True)
    )
    step = max(1, int(memory_limit(con) * LOOK_UP_SHARE / LOOK_UP_BYTES))
    found = 0
    for first in range(0, span.count, step):
        some = con.sql(
            f"select {ROW} as label_row, {keys}, "
            f"epoch_us({labels.time}) as label_us "
            f"from labels where {ROW} >= {first} and {ROW} < {first + step}"
        ).to_arrow_table()
        label_us = some["label_us"].combine_chunks()
        known = label_us.is_valid().to_numpy(zero_copy_only=False)
        times = label_us.fill_null(0).to_numpy()
        newest = np.searchsorted(seen_us, times, side="right") - 1
        asked = some.drop_columns("label_us")
        asked = asked.append_column("label_time", label_us.cast(UTC_US))
        asked = asked.append_column(
            "event_time", pa.array(event_us[newest], UTC_US, mask=(newest < 0) | ~known)
        )
        found += _look_up(con, view, number, asked, first, cutoff)
    return found


def _event_times(
    con: duckdb.DuckDBPyConnection, number: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return event times and when each is first seen, both ascending; None if more than `most`.

    An event time that is not seen before a newer one is left out, because no label needs it. With
    the running minimum of `seen_us` from the end, which is when any row from here on is first seen:

        event_us    10  20  30  40
        seen_us     10  35  30  40
        first_seen  10  30  30  40    20 is seen at 35, but 30 already at 30: leave out 20
    """
    [(about,)] = con.execute(
        f"select approx_count_distinct(event_time) from narrow_{number}"
    ).fetchall()
    if not 0 < about <= most:
        return None
    found = con.sql(event_times_sql(number)).to_arrow_table()
    event_us, seen_us = (found[name].to_numpy() for name in ("event_us", "seen_us"))
    first_seen = np.minimum.accumulate(seen_us[::-1])[::-1]
    needed = np.append(seen_us[:-1] < first_seen[1:], True)
    return event_us[needed], seen_us[needed]


def _look_up(
    con: duckdb.DuckDBPyConnection,
    view: AsofView,
    number: int,
    asked: pa.Table,
    first: int,
    cutoff: bool,
) -> int:
    """Insert the rows that labels from row `first` on see at their event times; return how many."""
    con.register("asked", asked)
    picked = con.sql(at_event_time_sql(view, number, cutoff, decide=False)).to_arrow_table()
    once = np.zeros(len(asked), dtype=bool)
    once[picked["label_row"].to_numpy() - first] = True
    if once.sum() < len(picked):
        picked = con.sql(at_event_time_sql(view, number, cutoff, decide=True)).to_arrow_table()
    con.register("picked", picked)
    con.execute(f"insert into pick_{number} select label_row, position, age_us from picked")
    con.unregister("picked")
    con.unregister("asked")
    return len(picked)
