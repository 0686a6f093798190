"""Find the row that each label sees, in two steps: at the newest moment first, then by ASOF.

Feature tables are often snapshots: many rows share each event time. The newest moment that a label
can see is then found without looking at any key, and the row of its key at that moment, where there
is one, is what it sees, for nothing is newer. That takes a hash join and no sort, and none of the
rows that lie before the first label's moment. Labels without such a row (a member who was left out
of that snapshot, say) go through the ASOF join, as all do where a source is no series of snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stores.asof.labels import ROW, Labels
from stores.asof.query import (
    FEW_LABELS,
    LabelRange,
    View,
    ages_sql,
    asof_sql,
    at_moment_sql,
    files_sql,
    left_sql,
    moments_sql,
    narrow_sql,
)
from stores.asof.session import memory_limit, quote

# From how many rows per moment on a source counts as a series of snapshots.
ROWS_A_MOMENT = 100
MOST_MOMENTS = 100_000
# Labels whose moment is looked up at a time come to this share of memory_limit.
LOOK_UP_SHARE = 0.1
LOOK_UP_BYTES = 200
UTC_US = pa.timestamp("us", "UTC")


def first_places(files: Mapping[str, int]) -> dict[str, int]:
    """Return the place of each file's first row; `files` has the number of rows of each."""
    ends = np.cumsum([0, *files.values()]).tolist()
    return dict(zip(files, ends, strict=False))


def find(
    con: duckdb.DuckDBPyConnection,
    view: View,
    number: int,
    files: Mapping[str, int],
    labels: Labels,
    span: LabelRange,
    known_at: bool,
) -> None:
    """Create `file_<number>` and `pick_<number>`; `files` has the rows of each file of the view."""
    con.execute(files_sql(number, first_places(files)))
    cutoff = known_at and view.created_time is not None
    few = FEW_LABELS * sum(files.values())
    only = "labels" if view.keys and span.count < few else None
    since = _since(con, view, files, span, cutoff) if view.keys else None
    con.execute(narrow_sql(view, number, list(files), span, cutoff, since, only))
    found = _at_moments(con, view, number, files, labels, span, cutoff) if view.keys else 0
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
    view: View,
    files: Mapping[str, int],
    span: LabelRange,
    cutoff: bool,
) -> datetime | None:
    """Return an event time that every label can see a row of, as far as the footers tell."""
    if len(files) < 2 or span.first is None:
        return None
    ages = con.execute(ages_sql(view, list(files), cutoff)).fetchall()
    seen = [first for first, last, seen, told in ages if told and max(last, seen) <= span.first]
    return max(seen, default=None)


def _at_moments(
    con: duckdb.DuckDBPyConnection,
    view: View,
    number: int,
    files: Mapping[str, int],
    labels: Labels,
    span: LabelRange,
    cutoff: bool,
) -> int:
    """Insert into `pick_<number>` the labels with a row at the newest moment they can see."""
    moments = _moments(con, number, min(MOST_MOMENTS, int(sum(files.values()) / ROWS_A_MOMENT)))
    if moments is None:
        return 0
    event_us, seen_us = moments
    key_names = [f"key_{index}" for index in range(len(view.keys))]
    keys = ", ".join(
        f"{quote(column)} as {key}"
        for key, column in zip(key_names, view.keys.values(), strict=True)
    )
    step = max(1, int(memory_limit(con) * LOOK_UP_SHARE / LOOK_UP_BYTES))
    found = 0
    for first in range(0, span.count, step):
        some = con.sql(
            f"select {ROW} as label_row, {keys}, "
            f"epoch_us(cast({quote(labels.timestamp)} as timestamptz)) as label_us "
            f"from labels where {ROW} >= {first} and {ROW} < {first + step}"
        ).to_arrow_table()
        label_us = some["label_us"].combine_chunks()
        known = label_us.is_valid().to_numpy(zero_copy_only=False)
        times = label_us.fill_null(0).to_numpy()
        newest = np.searchsorted(seen_us, times, side="right") - 1
        asked = some.drop_columns("label_us")
        asked = asked.append_column("label_time", label_us.cast(UTC_US))
        asked = asked.append_column(
            "moment", pa.array(event_us[newest], UTC_US, mask=(newest < 0) | ~known)
        )
        found += _look_up(con, view, number, asked, first, cutoff)
    return found


def _moments(
    con: duckdb.DuckDBPyConnection, number: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return event times, each with when it is first seen, both ascending; None: over `most`.

    A moment that is first seen no earlier than a newer one is left out: no label needs it.
    """
    [(about,)] = con.execute(
        f"select approx_count_distinct(event_time) from narrow_{number}"
    ).fetchall()
    if not 0 < about <= most:
        return None
    moments = con.sql(moments_sql(number)).to_arrow_table()
    event_us, seen_us = (moments[name].to_numpy() for name in ("event_us", "seen_us"))
    first_seen = np.minimum.accumulate(seen_us[::-1])[::-1]
    needed = np.append(seen_us[:-1] < first_seen[1:], True)
    return event_us[needed], seen_us[needed]


def _look_up(
    con: duckdb.DuckDBPyConnection,
    view: View,
    number: int,
    asked: pa.Table,
    first: int,
    cutoff: bool,
) -> int:
    """Insert what the labels from row `first` on see at their moments; return how many do."""
    con.register("asked", asked)
    picked = con.sql(at_moment_sql(view, number, cutoff, decide=False)).to_arrow_table()
    once = np.zeros(len(asked), dtype=bool)
    once[picked["label_row"].to_numpy() - first] = True
    if once.sum() < len(picked):
        picked = con.sql(at_moment_sql(view, number, cutoff, decide=True)).to_arrow_table()
    con.register("picked", picked)
    con.execute(f"insert into pick_{number} select label_row, place from picked")
    con.unregister("picked")
    con.unregister("asked")
    return len(picked)
