"""The events source as `activity`, one partition per period, and `quarantine`."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from duckdb import DuckDBPyConnection as Connection

from transformations import read_so_far as state
from transformations.attributes import first_of_copies
from transformations.config import Config
from transformations.duck import TableReport, check, copy, parquet, sql
from transformations.errors import RunFailedError
from transformations.layout import (
    Period,
    best_period,
    expect_buckets,
    note_period,
    period_file,
    period_of,
)
from transformations.quoting import identifier, quoted
from transformations.seals import expect_whole, sealing
from transformations.searches import searches_query
from transformations.sources.event_source import Given, read_source
from transformations.sources.judge import judge
from transformations.sources.quarantine import keep_refused
from transformations.sources.spool import counted, spool
from transformations.table_files import SOURCES_AGAIN
from transformations.tables import activity_query
from transformations.tasks import Engine, InTurn


class TooManyRefusedError(RunFailedError):
    """More than events.max_refused_share of the rows were refused; they are in quarantine."""


def stage_activity(
    config: Config,
    con: Connection,
    as_of: datetime,
    given: Given | None = None,
    engine: Engine | None = None,
) -> TableReport:
    """Read what is new in the events source into `activity`, and what is refused to `quarantine`.

    An unchanged file is not read again; a table with an incremental column is read from its last
    value on. Reading a row twice changes nothing. A row refused for lying in the future is read
    again from quarantine once its time has come. Rows of forgotten members are passed over. Only
    periods that change are rewritten, each as a whole. What was read is written down last, so the
    next run repeats what a killed one missed.

    Args:
        given: Rows of the archive, which are staged in place of the source. What was read of the
            source stays as it was noted.
        engine: Who reads the files and merges the rows of buckets; default, and without buckets:
            this connection, one after the other.

    Returns:
        rows_in counts the rows read; refused, those that went to quarantine, by reason; rows_out,
        the actions that `activity` gained; written, the periods rewritten.

    Raises:
        InputError: the source or one of its columns is missing, or has a wrong type; activity lies
            in another number of buckets than is configured.
        TooManyRefusedError: more than events.max_refused_share of the rows read were refused. They
            are in quarantine; `activity` is unchanged.
    """
    expect_buckets(config.layout)
    with spool(config, "stg_activity") as folder:
        # Without buckets a statement has the whole machine, here.
        runs = engine if engine is not None and config.layout.buckets > 1 else InTurn(con)
        rows = given or read_source(config, as_of, state.load(config), folder, runs)
        rows_in, parts = judge(config, con, as_of, rows, folder, runs)
        period = _period(config, con)
        keep_refused(config, con, period, as_of)
        rows.note()
        refused = counted(con, "select reason from refused")
        _fail_if_too_many(config, rows_in, refused)
        # Before the actions on them: a killed run leaves no action on an unknown text.
        _merge_searches(config, con)
        if config.layout.buckets == 1:
            merged = _merge_periods(config, con, period, None)
        else:
            merged = _merge_buckets(config, con, period, parts, runs)
    if given is None:
        rows.read.periods = state.periods(config)
        state.save(config, rows.read)
    return TableReport("stg_activity", rows_in, merged.gained, refused, merged.written)


def _fail_if_too_many(config: Config, rows_in: int, refused: dict[str, int]) -> None:
    total = sum(refused.values())
    allowed = config.events.max_refused_share
    if total > allowed * rows_in:
        listed = ", ".join(f"{reason}: {rows:,}" for reason, rows in refused.items())
        unit = ""
        for bound, which, other in (("earliest", "early", "larger"), ("latest", "late", "smaller")):
            wrong = [n for reason, n in refused.items() if reason.endswith(f"events.{bound}")]
            if sum(wrong) > total / 2:
                unit = (
                    f" Times that are so {which} are mostly integers of a {other} unit than "
                    f"events.time_unit, which is {config.events.time_unit}: seconds that are read "
                    "as ms lie in January 1970, ms that are read as s in a far year."
                )
        raise TooManyRefusedError(
            f"{total:,} of the {rows_in:,} rows read are refused, which is more than the share of "
            f"{allowed:.1%} that events.max_refused_share allows ({listed}). The rows are in "
            f"{config.layout.quarantine}; nothing else was written. Correct the source, or "
            "events.columns, events.time_unit, the id types or actions in "
            f"{config.file.name}, and run again.{unit}"
        )


def _merge_searches(config: Config, con: Connection) -> None:
    """Add the texts of `stg_activity` to `searches`, with when each was first seen."""
    if not config.rules.texts:
        return
    earlier = searches_query(config.rules, config.layout)
    con.execute(f"create or replace temp view searches as {earlier}")
    with sealing(config.layout.searches, "searches") as path:
        copy(con, sql("searches"), path)
        con.execute(f"create or replace temp view searches as from {parquet([path])}")
        check(con, "searches", {})


@dataclass(frozen=True)
class MergeTask:
    """The new actions of one bucket.

    Attributes:
        spooled: The files of judged rows, each ordered by bucket and day.
    """

    bucket: int
    period: Period
    spooled: tuple[Path, ...]


@dataclass(frozen=True)
class Merged:
    """The names of the periods that were rewritten, and how many actions they gained."""

    written: tuple[str, ...]
    gained: int


def _merge_buckets(
    config: Config, con: Connection, period: Period, parts: list[Path], engine: Engine
) -> Merged:
    """Let the engine merge the accepted rows of each bucket into its files."""
    rows = con.execute("select distinct bucket from stg_activity order by all").fetchall()
    tasks = [MergeTask(bucket, period, tuple(parts)) for (bucket,) in rows]
    every = [merged for _, merged in engine.run(config, merge_bucket, tasks)]
    written = sorted({name for merged in every for name in merged.written})
    return Merged(tuple(written), sum(merged.gained for merged in every))


def merge_bucket(config: Config, con: Connection, task: MergeTask) -> Merged:
    """Merge a bucket's new actions into its periods; the function of an engine's tasks."""
    # Read once: each period looks through all of them.
    con.execute(
        "create or replace temp table of_bucket as select member_id, item_id, action, "
        "event_timestamp, ingested_at, attributes, day "
        f"from {parquet([*task.spooled])} where bucket = {task.bucket} and reason is null"
    )
    con.execute("create or replace temp view stg_activity as from of_bucket")
    merged = _merge_periods(config, con, task.period, task.bucket)
    con.execute("drop view stg_activity")
    con.execute("drop table of_bucket")
    return merged


def _merge_periods(config: Config, con: Connection, period: Period, bucket: int | None) -> Merged:
    """Merge `stg_activity` into its periods, of one bucket where there are several."""
    query = "select distinct date_trunc($period, day)::date from stg_activity order by all"
    rows = con.execute(query, {"period": period}).fetchall()
    written, gained = [], 0
    for (start,) in rows:
        file = period_file(config.layout.activity, start, bucket)
        more = _merge_period(config, con, period, start, file, bucket or 0)
        if more is not None:
            written.append(start.isoformat())
            gained += more
    return Merged(tuple(written), gained)


def _merge_period(
    config: Config, con: Connection, period: Period, start: date, file: Path, bucket: int
) -> int | None:
    """Rewrite a period if it changes; return how many actions it gained, or None."""
    if file.exists():  # it is read whole now, and written again as if it were right
        expect_whole([file], SOURCES_AGAIN)
    existing = activity_query(config, con, [file] if file.exists() else [])
    con.execute(f"create or replace temp view activity as {existing}")
    buckets = {"bucket": bucket, "buckets": config.layout.buckets}
    parameters: dict[str, object] = {"period": period, "start": start}
    attributes = config.rules.attributes
    con.execute(
        "create or replace temp table activity_of_period as "
        f"select * exclude (copies){first_of_copies(attributes)} from ({sql('activity')})",
        parameters,
    )
    # A merge only adds actions, and only lowers ingested_at or replaces a null one or a missing
    # attribute. So a period is unchanged exactly if these sums are.
    sums = "select count(*), count(ingested_at), sum(epoch_us(ingested_at)::hugeint)"
    hashed = f"bit_xor(hash({', '.join(map(identifier, attributes))}))" if attributes else "0"
    flat = "".join(f", attributes[{quoted(name)}] as {identifier(name)}" for name in attributes)
    before, after = (
        con.execute(
            f"{sums}, {hashed} from (select * exclude (attributes){flat} from activity)"
        ).fetchone(),
        con.execute(f"{sums}, {hashed} from activity_of_period").fetchone(),
    )
    if before == after or before is None or after is None:
        return None
    check(con, "stg_activity", parameters | buckets)
    with sealing(file, "activity") as path:
        copy(con, "from activity_of_period", path)
    return after[0] - before[0]


def _period(config: Config, con: Connection) -> Period:
    """Return how activity is partitioned; chosen and noted by the first rows that are read."""
    activity = config.layout.activity
    known = period_of(activity)
    if known is not None:
        return known
    query = "select count(*), date_diff('day', min(day), max(day)) + 1 from stg_activity"
    ((rows, days),) = con.execute(query).fetchall()
    buckets = config.layout.buckets
    period = best_period(rows // buckets, days or 0)
    if rows:
        note_period(activity, period, buckets)
    return period
