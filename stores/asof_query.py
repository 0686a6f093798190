"""The training join in SQL: find each label's row by narrow columns, fetch the wide ones after.

Two kinds of statement, over a relation `labels` (stores.asof_labels):

1. per view, a table `pick_<n>`: label → (file, position) of the one row that it sees;
2. a query that fetches the features of the picked rows, for as many labels at a time as fit well
   into memory, and puts those back in order.

What a label sees
    A row is seen from its event time; where `known_at` is set, from the later of its event and
    its created time. Among the rows seen, the newest event time wins, then the newest created
    time (null is oldest), then the last file by name, then the last position in that file.
    A winner whose event time plus ttl lies before the label gives nulls.

Why rows are dropped before the ASOF join
    ASOF finds the row that was seen *last*; asked for is the *best* of those seen. They differ
    where an older snapshot is published after a newer one, or two rows are seen at one moment.
    A row is of no use to any label when a better one is seen no later than it. Without those,
    rows of one key that get better are seen ever later, so the last seen is the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from stores.asof_duckdb import literal, moment, quote
from stores.asof_labels import ROW, Labels

# Below this share of labels to rows it pays to look only at the keys that the labels name.
FEW_LABELS = 0.1


@dataclass(frozen=True)
class View:
    """One feature view, as the join needs it. Column names are those of the source files."""

    name: str
    path: str
    """A file, folder or glob of Parquet, absolute."""
    columns: Mapping[str, str]
    """Each column of the source and its DuckDB type."""
    keys: Mapping[str, str]
    """Source column → column of the entity frame; empty for a view without entities."""
    event_time: str
    created_time: str | None
    ttl: timedelta | None
    features: Mapping[str, str]
    """Name in the result → source column."""


@dataclass(frozen=True)
class LabelRange:
    """How many labels there are and which time they span; None without any moment."""

    count: int
    first: datetime | None
    last: datetime | None


def label_range_sql(labels: Labels) -> str:
    """Select the three values of a LabelRange."""
    time = f"cast({quote(labels.timestamp)} as timestamptz)"
    return f"select count(*), min({time}), max({time}) from labels"


def pick_sql(
    view: View,
    number: int,
    files: Mapping[str, int],
    labels: Labels,
    span: LabelRange,
    known_at: bool,
) -> str:
    """Create `file_<number>` and `pick_<number>`: the row that each label sees, if any."""
    created = view.created_time
    cutoff = known_at and created is not None
    kept = [f"{quote(column)} is not null" for column in view.keys]
    kept += _can_matter(view, span, cutoff)
    few = bool(view.keys) and span.count < FEW_LABELS * sum(files.values())
    key_names = [f"key_{index}" for index in range(len(view.keys))]
    selected = "".join(
        f"read.{quote(column)} as {key}, " for column, key in zip(view.keys, key_names, strict=True)
    )
    label_keys = "".join(
        f"{quote(column)} as {key}, "
        for column, key in zip(view.keys.values(), key_names, strict=True)
    )
    same_label_key = "".join(f"label.{key} = useful.{key} and " for key in key_names)
    same_key = " and ".join(
        f"label.{quote(theirs)} = read.{quote(ours)}" for ours, theirs in view.keys.items()
    )
    # Without a cutoff better rows are seen no earlier, so the next better one is the first seen;
    # lag finds it in three quarters of min's time.
    created_time = f"cast(read.{quote(created)} as timestamptz)" if created else "null::timestamptz"
    in_time = "true" if not view.ttl else f"event_time + {_interval(view.ttl)} >= label.label_time"
    return f"""
create temp table file_{number} as
select * from (values {_numbered(files)}) as file(filename, file);

create temp table pick_{number} as
with narrow as (
    select
        {selected}cast(read.{quote(view.event_time)} as timestamptz) as event_time,
        {created_time} as created_time,
        file.file,
        read.file_row_number as position,
    from read_parquet([{_listed(files)}]) as read
    inner join file_{number} as file on read.filename = file.filename
    {f"semi join labels as label on {same_key}" if few else ""}
    where {" and ".join(kept)}
),

seen as (
    select
        *,
        {"greatest(event_time, created_time)" if cutoff else "event_time"} as seen_at,
    from narrow
),

ranked as (
    select
        *,
        {"min" if cutoff else "lag"}(seen_at) over (
            {f"partition by {', '.join(key_names)}" if key_names else ""}
            order by
                event_time desc,
                created_time desc nulls last,
                file desc,
                position desc
            {"rows between unbounded preceding and 1 preceding" if cutoff else ""}
        ) as better_seen_at,
    from seen
),

useful as (
    select * from ranked
    where better_seen_at is null or better_seen_at > seen_at
),

label as (
    select
        {label_keys}cast({quote(labels.timestamp)} as timestamptz) as label_time,
        {ROW} as label_row,
    from labels
),

picked as (
    select
        label.label_row,
        useful.file,
        useful.position,
    from label
    asof inner join useful
        on {same_label_key}label.label_time >= useful.seen_at
    where {in_time}
)

select * from picked;
"""


def fetch_sql(
    labels: Labels,
    views: Sequence[View],
    used_files: Sequence[Sequence[str]],
    first: int,
    end: int,
) -> str:
    """Select the labels from row `first` up to before `end` with their features, in order.

    `used_files` are, per view, those with a picked row for these labels (one at least). A feature
    is cast to its type in the whole source, in case that a single file has another.
    """
    columns = [f"label.{quote(name)}" for name in labels.columns]
    joins = []
    for number, (view, files) in enumerate(zip(views, used_files, strict=True)):
        wide = "".join(
            f", cast(read.{quote(source)} as {view.columns[source]}) as feature_{index}"
            for index, source in enumerate(view.features.values())
        )
        columns += [
            f"wide_{number}.feature_{index} as {quote(name)}"
            for index, name in enumerate(view.features)
        ]
        joins.append(f"""
left join (
    select * from pick_{number}
    where label_row >= {first} and label_row < {end}
) as pick_{number}
    on label.{ROW} = pick_{number}.label_row
left join (
    select file.file, read.file_row_number as position{wide}
    from read_parquet([{_listed(files)}]) as read
    inner join file_{number} as file on read.filename = file.filename
) as wide_{number}
    on pick_{number}.file = wide_{number}.file
    and pick_{number}.position = wide_{number}.position""")
    listed = ",\n    ".join(columns)
    return f"""
select
    {listed},
from labels as label{"".join(joins)}
where label.{ROW} >= {first} and label.{ROW} < {end}
order by label.{ROW}
"""


def sample_sql(view: View, file: str) -> str:
    """Select the features of some rows of one file, to see how wide they are."""
    features = ", ".join(quote(source) for source in view.features.values())
    return f"select {features} from read_parquet([{literal(file)}]) limit 1000"


def restore(table: pa.Table | pa.RecordBatch, schema: pa.Schema | None) -> pa.Table:
    """Give the leading columns the types they came with: zones and all-null columns get lost."""
    result = table if isinstance(table, pa.Table) else pa.Table.from_batches([table])
    for index, field in enumerate(schema or ()):
        if result.schema.field(index).type == field.type:
            continue
        column = (
            pa.nulls(len(result))
            if pa.types.is_null(field.type)
            else result.column(index).cast(field.type)
        )
        result = result.set_column(index, field.name, column)
    return result


def _can_matter(view: View, span: LabelRange, cutoff: bool) -> list[str]:
    """Conditions that let DuckDB skip row groups, and so partitions, by their statistics."""
    if span.first is None or span.last is None:
        return ["false"]
    bounds = [_bound(view, view.event_time, "<=", span.last)]
    if cutoff and view.created_time is not None:
        bounds.append(_bound(view, view.created_time, "<=", span.last))
    if view.ttl:
        bounds.append(_bound(view, view.event_time, ">=", span.first - view.ttl))
    return bounds


def _bound(view: View, column: str, comparison: str, value: datetime) -> str:
    kind = view.columns[column]
    name = f"read.{quote(column)}"
    if kind not in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        name = f"cast({name} as timestamptz)"
    return f"{name} {comparison} {moment(value, kind)}"


def _interval(ttl: timedelta) -> str:
    return f"to_microseconds({ttl // timedelta(microseconds=1)})"


def _numbered(files: Mapping[str, int]) -> str:
    return ", ".join(f"({literal(file)}, {number})" for number, file in enumerate(files))


def _listed(files: Sequence[str] | Mapping[str, int]) -> str:
    return ", ".join(literal(file) for file in files)
