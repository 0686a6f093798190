"""What a join could not give: labels without a row, and how old the rows were at their labels.

A row's age is its label's timestamp minus the row's event time. A feature view may declare the age
from which a row counts as old, in seconds, as a tag; the join gives such a row all the same:

    FeatureView(..., tags={"max_age_seconds": "108000"})
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from stores.asof.query import AsofView

MAX_AGE_TAG = "max_age_seconds"
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
QUANTILES = (0.5, 0.9, 1.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coverage:
    """What the labels of a join got of one view.

    Attributes:
        view: Its name in the request.
        labels: All of them.
        without_row: Those for which there was no row, or an expired one.
        max_age: What the view declares; None where it declares nothing.
        old: Labels whose row had that age or more; 0 where nothing is declared.
        ages: Median, 90 % quantile and maximum of the ages, cut to whole hours; empty where no
            label got a row.
    """

    view: str
    labels: int
    without_row: int
    max_age: timedelta | None
    old: int
    ages: tuple[timedelta, ...]

    def __str__(self) -> str:
        """Say it in one sentence, without a full stop.

        >>> print(Coverage("vectors", 200, 50, 30 * HOUR, 2, (9 * HOUR, 20 * HOUR, 821 * DAY)))
        vectors: of 200 labels 50 (25.0%) have no row, 2 (1.0%) one of 30 hours or more \
(median 9 hours, oldest 821 days)
        """
        parts = [f"{_counted(self.without_row, self.labels)} have no row"]
        if self.max_age is not None:
            parts.append(f"{_counted(self.old, self.labels)} one of {_exact(self.max_age)} or more")
        ages = ""
        if self.ages:
            ages = f" (median {_long(self.ages[0])}, oldest {_long(self.ages[-1])})"
        return f"{self.view}: of {self.labels:,} labels {', '.join(parts)}{ages}"


Ages = list[tuple[int, int, int]]
"""Of one view: an age in whole hours, the labels whose row has it, and those of them that are old.
The hours ascend."""


def count_ages(con: duckdb.DuckDBPyConnection, view: AsofView, number: int) -> Ages:
    """Count over `pick_<number>`, which `find` has filled."""
    max_age = "null" if view.max_age is None else view.max_age // timedelta(microseconds=1)
    return con.execute(
        f"""
select
    age_us // {HOUR // timedelta(microseconds=1)} as hours,
    count(*) as n_labels,
    count(*) filter (where age_us >= {max_age}) as n_old,
from pick_{number}
where position is not null
group by hours
order by hours
"""
    ).fetchall()


def added(parts: Iterable[Ages]) -> Ages:
    """Return the counts of several joins of the same view as those of one.

    >>> added([[(1, 2, 0), (5, 1, 1)], [(1, 3, 0)]])
    [(1, 5, 0), (5, 1, 1)]
    """
    labels, old = Counter[int](), Counter[int]()
    for hours, count, n_old in chain.from_iterable(parts):
        labels[hours] += count
        old[hours] += n_old
    return [(hours, labels[hours], old[hours]) for hours in sorted(labels)]


def summed(view: AsofView, ages: Ages, labels: int) -> Coverage:
    """Return what `labels` labels got of a view."""
    found = sum(count for _, count, _ in ages)
    return Coverage(
        view=view.name,
        labels=labels,
        without_row=labels - found,
        max_age=view.max_age,
        old=sum(old for *_, old in ages),
        ages=tuple(_quantile(ages, share * found) for share in QUANTILES if found),
    )


def report(found: Sequence[Coverage]) -> None:
    """Log one line: a warning where labels have no row or an old one."""
    lacking = any(one.without_row or one.old for one in found)
    said = "; ".join(map(str, found))
    logger.log(logging.WARNING if lacking else logging.INFO, "training join: %s", said)


def _quantile(rows: Sequence[tuple[int, int, int]], wanted: float) -> timedelta:
    """Return the smallest age that at least `wanted` labels have or are below."""
    ends = accumulate(count for _, count, _ in rows)
    return next(hours for (hours, *_), end in zip(rows, ends, strict=True) if end >= wanted) * HOUR


def _counted(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole if whole else 0:.1%})"


def _long(age: timedelta) -> str:
    return _exact(age // DAY * DAY if age >= 3 * DAY else age)


def _exact(age: timedelta) -> str:
    return f"{age / DAY:,g} days" if age >= 3 * DAY else f"{age / HOUR:g} hours"
