"""What was lived, as the page shows it: read from the ledger, the impressions and the sources."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import sqrt
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from operations.drift import history as drift_history
from operations.drift_rule import Finding
from operations.experiments.records import Experiment
from operations.experiments.records import experiments as every_experiment
from operations.ledger import Ledger
from operations.rankers import RANKER
from operations.releases import Release, releases
from operations.releases import history as moves_of
from transformations.config import Config
from transformations.duck import sql

DAY = timedelta(days=1)
Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, mean: float, spread: float, n: int) -> "Estimate":
        """Return the interval of a mean of n values with a standard deviation."""
        half = Z * spread / sqrt(max(n, 1))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class OfDay:
    """What a release's lists brought on a day: applications per list, of `n` lists."""

    day: int
    release: int
    n: int
    applied: Estimate
    expected: float
    """By the hidden taste; NaN where nobody asked it."""


@dataclass(frozen=True)
class Told:
    """Something that happened on a day, in a sentence; `kind` is a colour of the page."""

    day: int
    kind: str
    text: str


@dataclass(frozen=True)
class Move:
    """A promotion, with a share or to all, or a rollback; `day` is a fraction."""

    day: float
    release: int
    share: float
    is_rollback: bool
    why: str


@dataclass(frozen=True)
class Stopped:
    """A day's snapshot with stops that nobody accepted: what they were."""

    day: int
    said: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """An experiment's end beside what is true.

    Attributes:
        measured: The lift of the primary metric, at all looks together.
        single: The same as of one planned look.
        true: The lift by the hidden taste of both arms' lists, on every visit.
    """

    experiment: Experiment
    metric: str
    verdict: str
    members: tuple[int, int]
    measured: Estimate | None
    single: Estimate | None
    true: Estimate
    visits: int


@dataclass
class Record:
    """A played life of releases.

    Attributes:
        start: The first lived midnight; days count from it.
        week: Days in a week.
        notes: Releases that were planted or changed, each with what is special of it.
    """

    start: datetime
    days: int
    week: int
    members: int
    jobs: int
    seed: int
    seconds: float = 0.0
    told: list[Told] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    releases: Sequence[Release] = ()
    moves: Sequence[Move] = ()
    stopped: Sequence[Stopped] = ()
    experiments: Sequence[Experiment] = ()
    of_days: Sequence[OfDay] = ()
    alerts: int = 0
    compared: Compared | None = None

    def day_of(self, at: datetime) -> float:
        """Return a time in days since the start."""
        return (at - self.start) / DAY


def fill(
    record: Record, config: Config, source: Path, expected: dict[tuple[int, int], Any]
) -> None:
    """Read what the ledger and the tables hold.

    Args:
        source: Folder of the sources.
        expected: Day and release → the expected applications of its lists, by the hidden taste.
    """
    ledger = Ledger(config)
    record.releases = sorted(releases(config), key=lambda one: one.number)
    record.moves = [
        Move(
            record.day_of(datetime.fromisoformat(row["at"])),
            row["release"],
            row["share"],
            row["is_rollback"],
            row["why"] or "",
        )
        for row in reversed(moves_of(config))
        if row["target"] == "online"
    ]
    record.stopped = _stopped(record, drift_history(ledger, record.days + 1))
    record.experiments = every_experiment(ledger)
    record.of_days = [
        OfDay(
            day,
            release,
            n,
            Estimate.of(applied, spread, n),
            float(np.mean(expected.get((day, release), [np.nan]))),
        )
        for day, release, n, applied, spread in _shown(config, source, record.start)
    ]


def ranker_of(release: Release) -> str:
    """Return the name of a release's ranker; of several, all."""
    return ", ".join(release.named(RANKER)) or "votes"


def _stopped(record: Record, found: Sequence[Finding]) -> list[Stopped]:
    by_day: dict[int, list[str]] = {}
    for one in found:
        if one.stops and one.as_of is not None:
            by_day.setdefault(round(record.day_of(one.as_of)), []).append(one.said)
    return [Stopped(day, said) for day, said in sorted(by_day.items())]


def _shown(config: Config, source: Path, start: datetime) -> list[tuple[Any, ...]]:
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        folders = {"impressions": config.layout.impressions, "events": source / "events"}
        for name, folder in folders.items():
            con.read_parquet(
                f"{folder}/**/*.parquet", union_by_name=True, hive_partitioning=False
            ).create_view(name)
        return con.execute(sql("shown_by_day", __file__), {"first": start}).fetchall()
