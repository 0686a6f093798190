"""What a staged data folder holds: how much activity, of when, and how good it is for sequences."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from models.spec import Learned
from operations.fits import current_lines, fit_until
from pipelines.init.look import NEEDED, WINDOWS
from transformations.config import Config
from transformations.duck import count, sql
from transformations.layout import partition_files
from transformations.searches import searches_query
from transformations.tables import activity_query

Connection = duckdb.DuckDBPyConnection
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
ALL_LABELS = "all_action"
"""The objective with more labels than actions."""


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
class Training:
    """What a training of a line of the catalogue would see at most.

    Attributes:
        positives: Positive actions that may be labels: before `until`, not the first of a member
            that has `min_actions`.
        until: Where its validation begins.
    """

    line: str
    positives: int
    until: datetime
    min_actions: int


@dataclass(frozen=True)
class Activity:
    """What is staged, for a run as of a timestamp.

    Attributes:
        as_of: The run's.
        actions: Configured action → how often it happened.
        last_as_of: What `--as-of last` stands for, at most `as_of`; None where there is no event.
        usable: As of `last_as_of`, per window, the shortest first.
        active_now: Members with an action in the configured window, as of `as_of`.
        trainings: Of the catalogue's learned lines that have no weights yet, as of `as_of`.
        items: Distinct items of the items source that can be used.
        items_acted_on: Distinct items of the events.
        without_row: Of those, how many have no row in the items source.
        actions_without_row: Actions on them.
        blank_items: Items without text; None where the source has vectors or categories only.
        searches: Distinct texts that members acted on; None where no action has a text.
    """

    as_of: datetime
    window: timedelta
    min_positives: int
    figures: Figures
    actions: Mapping[str, int]
    positive: tuple[str, ...]
    last_as_of: datetime | None
    usable: tuple[Usable, ...]
    active_now: int
    trainings: tuple[Training, ...]
    items: int
    items_acted_on: int
    without_row: int
    actions_without_row: int
    blank_items: int | None
    searches: int | None = None

    @property
    def configured(self) -> Usable | None:
        """What the configured window gives."""
        return next((one for one in self.usable if one.window == self.window), None)


def activity_of(config: Config, con: Connection, as_of: datetime) -> Activity:
    """Count what is staged, in a few passes over all actions.

    Needs the relation `stg_items`; leaves the views `activity` and `searches`.

    Args:
        as_of: The timestamp of the run that is to come.
    """
    files = partition_files(config.layout.activity)
    con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
    row = con.execute(sql("activity_figures", __file__)).fetchone()
    figures = Figures(*(row or ()))
    counts = con.execute("select action, count(*) from activity group by all").fetchall()
    last_as_of: datetime | None = None
    usable: tuple[Usable, ...] = ()
    trainings: tuple[Training, ...] = ()
    if figures.last_at is not None:
        day = figures.last_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        last_as_of = min(day + DAY, as_of)
        usable = usable_members(config, con, last_as_of, {*WINDOWS, config.window})
        trainings = _trainings(config, con, as_of)
    now = [one for one in usable if one.window == config.window and last_as_of == as_of]
    (active,) = now or usable_members(config, con, as_of, {config.window})
    texts = searches_query(config.rules, config.layout)
    con.execute(f"create or replace temp view searches as {texts}")
    of_events = con.execute(sql("items_of_events", __file__)).fetchone()
    acted_on, without_row, their_actions = of_events or (0, 0, 0)
    return Activity(
        as_of=as_of,
        window=config.window,
        min_positives=config.min_positives,
        figures=figures,
        actions=dict.fromkeys(config.actions, 0) | dict(counts),
        positive=_positive(config),
        last_as_of=last_as_of,
        usable=usable,
        active_now=active.active,
        trainings=trainings,
        items=count(con, sql("n_items", __file__)),
        items_acted_on=acted_on,
        without_row=without_row,
        actions_without_row=their_actions,
        blank_items=count(con, sql("blank_items", __file__)) if config.items.text else None,
        searches=count(con, "select count(*) from searches") if config.rules.texts else None,
    )


def usable_members(
    config: Config, con: Connection, as_of: datetime, windows: set[timedelta]
) -> tuple[Usable, ...]:
    """Count on the relation `activity`, per window, the shortest first."""
    rows = con.execute(
        sql("usable", __file__),
        {
            "as_of": as_of,
            "length": config.length,
            "windows": [window // MICROSECOND for window in sorted(windows)],
            "needed": NEEDED,
        },
    ).fetchall()
    return tuple(Usable(us * MICROSECOND, active, usable) for us, active, usable in rows)


def _trainings(config: Config, con: Connection, as_of: datetime) -> tuple[Training, ...]:
    found = []
    until = fit_until(config, as_of)
    for line in current_lines(config):
        if not isinstance(line, Learned) or line.recipe.objective == ALL_LABELS:
            continue
        if line.is_packaged(config):
            continue
        before, least = until - line.recipe.validation, line.recipe.examples.min_actions
        parameters = {
            "until": until,
            "before": before,
            "min_actions": least,
            "predicted": list(line.predicts or config.actions),
        }
        n_positive = count(con, sql("possible_labels", __file__), parameters)
        found.append(Training(str(line), n_positive, before, least))
    return tuple(found)


def _positive(config: Config) -> tuple[str, ...]:
    return tuple(name for name, action in config.rules.actions.items() if action.can_be_positive)
