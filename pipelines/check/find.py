"""What a run would take of the sources and refuse, and how good the data are for sequences."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory

import duckdb

from pipelines.check.items import Bad, bad_values
from pipelines.check.mend import Mend, Refused, mend_of
from pipelines.init.look import NEEDED, WINDOWS, Column
from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, connect, count, parquet, sql
from transformations.errors import RunFailedError
from transformations.layout import partition_files
from transformations.sources import stage_activity, stage_items
from transformations.tables import activity_query

Connection = duckdb.DuckDBPyConnection
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
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
class Usable:
    """Members as of a timestamp, through one window.

    Attributes:
        active: Members with an action in the window.
        usable: Members with NEEDED positive actions in their sequence.
    """

    window: timedelta
    active: int
    usable: int


@dataclass(frozen=True)
class Figures:
    """sql/activity_figures.sql: one row about all actions; times are None where there are none."""

    n_actions: int
    first_at: datetime | None
    last_at: datetime | None
    gap_from: datetime | None
    gap_to: datetime | None
    n_members: int
    p50: int | None
    p90: int | None
    most: int | None
    n_shared: int
    n_midnight: int
    n_old: int
    crowd_at: datetime | None
    n_crowd: int | None

    @property
    def gap(self) -> timedelta:
        """The longest time without an event."""
        if self.gap_from is None or self.gap_to is None:
            return timedelta(0)
        return self.gap_to - self.gap_from


@dataclass(frozen=True)
class Found:
    """What the sources hold, as a run would read them.

    Attributes:
        event_rows, item_rows: Rows read, refused ones included.
        duplicates: Events dropped since an equal one is there.
        actions: Configured action → how often it happened.
        last_as_of: What `--as-of last` stands for; None where there is no event.
        usable: As of `last_as_of`, per window, the shortest first.
        active_now: Members with an action in the configured window, as of the last midnight.
        items: Distinct items of the items source that can be used.
        items_acted_on: Distinct items of the events.
        without_row: Of those, how many have no row in the items source.
        actions_without_row: Actions on them.
        blank_items: Items without text; None where the source has vectors or categories only.
    """

    window: timedelta
    max_refused_share: float
    event_rows: int
    item_rows: int
    refusals: tuple[Refusal, ...]
    duplicates: int
    figures: Figures
    actions: Mapping[str, int]
    positive: tuple[str, ...]
    last_as_of: datetime | None
    usable: tuple[Usable, ...]
    active_now: int
    items: int
    items_acted_on: int
    without_row: int
    actions_without_row: int
    blank_items: int | None

    def refused(self, source: str) -> int:
        """How many rows of events or items are refused."""
        return sum(refusal.rows for refusal in self.refusals if refusal.source == source)

    @property
    def configured(self) -> Usable | None:
        """What the configured window gives."""
        return next((one for one in self.usable if one.window == self.window), None)


def find(config: Config, now: datetime) -> Found:
    """Read both sources whole, as a first run at `now` would, into a folder that is removed.

    Raises:
        InputError: a source or one of its columns is missing, or has a wrong type.
        RunFailedError: a source cannot be read.
    """
    with TemporaryDirectory(prefix="activity-check-") as folder:
        events = config.events.model_copy(update={"max_refused_share": 1.0})
        aside = config.model_copy(update={"data_dir": folder, "events": events})
        with connect(aside) as con:
            return _find(config, aside, con, now)


def _find(config: Config, aside: Config, con: Connection, now: datetime) -> Found:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    staged = stage_activity(aside, con, midnight)
    refusals = _refusals(aside, con, now)
    item_rows, refused_items = _stage_items(aside, con, midnight, now)

    files = partition_files(aside.layout.activity)
    con.execute(f"create or replace temp view activity as {activity_query(aside, con, files)}")
    row = con.execute(sql("activity_figures", __file__)).fetchone()
    figures = Figures(*(row or ()))
    counts = con.execute("select action, count(*) from activity group by all").fetchall()
    last_as_of: datetime | None = None
    usable: tuple[Usable, ...] = ()
    if figures.last_at is not None:
        day = figures.last_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        last_as_of = min(day + DAY, midnight)
        usable = usable_members(config, con, last_as_of, {*WINDOWS, config.window})
    of_events = con.execute(sql("items_of_events", __file__)).fetchone()
    acted_on, without_row, their_actions = of_events or (0, 0, 0)
    return Found(
        window=config.window,
        max_refused_share=config.events.max_refused_share,
        event_rows=staged.rows_in,
        item_rows=item_rows,
        refusals=(*refusals, *refused_items),
        duplicates=staged.rows_in - sum(staged.refused.values()) - staged.rows_out,
        figures=figures,
        actions=dict.fromkeys(config.actions, 0) | dict(counts),
        positive=_positive(config),
        last_as_of=last_as_of,
        usable=usable,
        active_now=usable_members(config, con, midnight, {config.window})[0].active,
        items=count(con, "select count(distinct item_id) from stg_items"),
        items_acted_on=acted_on,
        without_row=without_row,
        actions_without_row=their_actions,
        blank_items=count(con, sql("blank_items", __file__)) if config.items.text else None,
    )


def _positive(config: Config) -> tuple[str, ...]:
    return tuple(name for name, sign in config.actions.items() if sign == "positive")


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
            f"{SQL_ID_TYPES[config.item_id_type]} as item_id, '' as text where false"
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


def usable_members(
    config: Config, con: Connection, as_of: datetime, windows: set[timedelta]
) -> tuple[Usable, ...]:
    """Count on the relation `activity`, per window, the shortest first."""
    rows = con.execute(
        sql("usable", __file__),
        {
            "as_of": as_of,
            "positive": list(_positive(config)),
            "length": config.length,
            "windows": [window // MICROSECOND for window in sorted(windows)],
            "needed": NEEDED,
        },
    ).fetchall()
    return tuple(Usable(us * MICROSECOND, active, usable) for us, active, usable in rows)
