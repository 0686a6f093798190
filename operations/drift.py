"""What a drift of the data stops: a measure beyond its bound pauses fitting until it is looked at.

A measure of the newest day is compared with the same of the days before: with their median, or with
that of the same weekday where there are three of them. How far it may lie from it is the larger of
two numbers, each one for a warning and one for a stop: a multiple of the usual spread of the days
(their median absolute deviation, at least the standard error of that number of rows), and an effect
that is worth a person's time. benchmarks/drift.py says how often ordinary days are beyond them, and
which faults are found.

A stop stands as long as the newest snapshot has one that nobody accepted. What was accepted stays
so until the measure is normal again.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Literal

import sqlalchemy as sa

from operations.ledger import METADATA, Ledger, now_text
from transformations.errors import InputError

Verdict = Literal["ok", "unknown", "warning", "stop"]

WARNING, STOP = 4.0, 6.0
"""Times the usual spread."""
FEWEST, FEWEST_NOTED = 7, 3
"""Days before without which nothing is judged; of what only the ledger knows of them."""
FEWEST_ROWS = 100
"""A usual day of fewer rows warns and does not stop: of them chance makes anything."""
SAME_WEEKDAYS = 3
NORMAL = 1.4826
"""The standard deviation of normal numbers in median absolute deviations."""

DRIFT = sa.Table(
    "drift",
    METADATA,
    sa.Column("as_of", sa.String, primary_key=True),
    sa.Column("about", sa.String, primary_key=True),
    sa.Column("measure", sa.String, primary_key=True),
    sa.Column("part", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("n_rows", sa.Integer, nullable=False),
    # Null where there is too little to compare with; a bound that cannot be reached is null too.
    sa.Column("baseline", sa.Float),
    sa.Column("warn_low", sa.Float),
    sa.Column("warn_high", sa.Float),
    sa.Column("stop_low", sa.Float),
    sa.Column("stop_high", sa.Float),
    sa.Column("verdict", sa.String, nullable=False),
    # Why a person let it go on; when it was alerted.
    sa.Column("accepted", sa.String),
    sa.Column("alerted_at", sa.String),
)


@dataclass(frozen=True)
class Kind:
    """How values of one kind are compared.

    Attributes:
        score: On which scale differences mean the same everywhere.
        value: The way back, of a score that may lie beyond what a value reaches.
        error: The standard error of a score by chance, from the baseline value and the rows.
        warning, stop: The least differences of scores that are one.
    """

    score: Callable[[float], float]
    value: Callable[[float], float]
    error: Callable[[float, int], float]
    warning: float
    stop: float


def _angle(share: float) -> float:
    """Return 2 asin sqrt(share): differences are Cohen's h, whose error knows only the rows."""
    return 2 * math.asin(math.sqrt(min(max(share, 0.0), 1.0)))


KINDS: Mapping[str, Kind] = {
    "count": Kind(
        lambda n: math.log(n + 0.5),
        lambda score: max(math.exp(score) - 0.5, 0.0),
        lambda n, _: 1 / math.sqrt(n + 0.5),
        0.35,
        0.6,
    ),
    "share": Kind(
        _angle,
        lambda score: math.sin(min(max(score, 0.0), math.pi) / 2) ** 2,
        lambda _, rows: 1 / math.sqrt(max(rows, 1)),
        0.15,
        0.3,
    ),
    # As the usual rules of thumb of the population stability index have it.
    "distance": Kind(float, lambda score: max(score, 0.0), lambda _, __: 0.0, 0.1, 0.25),
    "hours": Kind(float, float, lambda _, __: 0.0, 0.25, 0.6),
    "size": Kind(
        lambda x: math.log(max(x, 1e-9)), math.exp, lambda _, __: 0.0, 0.2, 0.5
    ),
}  # fmt: skip
EFFECTS: Mapping[str, tuple[float, float]] = {"changed items": (0.5, 1.0)}
"""Of measures that move more on an ordinary day: the least warning and stop."""
ONLY_HIGH = {
    *("busiest member", "repeats", "unseen values", "new members", "new items", "unknown items"),
    *("stability", "empty texts", "changed items", "duplicates", "refused", "centroid shift"),
}
"""Measures of which less is no fault."""
ONLY_WARN = {"duplicates", "refused"}
"""Measures of rows that did not come in: what is staged is none the worse."""


@dataclass(frozen=True)
class Measured:
    """One measure of one day, or of what lies there at the end of it.

    Attributes:
        about: What was measured together: activity, items, vectors, …
        part: Of which action, column or view; empty where there is only one.
        n_rows: Out of how many rows.
        error: The standard error, where the kind does not know it.
    """

    about: str
    measure: str
    part: str
    kind: str
    value: float
    n_rows: int
    error: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same from day to day."""
        return self.about, self.measure, self.part

    def __str__(self) -> str:
        name = f"{self.measure} of {self.part}" if self.part else self.measure
        return name if self.about == "activity" else f"{self.about}: {name}"


@dataclass(frozen=True)
class Finding(Measured):
    """A measure of the newest day, judged.

    Attributes:
        baseline: What was expected; None where there is too little to compare with.
        warn, stop: The lowest and highest value without a warning, without a stop.
        accepted: Why a person let it go on.
        alerted_at: When somebody was told, as ISO text.
    """

    baseline: float | None = None
    warn: tuple[float | None, float | None] = (None, None)
    stop: tuple[float | None, float | None] = (None, None)
    verdict: Verdict = "unknown"
    accepted: str | None = None
    alerted_at: str | None = None
    as_of: datetime | None = field(default=None, compare=False)

    @property
    def stops(self) -> bool:
        """Whether it pauses fitting."""
        return self.verdict == "stop" and self.accepted is None

    @property
    def said(self) -> str:
        """The finding in a few words: `rows is 120, expected 1000 (550 to 1821)`."""
        low, high = (("" if bound is None else f"{bound:.4g}") for bound in self.stop)
        between = f"{low} to {high}" if low and high else f"at least {low}" if low else ""
        between = between or (f"at most {high}" if high else "no stop")
        return f"{self} is {self.value:.4g}, expected {self.baseline or 0:.4g} ({between})"


def judge(
    newest: Measured,
    before: Mapping[int, float],
    fewest: int = FEWEST,
    only_warn: Iterable[str] = (),
    rows_before: float | None = None,
) -> Finding:
    """Compare a measure with the same of days before.

    Args:
        before: Value by how many days before, from 1.
        fewest: Of them, without which the verdict is `unknown`.
        only_warn: Measures that never stop, besides ONLY_WARN.
        rows_before: Rows of a usual day, for FEWEST_ROWS; None: as many as today's.
    """
    found = Finding(**{name: getattr(newest, name) for name in Measured.__dataclass_fields__})
    if len(before) < fewest:
        return found
    kind = KINDS[newest.kind]
    scores = {back: kind.score(value) for back, value in before.items()}
    center, spread = expected(scores)
    error = kind.error(kind.value(center), newest.n_rows) if newest.error is None else newest.error
    spread = max(spread, error)
    least = EFFECTS.get(newest.measure, (kind.warning, kind.stop))
    warn, stop = (
        _bounds(kind, center, max(times * spread, effect), newest.measure)
        for times, effect in zip((WARNING, STOP), least, strict=True)
    )
    usual = newest.n_rows if rows_before is None else rows_before
    if newest.measure in {*ONLY_WARN, *only_warn} or usual < FEWEST_ROWS:
        stop = (None, None)
    verdict: Verdict = "ok"
    if _is_beyond(newest.value, warn):
        verdict = "stop" if _is_beyond(newest.value, stop) else "warning"
    return replace(found, baseline=kind.value(center), warn=warn, stop=stop, verdict=verdict)


def expected(scores: Mapping[int, float]) -> tuple[float, float]:
    """Return what is expected of the newest day, and the usual spread around such an expectation.

    >>> center, spread = expected({1: 10.0, 2: 12.0, 3: 11.0})
    >>> center, round(spread, 2)
    (11.0, 1.83)

    Args:
        scores: By how many days before. Where three are of the newest day's weekday they alone
            say what is expected; the spread is of all days around what is expected of them.
    """
    of_weekday: dict[int, list[float]] = {}
    for back, score in scores.items():
        of_weekday.setdefault(back % 7, []).append(score)
    weekday = of_weekday.get(0, [])
    if len(weekday) < SAME_WEEKDAYS:
        center, used = median(scores.values()), len(scores)
        away = [abs(score - center) for score in scores.values()]
    else:
        center, used = median(weekday), len(weekday)
        away = [
            # A few numbers lie nearer to their own median than the next one will.
            abs(score - median(days)) * math.sqrt(len(days) / (len(days) - 1))
            for days in of_weekday.values()
            if len(days) >= SAME_WEEKDAYS
            for score in days
        ]
    # Of the newest day and of the median itself, whose variance is pi / 2 of a mean's.
    return center, NORMAL * median(away) * math.sqrt(1 + math.pi / 2 / used)


def _bounds(
    kind: Kind, center: float, distance: float, measure: str
) -> tuple[float | None, float | None]:
    low, high = kind.value(center - distance), kind.value(center + distance)
    return (None if measure in ONLY_HIGH or _out(kind, low, center - distance) else low), (
        None if _out(kind, high, center + distance) else high
    )


def _out(kind: Kind, value: float, score: float) -> bool:
    """Whether no value has such a score."""
    return not math.isclose(kind.score(value), score, abs_tol=1e-9)


def _is_beyond(value: float, bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return (low is not None and value < low) or (high is not None and value > high)


def noted_before(
    ledger: Ledger, as_of: datetime, days: int
) -> dict[tuple[str, str, str], dict[int, float]]:
    """Return what the ledger knows of the days before: key → value by how many days before."""
    since = _key(as_of - timedelta(days=days))
    between = sa.and_(DRIFT.c.as_of >= since, DRIFT.c.as_of < _key(as_of))
    rows = _rows(ledger, sa.select(DRIFT).where(between))
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        back = max(round((as_of - datetime.fromisoformat(row["as_of"])) / timedelta(days=1)), 1)
        key = (row["about"], row["measure"], row["part"])
        found.setdefault(key, {})[back] = row["value"]
    return found


def note(ledger: Ledger, as_of: datetime, about: str, findings: Sequence[Finding]) -> list[Finding]:
    """Write what was found of one snapshot in place of what was found before; return it.

    What was accepted or alerted of a measure stays so while it is neither normal nor as far from
    its last value as a stop is from what is expected.
    """
    known = {
        (row["measure"], row["part"]): row
        for at in (_newest(ledger, as_of, about), _key(as_of))
        for row in _rows(
            ledger, sa.select(DRIFT).where(DRIFT.c.as_of == at, DRIFT.c.about == about)
        )
    }
    kept = []
    for found in findings:
        row = known.get((found.measure, found.part))
        if row is not None and found.verdict in ("warning", "stop") and not _is_other(row, found):
            found = replace(found, accepted=row["accepted"], alerted_at=row["alerted_at"])
        kept.append(replace(found, as_of=as_of))
    with ledger.engine.begin() as connection:
        here = sa.and_(DRIFT.c.as_of == _key(as_of), DRIFT.c.about == about)
        connection.execute(sa.delete(DRIFT).where(here))
        if kept:
            connection.execute(sa.insert(DRIFT), [_row(as_of, found) for found in kept])
    return kept


def _is_other(row: Mapping[str, Any], found: Finding) -> bool:
    """Whether a measure has moved on so far that it is another fault."""
    kind = KINDS[found.kind]
    _, least = EFFECTS.get(found.measure, (kind.warning, kind.stop))
    return abs(kind.score(row["value"]) - kind.score(found.value)) > least


def findings(ledger: Ledger, as_of: datetime | None = None) -> list[Finding]:
    """Return what was found of the newest snapshot, or of another; the worst first."""
    at = _newest(ledger) if as_of is None else _key(as_of)
    found = [_finding(row) for row in _rows(ledger, sa.select(DRIFT).where(DRIFT.c.as_of == at))]
    order = ("stop", "warning", "unknown", "ok")
    return sorted(found, key=lambda one: (not one.stops, order.index(one.verdict), one.key))


def standing(ledger: Ledger) -> list[Finding]:
    """Return the stops that stand: those of the newest snapshot that nobody accepted."""
    return [found for found in findings(ledger) if found.stops]


def pauses_fitting(ledger: Ledger, as_of: datetime) -> bool:
    """Whether nothing is to be fitted for this snapshot: a stop stands, and one serves already."""
    return bool(standing(ledger)) and ledger.newest_published(before=as_of) is not None


def accept(ledger: Ledger, why: str) -> list[Finding]:
    """Let the stops that stand go on, until each measure was normal again; return them.

    Raises:
        InputError: none stands, or there is no reason.
    """
    stops = standing(ledger)
    if not why.strip():
        raise InputError("--why: expected the reason in a few words, got nothing")
    if not stops:
        raise InputError("no stop stands, so there is nothing to accept; see: activity drift")
    _update(ledger, stops, accepted=why)
    return stops


def note_alerted(ledger: Ledger, stops: Sequence[Finding]) -> None:
    """Note that somebody was told of these stops."""
    _update(ledger, stops, alerted_at=now_text())


def _update(ledger: Ledger, stops: Sequence[Finding], **values: str) -> None:
    with ledger.engine.begin() as connection:
        for stop in stops:
            assert stop.as_of is not None
            connection.execute(
                sa.update(DRIFT)
                .where(
                    DRIFT.c.as_of == _key(stop.as_of),
                    DRIFT.c.about == stop.about,
                    DRIFT.c.measure == stop.measure,
                    DRIFT.c.part == stop.part,
                )
                .values(**values)
            )


def _newest(ledger: Ledger, before: datetime | None = None, about: str | None = None) -> str | None:
    query = sa.select(sa.func.max(DRIFT.c.as_of))
    if before is not None:
        query = query.where(DRIFT.c.as_of < _key(before), DRIFT.c.about == about)
    with ledger.engine.connect() as connection:
        found: str | None = connection.execute(query).scalar()
    return found


def _rows(ledger: Ledger, query: sa.Select[Any]) -> list[dict[str, Any]]:
    with ledger.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _key(as_of: datetime) -> str:
    return as_of.astimezone(UTC).isoformat(timespec="microseconds")


KEPT = (
    *("about", "measure", "part", "kind", "value", "n_rows"),
    *("baseline", "verdict", "accepted", "alerted_at"),
)


def _row(as_of: datetime, found: Finding) -> dict[str, Any]:
    bounds = dict(zip(("warn_low", "warn_high"), found.warn, strict=True))
    bounds |= dict(zip(("stop_low", "stop_high"), found.stop, strict=True))
    return {name: getattr(found, name) for name in KEPT} | bounds | {"as_of": _key(as_of)}


def _finding(row: Mapping[str, Any]) -> Finding:
    return Finding(
        **{name: row[name] for name in KEPT},
        warn=(row["warn_low"], row["warn_high"]),
        stop=(row["stop_low"], row["stop_high"]),
        as_of=datetime.fromisoformat(row["as_of"]),
    )
