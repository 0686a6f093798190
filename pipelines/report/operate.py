"""The page of `activity demo operate`: timeline, what lists brought, gates, one experiment."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from markupsafe import Markup

from operations.releases import Release
from pipelines.operate.record import Compared, Estimate, Move, OfDay, Record, Told, ranker_of
from pipelines.report import write_page
from pipelines.report.plots import INK, SERIES
from pipelines.report.words import MINUS
from pipelines.terminal import visible
from transformations.timestamps import day as day_text

TEMPLATE = "operate.html.j2"
WIDTH, LEFT, RIGHT = 1160, 120, 1110
LANE, TOP = 34, 46
GATES = ("future", "parity", "request", "bytes", "latency", "quality")


def write_operate(record: Record, file: Path) -> None:
    """Write the page; it needs no network and no other file."""
    context = {
        "record": record,
        "timeline": Markup(timeline(record)),
        "brought": Markup(brought(record)),
        "forest": Markup(forest(record.compared)) if record.compared else None,
        "weeks": _weeks_of(record.told),
        "gates": [(one, _gates(one), record.notes.get(one.number, "")) for one in record.releases],
        "gate_names": GATES,
        "colours_of": {one.number: _colour(one.number) for one in record.releases},
        "ranker_of": ranker_of,
        "percent": percent,
        "day_text": day_text,
    }
    write_page(TEMPLATE, context, file)


def percent(value: float) -> str:
    """Write a lift.

    >>> percent(-0.0312)
    '\N{MINUS SIGN}3.1%'
    """
    return f"{value:+.1%}".replace("-", MINUS)


def timeline(record: Record) -> str:
    """Draw the releases over the days, as one <svg>: who serves, with which share, what stops."""
    lanes = {one.number: TOP + LANE * row for row, one in enumerate(record.releases)}
    alerts = TOP + LANE * len(lanes)
    bottom = alerts + LANE + 6
    parts = [_weeks(record, TOP - 10, bottom)]
    for stop in record.stopped:
        x, wide = _x(record, stop.day - 1), _x(record, stop.day) - _x(record, stop.day - 1)
        said = escape("; ".join(stop.said), quote=True)
        parts.append(
            f'<rect x="{x:.1f}" y="{TOP - 10}" width="{wide:.1f}" height="{bottom - TOP + 10}" '
            f'fill="{_ink("bad")}" opacity="0.13"><title>{said}</title></rect>'
        )
        parts.append(_dot(x + wide, alerts + 12, "bad", f"stop: {said}"))
    for one in record.releases:
        y, made = lanes[one.number], _x(record, record.day_of(one.made_at))
        parts.append(_text(LEFT - 12, y + 16, f"release {one.number}", "end", "ink"))
        end = _x(record, record.days)
        if one.retired_at is not None:
            end = min(end, _x(record, record.day_of(one.retired_at)))
        parts.append(_bar(made, end, y + 10, 4, _colour(one.number), 0.35, "published"))
    for number, first, last, share in _served(record):
        tall = 18.0 if share >= 1 else 6 + 12 * share
        said = f"release {number} serves {share:.0%} of the members"
        x, up = _x(record, first), lanes[number] + 12 - tall / 2
        parts.append(_bar(x, _x(record, last), up, tall, _colour(number), 0.95, said))
        if share < 1:
            parts.append(_text(_x(record, last) + 6, lanes[number] + 7, f"{share:.0%}", "start"))
    for one in record.releases:
        made = _x(record, record.day_of(one.made_at))
        gates = one.gates
        if gates is not None and not gates.get("waits"):
            forced = bool(gates.get("forced"))
            good = bool(gates["passed"]) and not forced
            said = "passed its gates" if good else str(gates.get("why") or "")
            parts.append(_dot(made, lanes[one.number] + 12, "good" if good else "bad", said))
    parts.append(_text(LEFT - 12, alerts + 16, "stops, alerts", "end", "ink"))
    return _svg(parts, bottom + 8, "Releases over the days")


def brought(record: Record) -> str:
    """Draw applications per list by day and release, with 95 % intervals, as one <svg>."""
    top, bottom = 26, 300
    rows = [one for one in record.of_days if one.n >= 5]
    most = max((one.applied.high for one in rows), default=1.0) * 1.05

    def y(value: float) -> float:
        return bottom - (bottom - top) * max(value, 0.0) / most

    parts = [_weeks(record, top - 8, bottom)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(share * most):.1f}" y2="{y(share * most):.1f}" '
            f'stroke="{_ink("line")}" stroke-width="0.6"/>'
        )
        parts.append(_text(LEFT - 12, y(share * most) + 4, f"{share * most:.2f}", "end"))
    by_release: dict[int, list[OfDay]] = {}
    for one in rows:
        by_release.setdefault(one.release, []).append(one)
    for place, (release, some) in enumerate(sorted(by_release.items())):
        colour = _colour(release)
        aside = 3.0 * (place % 2) - 1.5  # so that two intervals of a day can be told
        points = [(_x(record, one.day + 0.5) + aside, one) for one in some]
        known = [
            (one.day, (x, y(one.expected))) for x, one in points if one.expected == one.expected
        ]
        for run in _runs(known):
            path = " ".join(f"{across:.1f},{up:.1f}" for across, up in run)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
            )
        for x, one in points:
            said = (
                f"release {release}, day {one.day + 1}: {one.applied.value:.2f} applications per "
                f"list ({one.applied.low:.2f} to {one.applied.high:.2f}) of {one.n}"
            )
            low, high = y(one.applied.low), y(one.applied.high)
            parts.append(
                f'<g stroke="{colour}" fill="{colour}"><title>{escape(said)}</title>'
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" opacity="0.45" '
                f'stroke-width="1.6"/>'
                f'<circle cx="{x:.1f}" cy="{y(one.applied.value):.1f}" r="3.2"/>'
                "</g>"
            )
    return _svg(parts, bottom + 12, "Applications per list by day and release")


def forest(found: Compared) -> str:
    """Draw the measured lift's intervals beside the true one, as one <svg>."""
    rows: list[tuple[str, Estimate | None, str]] = [
        ("measured, looked at every day", found.measured, "accent"),
        ("measured, as of one look", found.single, "muted"),
        ("true, by the hidden taste", found.true, "good"),
    ]
    there = [one for _, one, _ in rows if one is not None]
    reach = max(max(abs(one.low), abs(one.high)) for one in there) * 1.1 or 0.1
    left, right = 230, 640

    def x(value: float) -> float:
        return left + (right - left) * (value + reach) / (2 * reach)

    parts = [
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="6" y2="112" stroke="{_ink("muted")}"/>',
    ]
    for row, (label, one, colour) in enumerate(rows):
        up = 24 + 34 * row
        parts.append(_text(left - 14, up + 4, label, "end", "ink"))
        if one is None:
            parts.append(_text(x(0) + 8, up + 4, "too little is known", "start"))
            continue
        parts.append(
            f'<line x1="{x(one.low):.1f}" x2="{x(one.high):.1f}" y1="{up}" y2="{up}" '
            f'stroke="{_ink(colour)}" stroke-width="3"/><circle cx="{x(one.value):.1f}" '
            f'cy="{up}" r="5" fill="{_ink(colour)}"/>'
        )
        said = f"{percent(one.value)} ({percent(one.low)} to {percent(one.high)})"
        parts.append(_text(right + 14, up + 4, said, "start"))
    parts += [
        _text(x(value), 128, percent(value) if value else "0", "middle")
        for value in (-reach / 1.1, 0.0, reach / 1.1)
    ]
    return _svg(parts, 136, "The measured effect beside the true one", 860)


def _served(record: Record) -> list[tuple[int, float, float, float]]:
    """Return release, first day, last day and share of each time that one served."""
    found, end = [], float(record.days)
    full = [one for one in record.moves if one.share >= 1]
    for one, after in zip(full, [*full[1:], None], strict=True):
        found.append((one.release, one.day, end if after is None else after.day, 1.0))
    for one in _shares(record.moves):
        ended = [
            record.day_of(x.ended_at)
            for x in record.experiments
            if x.treatment == str(one.release) and x.ended_at is not None
        ]
        found.append((one.release, one.day, min([*ended, end]), one.share))
    return found


def _shares(moves: Sequence[Move]) -> list[Move]:
    return [one for one in moves if one.share < 1 and not one.is_rollback]


def _gates(one: Release) -> dict[str, tuple[str, str, float]]:
    """Return gate → its word, what it said, and its seconds."""
    words = {True: "passed", False: "refused", None: "not judged"}
    return {
        each["gate"]: (words[each["passed"]], each["said"], float(each["seconds"]))
        for each in (one.gates or {}).get("gates", ())
    }


def _runs(points: Sequence[tuple[int, tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """Return the points of days that follow each other, together."""
    runs: list[list[tuple[float, float]]] = []
    last: int | None = None
    for day, point in points:
        if last is None or day > last + 1:
            runs.append([])
        runs[-1].append(point)
        last = day
    return [run for run in runs if len(run) > 1]


def _weeks_of(told: Sequence[Told]) -> list[tuple[Told, list[Told]]]:
    """Return each week with what is told of it, in order."""
    weeks: list[tuple[Told, list[Told]]] = []
    for one in told:
        if one.kind == "week":
            weeks.append((one, []))
        else:
            weeks[-1][1].append(one)
    return weeks


def _weeks(record: Record, top: float, bottom: float) -> str:
    parts = []
    for number in range(record.days // record.week + 1):
        x = _x(record, number * record.week)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{_ink("line")}"/>'
        )
        if number < record.days // record.week:
            parts.append(_text(x + 6, top + 2, f"week {number + 1}", "start"))
    return "".join(parts)


def _x(record: Record, day: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(max(day, 0.0), record.days) / record.days


def _bar(
    first: float, last: float, y: float, tall: float, colour: str, opacity: float, said: str
) -> str:
    return (
        f'<rect x="{first:.1f}" y="{y:.1f}" width="{max(last - first, 2):.1f}" '
        f'height="{tall:.1f}" rx="2.5" fill="{colour}" opacity="{opacity}">'
        f"<title>{escape(said)}</title></rect>"
    )


def _dot(x: float, y: float, ink: str, said: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{_ink(ink)}" stroke="{_ink("card")}" '
        f'stroke-width="2"><title>{escape(said)}</title></circle>'
    )


def _text(x: float, y: float, said: str, anchor: str, ink: str = "muted") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" '
        f'fill="{_ink(ink)}">{escape(said)}</text>'
    )


def _svg(parts: Sequence[str], height: float, label: str, width: float = WIDTH) -> str:
    head = f'<svg class="plot" role="img" aria-label="{escape(label, quote=True)}" '
    return visible(f'{head}viewBox="0 0 {width} {height}">{"".join(parts)}</svg>')


def _colour(number: int) -> str:
    name = f"c{(number - 1) % (len(SERIES) - 1)}"
    return f"var(--{name}, {SERIES[name]})"


def _ink(name: str) -> str:
    return f"var(--{name}, {INK[name]})"
