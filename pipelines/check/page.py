"""What was found as one HTML page, in the style of the evaluation's report."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from pipelines.check.find import Found
from pipelines.check.say import figures_of, rows_of
from pipelines.check.sentences import days, duration, of_refusal, share, warnings_of
from pipelines.check.shapes import UNITS, Shapes
from pipelines.init.look import NEEDED
from pipelines.report import plots, write_page

TEMPLATE = "check.html.j2"


def write_check(found: Found, name: str, now: datetime, file: Path) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        found: With its shapes.
        name: What was checked.
        now: As find.py was given it.
    """
    activity = found.activity
    context = {
        "name": name,
        "now": now,
        "found": found,
        "activity": activity,
        "age": days(now - activity.figures.last_at) if activity.figures.last_at else None,
        "warnings": warnings_of(found, now),
        "refusals": [(of_refusal(refusal), refusal.mend) for refusal in found.refusals],
        "rows": rows_of(found),
        "figures": figures_of(activity, now),
        "needed": NEEDED,
        "windows": list(_windows(found)),
        "window_plot": _window_plot(found) if activity.usable else None,
        "plots": {},
        "legend": plots.series_colours(activity.actions),
    }
    if found.shapes is not None and activity.figures.n_actions:
        context["plots"] = dict(_plots(found.shapes))
    write_page(TEMPLATE, context, file)


def _windows(found: Found) -> Iterator[tuple[str, bool, int, int, str]]:
    activity = found.activity
    for one in activity.usable:
        of_all = share(one.usable, activity.figures.n_members)
        is_own = one.window == activity.window
        yield duration(one.window), is_own, one.active, one.usable, of_all


def _window_plot(found: Found) -> Markup:
    members = found.activity.figures.n_members or 1
    rows = [
        (duration(one.window), one.usable / members, share(one.usable, members))
        for one in found.activity.usable
    ]
    marked = duration(found.activity.window)
    return Markup(plots.shares(rows, "members whose sequence is usable, by window", marked))


def _plots(shapes: Shapes) -> Iterator[tuple[str, Markup]]:
    length = UNITS[shapes.unit]
    over_time = plots.over_time(shapes.starts, length, shapes.over_time, "actions")
    yield "over_time", Markup(over_time)
    yield "per_member", Markup(plots.columns(shapes.per_member, "members by actions"))
    yield "ages", Markup(plots.columns(shapes.ages, "members by the age of their last action"))
    yield "pauses", Markup(plots.columns(shapes.pauses, "actions by the time since the one before"))
