"""What was found, in tables of 80 columns; at the start of a run in a few lines."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import duckdb
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.check.figures import Activity, activity_of
from pipelines.check.find import Found, Refusal
from pipelines.check.sentences import (
    days,
    duration,
    of_activity,
    of_newest,
    of_refusal,
    share,
    warnings_of,
)
from pipelines.init.look import NEEDED
from pipelines.progress import number, plain_table
from pipelines.terminal import escape
from transformations.config import Config
from transformations.duck import parquet
from transformations.layout import partition_files, span

Connection = duckdb.DuckDBPyConnection
MANY_ACTIONS = 2_000_000
"""Up to that many are counted at the start of a run: about two seconds on two cores."""


def say(console: Console, found: Found, now: datetime) -> None:
    """Print the tables, then the lines that mend refusals, then the sentences."""
    console.print(_rows(found))
    for refusal in found.refusals:
        _say_refusal(console, refusal)
    console.print()
    console.print(_table("Activity", figures_of(found.activity, now)))
    if found.activity.last_as_of is not None:
        console.print()
        console.print(_windows(found.activity))
    console.print()
    warnings = warnings_of(found, now)
    _bullets(console, warnings)
    if not warnings:
        console.print("[green]Nothing here would make the result poor.[/]")


def say_staged(console: Console, config: Config, con: Connection, as_of: datetime) -> None:
    """Say in short how much is staged, and what will make the snapshot of `as_of` poor.

    Of more than MANY_ACTIONS actions it says what their footers say, since each figure besides
    takes a pass over all of them.
    """
    files = partition_files(config.layout.activity)
    ends = span(files)
    if ends is None:
        return  # what comes next says why
    n_actions = sum(pq.read_metadata(file).num_rows for file in files)
    what, warnings = f"{n_actions:,} actions", [*of_newest(ends[1], as_of)]
    if n_actions <= MANY_ACTIONS:
        con.execute(
            "create or replace temp view stg_items as from " + parquet([config.layout.staged_items])
        )
        activity = activity_of(config, con, as_of)
        what += f" of {activity.figures.n_members:,} members"
        warnings = [*of_activity(activity, as_of)]
    console.print(f"{escape(what)}, {ends[0]:%Y-%m-%d} to {ends[1]:%Y-%m-%d}", highlight=False)
    _bullets(console, warnings)


def rows_of(found: Found) -> list[tuple[str, int, int, int, int | None]]:
    """Return per source: rows read, taken, refused, and duplicates of events."""
    counts = {"events": (found.event_rows, found.duplicates), "items": (found.item_rows, None)}
    return [
        (source, rows, rows - found.refused(source) - (twice or 0), found.refused(source), twice)
        for source, (rows, twice) in counts.items()
    ]


def _rows(found: Found) -> Table:
    table = plain_table("Rows that a first run would take")
    table.add_column("source")
    for name in ("read", "taken", "refused", "duplicates"):
        table.add_column(name, justify="right", no_wrap=True)
    for source, *counts in rows_of(found):
        table.add_row(source, *map(number, counts))
    return table


def _say_refusal(console: Console, refusal: Refusal) -> None:
    console.print(f"[red]•[/] {escape(of_refusal(refusal))}", highlight=False)
    colon = ":" if refusal.mend.lines else ""
    console.print(f"  {escape(refusal.mend.words)}{colon}", highlight=False)
    for line in refusal.mend.lines:
        console.print(f"    [bold]{escape(line)}[/]", highlight=False)


def figures_of(activity: Activity, now: datetime) -> dict[str, str]:
    """Return what is known of the activity in figures, each with its name."""
    figures = activity.figures
    lines = {"actions": _listed(activity), "members": number(figures.n_members)}
    if figures.first_at and figures.last_at:
        lines["first and last event"] = (
            f"{figures.first_at:%Y-%m-%d %H:%M} to {figures.last_at:%Y-%m-%d %H:%M} UTC"
        )
        lines["age of the newest event"] = days(now - figures.last_at)
        if figures.gap_from:
            lines["largest gap"] = f"{days(figures.gap)}, from {figures.gap_from:%Y-%m-%d}"
        lines["actions per member"] = (
            f"{figures.p50:,} (median), {figures.p90:,} (p90), {figures.most:,} (most)"
        )
        lines["sharing member and time"] = share(figures.n_shared, figures.n_actions)
        lines["at midnight"] = share(figures.n_midnight, figures.n_actions)
        if figures.crowd_at:
            lines["most at one timestamp"] = (
                f"{figures.n_crowd:,}, at {figures.crowd_at:%Y-%m-%d %H:%M}"
            )
        lines["items without a row"] = (
            f"{activity.without_row:,} of {activity.items_acted_on:,} of the events' items "
            f"({share(activity.without_row, activity.items_acted_on)})"
        )
    if activity.searches is not None:
        lines["distinct texts"] = f"{activity.searches:,} that members acted on, as by searching"
    if activity.blank_items is not None:
        lines["items without text"] = f"{activity.blank_items:,} of {activity.items:,}"
    return lines


def _table(title: str, lines: Mapping[str, str]) -> Table:
    table = plain_table(title)
    table.add_column("figure", no_wrap=True)
    table.add_column("value")
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _windows(activity: Activity) -> Table:
    table = plain_table(
        f"As of {activity.last_as_of:%Y-%m-%d}: members with {NEEDED} positive actions"
    )
    table.add_column("window", no_wrap=True)
    for name in ("with actions", "usable", "share of all"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in activity.usable:
        mark = "  (configured)" if one.window == activity.window else ""
        of_all = share(one.usable, activity.figures.n_members)
        table.add_row(duration(one.window) + mark, number(one.active), number(one.usable), of_all)
    return table


def _bullets(console: Console, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        console.print(f"[yellow]•[/] {escape(sentence)}", highlight=False)


def _listed(activity: Activity) -> str:
    each = ", ".join(f"{name} {rows:,}" for name, rows in activity.actions.items())
    return f"{activity.figures.n_actions:,}: {each}"
