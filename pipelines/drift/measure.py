"""The measures of staged data: of each of the last days, and of the items as they are now.

One query a group, in sql/; each gives rows of back (how many days before the newest), measure,
part, kind, amount, n_rows and error.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection

from operations.drift_rule import FEWEST, FEWEST_NOTED, Finding, Measured, judge
from transformations.config import Config
from transformations.duck import copy, named_in, parquet, sql
from transformations.errors import RunFailedError
from transformations.layout import files_between, partition, partition_files, partitions, span
from transformations.quoting import identifier, quoted
from transformations.seals import sealing
from transformations.stats.columns import duration
from transformations.tables import activity_query

DAY = timedelta(days=1)
OF_ALL = ("volume", "actions", "ids", "clock")
OF_SAMPLE = ("sessions", "missing", "stability", "distance", "words")
"""Queries over all actions of the days; over a sample of them, which is made after those."""
MARKS_KEPT = 2
SAMPLE = 50_000
"""Actions of a usual day whose columns are looked at: the bounds are wider than what more tell."""

Days = Mapping[int, Measured]


@dataclass(frozen=True)
class Series:
    """One measure.

    Attributes:
        newest: Of the newest day.
        before: Value by how many days before.
        usual_rows: Of how many rows it is on a usual day; None where only the newest is known.
    """

    newest: Measured
    before: Mapping[int, float]
    usual_rows: float | None


def activity_series(config: Config, con: Connection, as_of: datetime) -> list[Series]:
    """Measure the actions of each of the days up to `as_of`, as they were known at its end.

    Leaves the relations that sql/ reads. Days before the first action are no history.
    """
    first = span(partition_files(config.layout.activity))
    if first is None:
        return []
    n_days = min(config.drift.days, max((as_of - first[0]) // DAY - 1, 0))
    n_rows = _days(config, con, as_of, n_days)
    _staged_items(config, con)
    every = max(n_rows // (SAMPLE * (n_days + 1)), 1)
    parameters = {"actions": list(config.actions), "every": every}
    measured = [*measured_in(con, "activity", OF_ALL, parameters)]
    _sample(config, con, every)
    dwell = duration(config)
    groups = [*OF_SAMPLE, "duration"] if dwell else OF_SAMPLE
    measured += measured_in(con, "activity", groups, {"duration": dwell})
    return by_day(measured)


def by_day(measured: Iterable[tuple[int, Measured]]) -> list[Series]:
    """Group measures by what they are; those that the newest day has."""
    rows: dict[tuple[str, str], dict[int, Measured]] = {}
    for back, made in measured:
        rows.setdefault((made.measure, made.part), {})[back] = made
    return [
        Series(
            days[0],
            {back: made.value for back, made in days.items() if back},
            median(made.n_rows for back, made in days.items() if back) if len(days) > 1 else None,
        )
        for days in rows.values()
        if 0 in days
    ]


def item_measures(config: Config, con: Connection, as_of: datetime) -> list[Measured]:
    """Measure the staged items, and mark their content for the next snapshot to compare with."""
    _staged_items(config, con)
    folder = config.layout.item_marks
    before = [at for at in partitions(folder) if at < as_of]
    query = f"from {parquet([partition(folder, before[-1])])}" if before else (
        "select item_id, 0::uhugeint as mark from stg_items where false"
    )  # fmt: skip
    con.execute(f"create or replace temp view marks_before as {query}")
    with sealing(partition(folder, as_of), "item_marks") as path:
        copy(con, sql("item_marks", __file__), path, {"as_of": as_of})
        con.execute(f"create or replace temp view item_marks as from {parquet([path])}")
        measured = [made for _, made in measured_in(con, "items", ["items"], {})]
    for at in before[: 1 - MARKS_KEPT]:
        shutil.rmtree(partition(folder, at).parent)
    has_text = bool(config.items.text)
    return [made for made in measured if has_text or made.measure != "empty texts"]


def judged(
    config: Config,
    series: Sequence[Series],
    noted: Mapping[tuple[str, str, str], Mapping[int, float]],
) -> list[Finding]:
    """Judge measures by the days before, where they are known, else by what was noted then."""
    found = []
    for one in series:
        before, fewest = one.before, FEWEST
        if one.usual_rows is None:
            before, fewest = noted.get(one.newest.key, {}), FEWEST_NOTED
        found.append(judge(one.newest, before, fewest, config.drift.only_warn, one.usual_rows))
    return found


def measured_in(
    con: Connection, about: str, groups: Sequence[str], parameters: Mapping[str, object]
) -> Iterator[tuple[int, Measured]]:
    """Yield the measures of these queries with how many days before they are.

    Raises:
        RunFailedError: one of them cannot be.
    """
    for place, name in enumerate(groups):
        query = sql(name, __file__)
        into = "insert into drift_measures" if place else (
            "create or replace temp table drift_measures as"
        )  # fmt: skip
        con.execute(f"{into} {query}", named_in(query, parameters))
    wrong = con.execute(sql("wrong", __file__)).fetchall()
    if wrong:
        lines = "\n  ".join(map(str, wrong[:5]))
        raise RunFailedError(f"measures of drift that cannot be, of {about}:\n  {lines}")
    query = "select * from drift_measures order by measure, part, back"
    for back, measure, part, kind, amount, n_rows, error in con.execute(query).fetchall():
        value = amount / n_rows if kind == "share" else amount
        yield back, Measured(about, measure, part, kind, value, n_rows, error)


def _days(config: Config, con: Connection, as_of: datetime, n_days: int) -> int:
    """Make `drift_days` and `drift_activity`; return about how many rows it has."""
    end = f"timestamptz {quoted(as_of.isoformat())}"
    con.execute(
        f"create or replace temp view drift_days as select range as back, {end} - "
        f"to_days(range::integer) as ends_at, range <= {n_days // 2} as is_recent "
        f"from range({n_days + 1})"
    )
    start = as_of - (n_days + 1) * DAY
    files = files_between(config.layout.activity, start, as_of)
    con.execute(
        "create or replace temp view drift_activity as select * from (select *, "
        f"(epoch_us({end}) - epoch_us(event_timestamp) - 1) // 86400000000 as back "
        f"from ({activity_query(config, con, files)}) where event_timestamp < {end} "
        f"and event_timestamp >= timestamptz {quoted(start.isoformat())}) "
        f"where ingested_at is null or ingested_at < {end} - to_days(back::integer)"
    )
    return sum(pq.read_metadata(file).num_rows for file in files)


def _sample(config: Config, con: Connection, every: int) -> None:
    """Make `drift_sample`, `drift_sessions` and `drift_columns`: of one action in `every`."""
    con.execute(
        "create or replace temp table drift_sample as select back, member_id, item_id, "
        "event_timestamp, attributes from drift_activity "
        f"where hash(member_id, item_id, action, event_timestamp) % {every} = 0"
    )
    # Sessions need all actions of a member.
    con.execute(
        "create or replace temp view drift_sessions as select back, member_id, event_timestamp "
        f"from drift_activity where hash(member_id) % {every} = 0"
    )
    hours = "select back, 'hour' as name, null::double as number, hour(event_timestamp)::varchar"
    columns = [f"{hours} as word from drift_sample"]
    for name, attribute in config.rules.attributes.items():
        value = f"attributes[{quoted(name)}]"
        is_number = attribute.kind == "number"
        columns.append(
            f"select back, {quoted(name)}, {value if is_number else 'null::double'}, "
            f"{'null::varchar' if is_number else value} from drift_sample"
        )
    if config.items.categories:
        columns.append(
            "select back, 'items.' || split_part(category, '=', 1), null::double, "
            "substr(category, strpos(category, '=') + 1) from (select back, "
            "unnest(categories) as category from drift_sample inner join (select item_id, "
            "arg_max(categories, available_at) as categories from stg_items group by item_id) "
            "using (item_id))"
        )
    columns += _profile_columns(config)
    con.execute(f"create or replace temp view drift_columns as {' union all '.join(columns)}")


def _profile_columns(config: Config) -> list[str]:
    """Return queries of the profiles of the members of each day, as they are known now."""
    file = config.layout.members
    if not (config.members.source and file.exists()):
        return []
    numbers = {*config.members.numeric}
    return [
        f"select back, {quoted('members.' + name)}, "
        + ("value, null::varchar" if column in numbers else "null::double, value")
        + " from (select distinct back, member_id from drift_sample) inner join (select "
        f"member_id, arg_max_null({identifier(name)}, available_at) as value "
        f"from {parquet([file])} group by member_id) using (member_id)"
        for name, column in config.members.columns.items()
    ]


def _staged_items(config: Config, con: Connection) -> None:
    con.execute(
        "create or replace temp view stg_items as select null::varchar as text, "
        "null::varchar[] as categories where false "
        f"union all by name from {parquet([Path(config.layout.staged_items)])}"
    )
