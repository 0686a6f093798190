"""What was found, in tables of 80 columns, and in sentences of what will make the result poor."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.check.find import Found, Refusal
from pipelines.init.look import NEEDED
from pipelines.progress import number, plain_table

DAY = timedelta(days=1)
SAMPLES_SHOWN = 3
WIDEST_SAMPLE = 40

FEWER_MEMBERS = 0.9
"""Worth a word: as of now fewer members than this share have actions, beside the last events."""
FEW_USABLE = 0.25
MANY_WITHOUT_ROW = 0.05
MANY_BLANK = 0.1
MANY_DUPLICATES = 0.1
MANY_SHARED = 0.2
MANY_AT_MIDNIGHT = 0.9
CROWDED, CROWD = 0.1, 20
"""Share of the actions, and how many at least, that make one timestamp a suspicious one."""


def say(console: Console, found: Found, now: datetime) -> None:
    """Print the tables, then the lines that mend refusals, then the sentences."""
    console.print(_rows(found))
    for refusal in found.refusals:
        _say_refusal(console, refusal)
    console.print()
    console.print(_activity(found, now))
    if found.last_as_of is not None:
        console.print()
        console.print(_windows(found))
    console.print()
    warnings = warnings_of(found, now)
    for warning in warnings:
        console.print(f"[yellow]•[/] {escape(warning)}", highlight=False)
    if not warnings:
        console.print("[green]Nothing here would make the result poor.[/]")


def warnings_of(found: Found, now: datetime) -> list[str]:
    """Return sentences of what will make the result poor, the worst first; [] where nothing will.

    Args:
        now: As find.py was given it.
    """
    return [
        *_of_rows(found),
        *_of_age(found, now),
        *_of_members(found),
        *_of_items(found),
        *_of_times(found),
    ]


def _of_rows(found: Found) -> Iterator[str]:
    refused, rows = found.refused("events"), found.event_rows
    if rows == 0:
        yield "the events source has no rows"
    elif refused == rows:
        yield f"none of the {rows:,} events can be used; a run fails"
    elif refused > found.max_refused_share * rows:
        yield (
            f"{_share(refused, rows)} of the events are refused, more than the "
            f"{found.max_refused_share:.1%} that events.max_refused_share allows; a run fails"
        )
    if found.item_rows and found.refused("items") == found.item_rows:
        yield f"none of the {found.item_rows:,} items can be used; a run fails"
    if found.duplicates > MANY_DUPLICATES * rows:
        yield (
            f"{_share(found.duplicates, rows)} of the events are exact duplicates and count once; "
            "a coarser time than the source's own makes duplicates of repeated actions"
        )


def _of_age(found: Found, now: datetime) -> Iterator[str]:
    newest, configured = found.figures.last_at, found.configured
    if newest is None or found.last_as_of is None or configured is None:
        return
    if now - newest > DAY and found.active_now < FEWER_MEMBERS * configured.active:
        only = f"only {found.active_now:,}" if found.active_now else "none"
        yield (
            f"the newest event is {_days(now - newest)} old: as of {now:%Y-%m-%d} {only} of "
            f"{found.figures.n_members:,} members have actions; --as-of last uses "
            f"{found.last_as_of:%Y-%m-%d}, where {configured.active:,} have"
        )


def _of_members(found: Found) -> Iterator[str]:
    configured = found.configured
    if configured is None or found.last_as_of is None:
        return
    if configured.usable < FEW_USABLE * configured.active:
        text = (
            f"as of {found.last_as_of:%Y-%m-%d} only {configured.usable:,} of the "
            f"{configured.active:,} members with actions in {_window(found.window)} have "
            f"{NEEDED} positive ones"
        )
        best = max(found.usable, key=lambda one: one.usable)
        if best.usable > 2 * configured.usable:
            text += f"; with window: {_window(best.window)} it would be {best.usable:,}"
        yield text
    if configured.active == 0:
        yield f"as of {found.last_as_of:%Y-%m-%d} no member has an action in the window"
    for action, n_actions in found.actions.items():
        if n_actions == 0:
            yield f"the action {action} never occurs: its vector is the default one for everybody"
    if found.figures.n_actions and not any(found.actions[name] for name in found.positive):
        yield "no positive action occurs: nothing can be learned or evaluated"


def _of_items(found: Found) -> Iterator[str]:
    if found.without_row > MANY_WITHOUT_ROW * found.items_acted_on:
        text = (
            f"{_share(found.without_row, found.items_acted_on)} of the events' items have no row "
            f"in the items source: {found.actions_without_row:,} actions get no vector"
        )
        if found.without_row == found.items_acted_on:
            text += "; see whether items.item_id names the same ids as events.columns.item_id"
        yield text
    if found.blank_items is not None and found.blank_items > MANY_BLANK * found.items:
        yield (
            f"{_share(found.blank_items, found.items)} of the items have no text: their vectors "
            "come from categories alone, or say nothing"
        )


def _of_times(found: Found) -> Iterator[str]:
    figures = found.figures
    n_actions = figures.n_actions
    if figures.gap > found.window and figures.gap_from and figures.gap_to:
        yield (
            f"no event for {_days(figures.gap)}, from {figures.gap_from:%Y-%m-%d} to "
            f"{figures.gap_to:%Y-%m-%d}: longer than the window, so snapshots in it are empty"
        )
    if figures.n_old:
        yield (
            f"{figures.n_old:,} actions lie before 1990: a default that somebody wrote, or "
            "events.time_unit is wrong"
        )
    if n_actions and figures.n_midnight >= MANY_AT_MIDNIGHT * n_actions:
        yield (
            f"{_share(figures.n_midnight, n_actions)} of the actions lie at midnight: dates, not "
            "times; a day's actions are ordered by item_id"
        )
    elif n_actions and figures.n_shared > MANY_SHARED * n_actions:
        yield (
            f"{_share(figures.n_shared, n_actions)} of the actions share member and timestamp with "
            "another; they are ordered by item_id, not by what came first"
        )
    crowd = figures.n_crowd or 0
    if figures.crowd_at and crowd >= CROWD and crowd > CROWDED * n_actions:
        yield (
            f"{_share(crowd, n_actions)} of the actions lie at {figures.crowd_at:%Y-%m-%d %H:%M}: "
            "the time of an import, not of the actions?"
        )


def _rows(found: Found) -> Table:
    table = plain_table("Rows that a first run would take")
    table.add_column("source")
    for name in ("read", "taken", "refused", "duplicates"):
        table.add_column(name, justify="right", no_wrap=True)
    counts = {"events": (found.event_rows, found.duplicates), "items": (found.item_rows, None)}
    for source, (rows, duplicates) in counts.items():
        refused = found.refused(source)
        taken = rows - refused - (duplicates or 0)
        table.add_row(source, number(rows), number(taken), number(refused), number(duplicates))
    return table


def _say_refusal(console: Console, refusal: Refusal) -> None:
    samples = ", ".join(_short(sample) for sample in refusal.samples[:SAMPLES_SHOWN])
    such_as = f", such as {samples}" if samples else ""
    text = f"{refusal.source}: {refusal.reason}: {refusal.rows:,} rows{such_as}"
    console.print(f"[red]•[/] {escape(text)}", highlight=False)
    colon = ":" if refusal.mend.lines else ""
    console.print(f"  {escape(refusal.mend.words)}{colon}", highlight=False)
    for line in refusal.mend.lines:
        console.print(f"    [bold]{escape(line)}[/]", highlight=False)


def _activity(found: Found, now: datetime) -> Table:
    figures = found.figures
    table = plain_table("Activity")
    table.add_column("figure", no_wrap=True)
    table.add_column("value")
    lines = {"actions": _listed(found), "members": number(figures.n_members)}
    if figures.first_at and figures.last_at:
        age = _days(now - figures.last_at)
        lines["first and last event"] = (
            f"{figures.first_at:%Y-%m-%d %H:%M} to {figures.last_at:%Y-%m-%d %H:%M} UTC"
        )
        lines["age of the newest event"] = age
        if figures.gap_from:
            lines["largest gap"] = f"{_days(figures.gap)}, from {figures.gap_from:%Y-%m-%d}"
        lines["actions per member"] = (
            f"{figures.p50:,} (median), {figures.p90:,} (p90), {figures.most:,} (most)"
        )
        lines["sharing member and time"] = _share(figures.n_shared, figures.n_actions)
        lines["at midnight"] = _share(figures.n_midnight, figures.n_actions)
        if figures.crowd_at:
            lines["most at one timestamp"] = (
                f"{figures.n_crowd:,}, at {figures.crowd_at:%Y-%m-%d %H:%M}"
            )
        lines["items without a row"] = (
            f"{found.without_row:,} of {found.items_acted_on:,} of the events' items "
            f"({_share(found.without_row, found.items_acted_on)})"
        )
    if found.blank_items is not None:
        lines["items without text"] = f"{found.blank_items:,} of {found.items:,}"
    for name, value in lines.items():
        table.add_row(name, escape(value))
    return table


def _windows(found: Found) -> Table:
    table = plain_table(
        f"As of {found.last_as_of:%Y-%m-%d}: members with {NEEDED} positive actions"
    )
    table.add_column("window", no_wrap=True)
    for name in ("with actions", "usable", "share of all"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.usable:
        mark = "  (configured)" if one.window == found.window else ""
        share = _share(one.usable, found.figures.n_members)
        table.add_row(_window(one.window) + mark, number(one.active), number(one.usable), share)
    return table


def _listed(found: Found) -> str:
    each = ", ".join(f"{name} {rows:,}" for name, rows in found.actions.items())
    return f"{found.figures.n_actions:,}: {each}"


def _share(part: int, whole: int) -> str:
    """Write a share in percent, with a digit more below one.

    >>> _share(1, 3), _share(1, 300), _share(0, 0), _share(999_999, 1_000_000)
    ('33%', '0.3%', '0%', '>99%')
    """
    share = part / whole if whole else 0.0
    if 0 < share < 0.01:
        return f"{share:.1%}" if share >= 0.0005 else "<0.1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def _days(length: timedelta) -> str:
    days = length / DAY
    unit = "day" if round(days, 1) == 1 else "days"
    return f"{days:,.0f} {unit}" if days >= 1 else f"{days * 24:.0f} hours"


def _window(window: timedelta) -> str:
    """Write a duration as the configuration does.

    >>> _window(timedelta(days=28)), _window(timedelta(hours=12)), _window(timedelta(minutes=90))
    ('28d', '12h', '90m')
    """
    for unit, letter in ((DAY, "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if window % unit == timedelta(0):
            return f"{window // unit}{letter}"
    return f"{window // timedelta(seconds=1)}s"


def _short(sample: str) -> str:
    sample = " ".join(sample.split())
    return repr(sample if len(sample) <= WIDEST_SAMPLE else sample[: WIDEST_SAMPLE - 1] + "…")
