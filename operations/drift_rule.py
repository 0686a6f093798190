"""When a day's data are other than those before: a measure beyond its bounds.

A measure of the newest day is compared with the same of the days before: with their median, or with
that of the same weekday where there are three of them. How far it may lie from it is the larger of
two numbers, each one for a warning and one for a stop: a multiple of the usual spread of the days
(their median absolute deviation, at least the standard error of that number of rows), and an effect
that is worth a person's time. benchmarks/drift.py says how often ordinary days are beyond them, and
which faults are found. Which measures there are: MEASURES.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median
from typing import Literal

from transformations.drift_settings import MEASURES

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
    # In standard deviations, as Cohen's d.
    "effect": Kind(float, float, lambda _, __: 0.0, 0.1, 0.2),
    # Of a rate, as a share of the control's: an experiment decides, no day before.
    "lift": Kind(float, float, lambda _, __: 0.0, 0.1, 0.2),
}  # fmt: skip


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
    only_warn: Collection[str] = (),
    rows_before: float | None = None,
) -> Finding:
    """Compare a measure with the same of days before.

    Args:
        before: Value by how many days before, from 1.
        fewest: Of them, without which the verdict is `unknown`.
        only_warn: Measures that never stop, besides those of which none does.
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
    warn, stop = (
        _bounds(kind, center, max(times * spread, effect), newest.measure)
        for times, effect in zip((WARNING, STOP), effects(newest), strict=True)
    )
    usual = newest.n_rows if rows_before is None else rows_before
    may_stop = MEASURES[newest.measure].stops and newest.measure not in only_warn
    if not may_stop or usual < FEWEST_ROWS:
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


def effects(of: Measured) -> tuple[float, float]:
    """Return the least differences of scores that are a warning, and a stop."""
    kind = KINDS[of.kind]
    return MEASURES[of.measure].effect or (kind.warning, kind.stop)


def _bounds(
    kind: Kind, center: float, distance: float, measure: str
) -> tuple[float | None, float | None]:
    low, high, limits = center - distance, center + distance, MEASURES[measure]
    return (
        kind.value(low) if limits.low and _is_reached(kind, low) else None,
        kind.value(high) if limits.high and _is_reached(kind, high) else None,
    )


def _is_reached(kind: Kind, score: float) -> bool:
    """Whether a value has such a score."""
    return math.isclose(kind.score(kind.value(score)), score, abs_tol=1e-9)


def _is_beyond(value: float, bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return (low is not None and value < low) or (high is not None and value > high)
