"""What will make the result poor, in sentences."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from pipelines.check.figures import Activity
from pipelines.check.find import Found, Refusal
from pipelines.coverage import say_gaps
from pipelines.init.look import NEEDED

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


def warnings_of(found: Found, now: datetime) -> list[str]:
    """Return sentences of what will make the result poor, the worst first; [] where nothing will.

    Args:
        now: As find.py was given it.
    """
    return [
        *_of_rows(found),
        *of_activity(found.activity, now),
        *say_gaps(found.gaps, "snapshot"),
    ]


def of_refusal(refusal: Refusal) -> str:
    """Say why rows are refused, with some of their values."""
    samples = ", ".join(_short(sample) for sample in refusal.samples[:SAMPLES_SHOWN])
    such_as = f", such as {samples}" if samples else ""
    return f"{refusal.source}: {refusal.reason}: {refusal.rows:,} rows{such_as}"


def of_activity(activity: Activity, now: datetime) -> Iterator[str]:
    """Yield those about what is staged."""
    yield from _of_age(activity, now)
    yield from _of_members(activity)
    yield from _of_trainings(activity)
    yield from _of_items(activity)
    yield from _of_times(activity)


def of_newest(newest: datetime, as_of: datetime) -> Iterator[str]:
    """Say that a snapshot of `as_of` comes long after the last event, without counting members."""
    if as_of - newest > DAY:
        last = newest.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        yield (
            f"the newest event is {days(as_of - newest)} older than {as_of:%Y-%m-%d}; --as-of last "
            f"uses {last:%Y-%m-%d}"
        )


def _of_rows(found: Found) -> Iterator[str]:
    refused, rows = found.refused("events"), found.event_rows
    if rows == 0:
        yield "the events source has no rows"
    elif refused == rows:
        yield f"none of the {rows:,} events can be used; a run fails"
    elif refused > found.max_refused_share * rows:
        yield (
            f"{share(refused, rows)} of the events are refused, more than the "
            f"{found.max_refused_share:.1%} that events.max_refused_share allows; a run fails"
        )
    if found.item_rows and found.refused("items") == found.item_rows:
        yield f"none of the {found.item_rows:,} items can be used; a run fails"
    if found.duplicates > MANY_DUPLICATES * rows:
        yield (
            f"{share(found.duplicates, rows)} of the events are exact duplicates and count once; "
            "a coarser time than the source's own makes duplicates of repeated actions"
        )


def _of_age(activity: Activity, now: datetime) -> Iterator[str]:
    newest, configured = activity.figures.last_at, activity.configured
    if newest is None or activity.last_as_of is None or configured is None:
        return
    if now - newest > DAY and activity.active_now < FEWER_MEMBERS * configured.active:
        only = f"only {activity.active_now:,}" if activity.active_now else "none"
        yield (
            f"the newest event is {days(now - newest)} old: as of {activity.as_of:%Y-%m-%d} "
            f"{only} of {activity.figures.n_members:,} members have actions; --as-of last uses "
            f"{activity.last_as_of:%Y-%m-%d}, where {configured.active:,} have"
        )


def _of_members(activity: Activity) -> Iterator[str]:
    configured = activity.configured
    if configured is None or activity.last_as_of is None:
        return
    if configured.usable < FEW_USABLE * configured.active:
        text = (
            f"as of {activity.last_as_of:%Y-%m-%d} only {configured.usable:,} of the "
            f"{configured.active:,} members with actions in {duration(activity.window)} have "
            f"{NEEDED} positive ones"
        )
        best = max(activity.usable, key=lambda one: one.usable)
        if best.usable > 2 * configured.usable:
            text += f"; with window: {duration(best.window)} it would be {best.usable:,}"
        yield text
    if configured.active == 0:
        yield f"as of {activity.last_as_of:%Y-%m-%d} no member has an action in the window"
    for action, n_actions in activity.actions.items():
        if n_actions == 0:
            yield f"the action {action} never occurs: its vector is the default one for everybody"
    if activity.figures.n_actions and not any(activity.actions[name] for name in activity.positive):
        yield "no positive action occurs: nothing can be learned or evaluated"


def _of_trainings(activity: Activity) -> Iterator[str]:
    for one in activity.trainings:
        if one.positives < activity.min_positives:
            yield (
                f"{one.line} could learn from at most {one.positives:,} positive actions before "
                f"{one.until:%Y-%m-%d}, of members with {one.min_actions} actions, and "
                f"min_positives asks for {activity.min_positives:,}: it is not trained"
            )


def _of_items(activity: Activity) -> Iterator[str]:
    acted_on, items = activity.items_acted_on, activity.items
    if activity.without_row > MANY_WITHOUT_ROW * acted_on:
        text = (
            f"{share(activity.without_row, acted_on)} of the events' items have no row in the "
            f"items source: {activity.actions_without_row:,} actions get no vector"
        )
        if activity.without_row == acted_on:
            text += "; see whether items.item_id names the same ids as events.columns.item_id"
        yield text
    if activity.blank_items is not None and activity.blank_items > MANY_BLANK * items:
        yield (
            f"{share(activity.blank_items, items)} of the items have no text: their vectors "
            "come from categories alone, or say nothing"
        )


def _of_times(activity: Activity) -> Iterator[str]:
    figures = activity.figures
    n_actions = figures.n_actions
    if figures.gap > activity.window and figures.gap_from and figures.gap_to:
        yield (
            f"no event for {days(figures.gap)}, from {figures.gap_from:%Y-%m-%d} to "
            f"{figures.gap_to:%Y-%m-%d}: longer than the window, so snapshots in it are empty"
        )
    if figures.n_old:
        yield (
            f"{figures.n_old:,} actions lie before 1990: a default that somebody wrote, or "
            "events.time_unit is wrong"
        )
    if n_actions and figures.n_midnight >= MANY_AT_MIDNIGHT * n_actions:
        yield (
            f"{share(figures.n_midnight, n_actions)} of the actions lie at midnight: dates, not "
            "times; a day's actions are ordered by item_id"
        )
    elif n_actions and figures.n_shared > MANY_SHARED * n_actions:
        yield (
            f"{share(figures.n_shared, n_actions)} of the actions share member and timestamp with "
            "another; they are ordered by item_id, not by what came first"
        )
    crowd = figures.n_crowd or 0
    if figures.crowd_at and crowd >= CROWD and crowd > CROWDED * n_actions:
        yield (
            f"{share(crowd, n_actions)} of the actions lie at {figures.crowd_at:%Y-%m-%d %H:%M}: "
            "the time of an import, not of the actions?"
        )


def share(part: int, whole: int) -> str:
    """Write a share in percent, with a digit more below one.

    >>> share(1, 3), share(1, 300), share(0, 0), share(999_999, 1_000_000)
    ('33%', '0.3%', '0%', '>99%')
    """
    share = part / whole if whole else 0.0
    if 0 < share < 0.01:
        return f"{share:.1%}" if share >= 0.0005 else "<0.1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def days(length: timedelta) -> str:
    """Write a length of time in days, or in hours below one.

    >>> days(timedelta(days=180, hours=3)), days(timedelta(hours=6)), days(timedelta(days=1))
    ('180 days', '6 hours', '1 day')
    """
    whole = length / DAY
    unit = "day" if round(whole, 1) == 1 else "days"
    return f"{whole:,.0f} {unit}" if whole >= 1 else f"{whole * 24:.0f} hours"


def duration(window: timedelta) -> str:
    """Write a duration as the configuration does.

    >>> duration(timedelta(days=28)), duration(timedelta(hours=12)), duration(timedelta(minutes=90))
    ('28d', '12h', '90m')
    """
    for unit, letter in ((DAY, "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if window % unit == timedelta(0):
            return f"{window // unit}{letter}"
    return f"{window // timedelta(seconds=1)}s"


def _short(sample: str) -> str:
    sample = " ".join(sample.split())
    return repr(sample if len(sample) <= WIDEST_SAMPLE else sample[: WIDEST_SAMPLE - 1] + "…")
