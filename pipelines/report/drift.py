"""The page of drift: what of the newest snapshot is unusual, and each measure over the days."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from markupsafe import Markup

from operations.drift import counts
from operations.drift_rule import Finding
from pipelines.report import write_page
from pipelines.report.words import DASH, MINUS, number
from pipelines.terminal import visible

TEMPLATE = "drift.html.j2"
DRAWN = 60
"""Plots at most, besides those of measures that were beyond a bound: they are looked at by eye."""
WIDTH, HEIGHT = 330, 150
LEFT, RIGHT, TOP, BOTTOM = 52, 322, 10, 122
"""Edges of the plotted area."""
ROOM = 0.08
"""Of the height, above and below what is drawn."""


@dataclass(frozen=True)
class Drawn:
    """One measure over the days.

    Attributes:
        days: Its findings, the oldest first.
        plot: As one <svg>.
    """

    days: Sequence[Finding]
    plot: Markup

    @property
    def newest(self) -> Finding:
        """The last finding."""
        return self.days[-1]


def write_drift(found: Sequence[Finding], days: Sequence[Finding], name: str, file: Path) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        found: What was found of the newest snapshot, the worst first.
        days: What was found of it and of those before, the oldest first.
        name: Of the workspace.
    """
    series: dict[tuple[str, str, str], list[Finding]] = {}
    for one in days:
        series.setdefault(one.key, []).append(one)
    # What was beyond a bound most lately and worst comes first.
    order = sorted(
        (own for own in series.values() if own[-1].as_of == found[0].as_of), key=_how_quiet
    )
    told = sum(any(map(is_told, own)) for own in order)
    drawn = order[: max(told, DRAWN)]
    context = {
        "name": name,
        "found": found,
        "beyond": [one for one in found if is_told(one)],
        "counts": counts(found),
        "groups": _groups([Drawn(own, Markup(over_days(own))) for own in drawn]),
        "not_drawn": len(order) - len(drawn),
        "n_days": len({one.as_of for one in days}),
        "value": value_of,
    }
    write_page(TEMPLATE, context, file)


def is_told(one: Finding) -> bool:
    """Whether it is beyond a bound."""
    return one.verdict in ("warning", "stop")


def value_of(one: Finding, value: float | None) -> str:
    """Write a value of a measure as people read it: a share in percent.

    >>> value_of(Finding("activity", "action", "APPLY", "share", 0.0, 9), 0.0512)
    '5.12%'
    """
    if value is None:
        return DASH
    if one.kind == "share":
        return f"{100 * value:.3g}%"
    return number(value) if abs(value) >= 1_000 else f"{value:.3g}".replace("-", MINUS)


def _how_quiet(days: Sequence[Finding]) -> tuple[int, int, tuple[str, str, str]]:
    """Order measures: the newest day's verdict, then how often they were beyond a bound."""
    newest = ("stop", "warning").index(days[-1].verdict) if is_told(days[-1]) else 2
    return newest, -sum(map(is_told, days)), days[-1].key


def _groups(drawn: Iterable[Drawn]) -> dict[str, list[Drawn]]:
    groups: dict[str, list[Drawn]] = {}
    for one in drawn:
        groups.setdefault(one.newest.about, []).append(one)
    return groups


def over_days(days: Sequence[Finding]) -> str:
    """Draw a measure over the days, within its bounds, as one <svg>; marked where it was beyond.

    Args:
        days: Its findings, each with `as_of`, the oldest first.
    """
    times = [one.as_of for one in days if one.as_of is not None]
    low, high = _range(days)

    def x(at: datetime | None) -> float:
        assert at is not None
        whole = (times[-1] - times[0]).total_seconds()
        share = (at - times[0]).total_seconds() / whole if whole else 0.5
        return LEFT + (RIGHT - LEFT) * share

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
        return f'<polyline points="{path}" fill="none" {style}/>' if len(points) > 1 else ""

    judged = [one for one in days if one.baseline is not None]
    parts = [
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{edge}" y2="{edge}" stroke="{_ink("line")}"/>'
        for edge in (TOP, BOTTOM)
    ]
    ceiling = [(x(one.as_of), y(high if one.warn[1] is None else one.warn[1])) for one in judged]
    floor = [(x(one.as_of), y(low if one.warn[0] is None else one.warn[0])) for one in judged]
    if len(judged) > 1:
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in [*ceiling, *reversed(floor)])
        parts.append(f'<polygon points="{path}" fill="{_ink("good")}" opacity="0.13"/>')
    for end in (0, 1):
        bound = [(x(one.as_of), y(value)) for one in judged if (value := one.stop[end]) is not None]
        parts.append(line(bound, f'stroke="{_ink("bad")}" stroke-dasharray="4 3" opacity="0.8"'))
    expected = [(x(one.as_of), y(one.baseline)) for one in judged if one.baseline is not None]
    parts.append(line(expected, f'stroke="{_ink("muted")}" stroke-width="1" opacity="0.6"'))
    values = [(x(one.as_of), y(one.value)) for one in days]
    parts.append(line(values, f'stroke="{_ink("accent")}" stroke-width="1.8"'))
    parts += [_mark(one, *point) for one, point in zip(days, values, strict=True)]
    text = '<text x="{}" y="{}" text-anchor="{}" font-size="11" fill="'
    text += _ink("muted") + '">{}</text>'
    for value, edge in ((high, TOP + 9), (low, BOTTOM)):
        parts.append(text.format(LEFT - 6, edge, "end", escape(value_of(days[-1], value))))
    for at, across, anchor in ((times[0], LEFT, "start"), (times[-1], RIGHT, "end")):
        if anchor == "end" or times[0] != times[-1]:
            parts.append(text.format(across, BOTTOM + 17, anchor, f"{at:%b} {at.day}"))
    label = escape(f"{days[-1]} by day", quote=True)
    head = f'<svg class="plot" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return visible(head + "".join(parts) + "</svg>")


def _mark(one: Finding, across: float, up: float) -> str:
    """Draw a day's point: small where it is usual; one that was accepted is hollow."""
    assert one.as_of is not None
    radius, fill, stroke = 1.8, "accent", "accent"
    if one.verdict == "warning":
        radius, fill, stroke = 4, "c1", "c1"
    if one.verdict == "stop":
        radius, fill, stroke = 4.5, "bad" if one.stops else "card", "bad"
    said = f"{one.as_of:%Y-%m-%d}: {value_of(one, one.value)}"
    if one.baseline is not None:
        said += f", expected {value_of(one, one.baseline)}"
    if one.accepted:
        said += f", accepted: {one.accepted}"
    return (
        f'<circle cx="{across:.1f}" cy="{up:.1f}" r="{radius}" fill="{_ink(fill)}" '
        f'stroke="{_ink(stroke)}" stroke-width="1.5"><title>{escape(said)}</title></circle>'
    )


def _ink(name: str) -> str:
    """Return a colour of report.css."""
    return f"var(--{name})"


def _range(days: Sequence[Finding]) -> tuple[float, float]:
    """Return the ends of the axis of values: all that is drawn, and some room."""
    ends = [one.value for one in days]
    ends += [bound for one in days for bound in (*one.warn, *one.stop) if bound is not None]
    low, high = min(ends), max(ends)
    room = ROOM * (high - low) or abs(high) * ROOM or 1.0
    # What cannot be below 0 is not drawn there.
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room
