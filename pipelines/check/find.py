"""What a run would take of the sources and refuse, and what that then is."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from tempfile import TemporaryDirectory

import duckdb

from pipelines.check.figures import Activity, activity_of
from pipelines.check.items import Bad, bad_values
from pipelines.check.mend import Mend, Refused, mend_of
from pipelines.check.shapes import Shapes, shapes_of
from pipelines.coverage import Gap, gaps_within
from pipelines.init.look import Column
from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, connect, parquet, sql
from transformations.errors import RunFailedError
from transformations.layout import partition_files
from transformations.sources import stage_activity, stage_items

Connection = duckdb.DuckDBPyConnection
SAMPLES = 20
"""How many distinct refused values are kept; say.py shows three."""


@dataclass(frozen=True)
class Refusal:
    """One reason for which rows of a source are refused.

    Attributes:
        source: events or items.
        samples: Some of the values, the most frequent first.
    """

    source: str
    reason: str
    rows: int
    samples: tuple[str, ...]
    mend: Mend


@dataclass(frozen=True)
class Found:
    """What the sources hold, as a run would read them.

    Attributes:
        event_rows, item_rows: Rows read, refused ones included.
        duplicates: Events dropped since an equal one is there.
        activity: What is taken, for a run as of the last midnight.
        gaps: Snapshots of an earlier run or backfill that are missing between others.
        shapes: How the activity is distributed; None where nobody asked.
    """

    max_refused_share: float
    event_rows: int
    item_rows: int
    refusals: tuple[Refusal, ...]
    duplicates: int
    activity: Activity
    gaps: tuple[Gap, ...] = ()
    shapes: Shapes | None = None

    def refused(self, source: str) -> int:
        """How many rows of events or items are refused."""
        return sum(refusal.rows for refusal in self.refusals if refusal.source == source)


def find(config: Config, now: datetime, with_shapes: bool = False) -> Found:
    """Read both sources whole, as a first run at `now` would, into a folder that is removed.

    Args:
        with_shapes: Count what the plots of the page show, too.

    Raises:
        InputError: a source or one of its columns is missing, or has a wrong type.
        RunFailedError: a source cannot be read.
    """
    with TemporaryDirectory(prefix="activity-check-") as folder:
        events = config.events.model_copy(update={"max_refused_share": 1.0})
        kept = config.archive.model_copy(update={"sql": False})
        aside = config.model_copy(update={"data_dir": folder, "events": events, "archive": kept})
        with connect(aside) as con:
            found = _find(config, aside, con, now)
            shapes = shapes_of(con, found.activity) if with_shapes else None
            return replace(found, shapes=shapes)


def _find(config: Config, aside: Config, con: Connection, now: datetime) -> Found:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    staged = stage_activity(aside, con, midnight)
    refusals = _refusals(aside, con, now)
    item_rows, refused_items = _stage_items(aside, con, midnight, now)
    return Found(
        max_refused_share=config.events.max_refused_share,
        event_rows=staged.rows_in,
        item_rows=item_rows,
        refusals=(*refusals, *refused_items),
        duplicates=staged.rows_in - sum(staged.refused.values()) - staged.rows_out,
        activity=activity_of(aside, con, midnight),
        gaps=tuple(gaps_within(config)),
    )


def _refusals(config: Config, con: Connection, now: datetime) -> list[Refusal]:
    """Return why events are refused, from the quarantine of the folder aside."""
    files = partition_files(config.layout.quarantine)
    if not files:
        return []
    con.execute(f"create or replace temp view quarantine as from {parquet(files)}")
    rows = con.execute(sql("refusals", __file__)).fetchall()
    found = []
    for reason, n_rows, samples, given, whole, middle, times in rows:
        column = Column(reason, "VARCHAR", given, whole=whole, middle=middle, times=times)
        mend = mend_of(Refused(reason, samples, column, config, now))
        found.append(Refusal("events", reason, n_rows, tuple(samples[:SAMPLES]), mend))
    return found


def _stage_items(
    config: Config, con: Connection, as_of: datetime, now: datetime
) -> tuple[int, list[Refusal]]:
    """Make `stg_items`, empty where every item is refused; return the rows read, why refused."""
    failed = None
    try:
        staged = stage_items(config, con, as_of)
        rows_in, refused = staged.rows_in, staged.refused
    except RunFailedError as error:
        failed, rows_in, refused = error, 0, {}
    bad = bad_values(config, con, SAMPLES) if failed or refused else {}
    if failed is not None:
        refused = {reason: one.rows for reason, one in bad.items()}
        rows_in = sum(refused.values())
        if not refused:
            raise failed
        con.execute(
            f"create or replace temp view stg_items as select null::"
            f"{SQL_ID_TYPES[config.item_id_type]} as item_id, '' as text, '' as kind where false"
        )
    else:
        staged_file = parquet([config.layout.staged_items])
        con.execute(f"create or replace temp view stg_items as from {staged_file}")
    found = []
    for reason, rows in sorted(refused.items(), key=lambda pair: -pair[1]):
        one = bad.get(reason, Bad())
        dim = min(one.lengths) if len(one.lengths) == 1 else None
        column = Column(reason, "VARCHAR", dim=dim)
        mend = mend_of(Refused(reason, one.samples, column, config, now))
        found.append(Refusal("items", reason, rows, one.samples, mend))
    return rows_in, found
