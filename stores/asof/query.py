"""The training join in SQL: which row each label sees, by narrow columns only.

stores/asof/find.py lists the relations.

What a label sees
    A label sees a row from the row's event time on; if `known_at` is set, from the later of its
    event and its created time on. Among the rows seen, the newest event time wins, then the newest
    created time (null is oldest), then the last file by name, then the last row in that file.
    If the winner's event time plus ttl lies before the label, the label gets nulls.

Why rows are dropped before the ASOF join
    ASOF finds the row that was seen *last*; the join needs the *best* of those seen. They differ
    where an older snapshot is published after a newer one, or two rows are seen at the same time.
    No label needs a row if a better one of its key is seen no later. Without such rows, a better
    row is always seen later, so the last one seen is the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from stores.asof.labels import ROW, AsofLabels
from stores.parquet import Scan, listed
from stores.quoting import literal

# With fewer labels per row than this, it pays to read only the keys of the labels.
FEW_LABELS = 0.1


@dataclass(frozen=True)
class AsofView:
    """One feature view, as the join needs it. Column names are those of the source files."""

    name: str
    path: str
    """A file, folder or glob of Parquet, absolute."""
    scan: Scan
    """How the columns that the join needs are read."""
    keys: Mapping[str, str]
    """Source column → column of the entity frame (of `labels`, once `compared`); empty for a view
    without entities."""
    event_time: str
    created_time: str | None
    ttl: timedelta | None
    features: Mapping[str, str]
    """Name in the result → source column."""
    max_age: timedelta | None = None
    """From which age on a row counts as old (stores/asof/coverage.py)."""


@dataclass(frozen=True)
class LabelRange:
    """The number of labels and the time they span; None if no label has a timestamp."""

    count: int
    first: datetime | None
    last: datetime | None


def label_range_sql(labels: AsofLabels) -> str:
    """Select the three values of a LabelRange."""
    time = labels.time
    return f"select count(*), min({time}), max({time}) from labels"


def files_sql(number: int, files: str) -> str:
    """Create `file_<number>` of `Scan.files_sql`, and an empty `pick_<number>`."""
    return f"""
create or replace temp table file_{number} as select * from {files};

create or replace temp table pick_{number} (
    label_row bigint, position bigint, age_us bigint
);
"""


def ages_sql(view: AsofView, files: Sequence[str], cutoff: bool) -> str:
    """Select per file, from its footer, its first and last event time and its last seen time.

    `told` is false where a footer lacks a time.
    """
    seen = [view.event_time, view.created_time] if cutoff else [view.event_time]
    event = f"path_in_schema = {literal(view.event_time)}"
    columns = ", ".join(literal(str(column)) for column in seen)
    return f"""
select
    min(try_cast(stats_min_value as timestamptz)) filter (where {event}) as first,
    max(try_cast(stats_max_value as timestamptz)) filter (where {event}) as last,
    max(try_cast(stats_max_value as timestamptz)) as seen,
    bool_and(stats_min_value is not null and stats_max_value is not null) as told,
from parquet_metadata([{listed(files)}])
where path_in_schema in ({columns})
group by file_name
"""


def narrow_sql(
    view: AsofView,
    number: int,
    files: Sequence[str],
    span: LabelRange,
    cutoff: bool,
    since: datetime | None = None,
    only: str | None = None,
) -> str:
    """Create `narrow_<number>`: rows from `since` on, of the keys in the relation `only`."""
    created = view.created_time
    scan = view.scan
    kept = [f"{scan.value(column)} is not null" for column in view.keys]
    kept += _can_matter(view, span, cutoff)
    if since is not None:
        kept.append(scan.bound(view.event_time, ">=", since))
    selected = "".join(
        f"{scan.value(column)} as key_{index}, " for index, column in enumerate(view.keys)
    )
    same_key = " and ".join(
        f"label.{theirs} = {scan.value(ours)}" for ours, theirs in view.keys.items()
    )
    event_time = f"cast({scan.value(view.event_time)} as timestamptz)"
    created_time = f"cast({scan.value(created)} as timestamptz)" if created else "null::timestamptz"
    return f"""
create or replace temp table narrow_{number} as
select
    {selected}{event_time} as event_time,
    {created_time} as created_time,
    {f"greatest({event_time}, {created_time})" if cutoff else event_time} as seen_at,
    file.number + read.file_row_number as position,
from {scan.sql(files)} as read
inner join file_{number} as file on read.filename = file.filename
{f"semi join {only} as label on {same_key}" if only else ""}
where {" and ".join(kept)};
"""


def event_times_sql(number: int) -> str:
    """Select the event times of `narrow_<number>`, in order, and when each is first seen."""
    return f"""
select epoch_us(event_time) as event_us, epoch_us(min(seen_at)) as seen_us,
from narrow_{number}
group by event_time
order by event_time
"""


def at_event_time_sql(view: AsofView, number: int, cutoff: bool, decide: bool) -> str:
    """Select the row that each label of `asked` sees at its event_time, if any.

    Without `decide`, all rows of the key at that time are selected.
    """
    keys = "".join(
        f" and asked.key_{index} = narrow.key_{index}" for index in range(len(view.keys))
    )
    seen = " and asked.label_time >= narrow.seen_at" if cutoff else ""
    best = """
qualify row_number() over (
    partition by asked.label_row order by narrow.created_time desc nulls last, narrow.position desc
) = 1"""
    return f"""
select
    asked.label_row,
    {_unless_expired(view, "asked", "narrow")} as position,
    {_age("asked", "narrow")} as age_us,
from asked
inner join narrow_{number} as narrow on asked.event_time = narrow.event_time{keys}{seen}
{best if decide else ""}
"""


def left_sql(number: int) -> str:
    """Create `left_<number>`: the labels that are not in `pick_<number>`."""
    return f"""
create or replace temp table left_{number} as
select labels.* from labels
anti join pick_{number} as pick on labels.{ROW} = pick.label_row;
"""


def asof_sql(view: AsofView, number: int, labels: AsofLabels, cutoff: bool, left: str) -> str:
    """Insert into `pick_<number>` the row that each label of the relation `left` sees."""
    key_names = [f"key_{index}" for index in range(len(view.keys))]
    label_keys = "".join(
        f"{column} as {key}, " for column, key in zip(view.keys.values(), key_names, strict=True)
    )
    same_key = "".join(f"label.{key} = useful.{key} and " for key in key_names)
    # Without a cutoff, better rows are never seen earlier, so of the better rows the next one is
    # seen first. `lag` finds it in three quarters of the time that `min` takes.
    return f"""
insert into pick_{number}
with ranked as (
    select
        *,
        {"min" if cutoff else "lag"}(seen_at) over (
            {f"partition by {', '.join(key_names)}" if key_names else ""}
            order by event_time desc, created_time desc nulls last, position desc
            {"rows between unbounded preceding and 1 preceding" if cutoff else ""}
        ) as better_seen_at,
    from narrow_{number}
),

useful as (
    select * from ranked
    where better_seen_at is null or better_seen_at > seen_at
),

label as (
    select
        {label_keys}{labels.time} as label_time,
        {ROW} as label_row,
    from {left}
),

picked as (
    select
        label.label_row,
        {_unless_expired(view, "label", "useful")} as position,
        {_age("label", "useful")} as age_us,
    from label
    asof inner join useful
        on {same_key}label.label_time >= useful.seen_at
)

select * from picked;
"""


def read_sql(view: AsofView, number: int, positions: Mapping[str, int]) -> str:
    """Select position and features of every row of some files; null where a file has none.

    Args:
        positions: Each of these files and the position of its first row.
    """
    firsts = ", ".join(map(str, positions.values()))
    first = f"list_extract([{firsts}]::bigint[], cast(read.file_index as bigint) + 1)"
    # A join would return the rows in an order of its own; whoever takes them finds runs faster.
    said = (
        f"inner join file_{number} as file on read.filename = file.filename"
        if view.scan.folders
        else ""
    )
    return f"""
select
    {first} + read.file_row_number as position,{_features(view)}
from {view.scan.sql(list(positions))} as read
{said}
"""


def sample_sql(view: AsofView, number: int, file: str) -> str:
    """Select the features of some rows of one file, to estimate their size."""
    return f"""
select{_features(view)}
from {view.scan.sql([file])} as read
inner join file_{number} as file on read.filename = file.filename
limit 1000
"""


def _features(view: AsofView) -> str:
    return "".join(
        f"\n    {view.scan.value(source)} as feature_{index},"
        for index, source in enumerate(view.features.values())
    )


def _can_matter(view: AsofView, span: LabelRange, cutoff: bool) -> list[str]:
    """Return conditions that let DuckDB skip row groups, and so partitions, by statistics."""
    if span.first is None or span.last is None:
        return ["false"]
    bounds = [view.scan.bound(view.event_time, "<=", span.last)]
    if cutoff and view.created_time is not None:
        bounds.append(view.scan.bound(view.created_time, "<=", span.last))
    if view.ttl:
        bounds.append(view.scan.bound(view.event_time, ">=", span.first - view.ttl))
    return bounds


def _unless_expired(view: AsofView, label: str, row: str) -> str:
    if not view.ttl:
        return f"{row}.position"
    ttl = f"to_microseconds({view.ttl // timedelta(microseconds=1)})"
    return f"case when {row}.event_time + {ttl} >= {label}.label_time then {row}.position end"


def _age(label: str, row: str) -> str:
    return f"epoch_us({label}.label_time) - epoch_us({row}.event_time)"
