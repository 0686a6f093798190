"""The protocol of an evaluation: how time is split, how fresh features are, labels, seeds."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transformations.durations import DURATION_UNITS
from transformations.errors import InputError
from transformations.last_actions import Series
from transformations.timestamps import DAY_US, MICROSECOND, timestamp_of

DAY = timedelta(days=1)
Times = NDArray[np.int64]
"""Microseconds since 1970, one per label."""
WorldName = Literal["validation", "test"]


@dataclass(frozen=True)
class Freshness:
    """How old a member's features are at a label's time.

    Attributes:
        name: `live`, a gap such as `30m`, or how often a snapshot is taken, in days: `1d`.
        kind: `live`: history up to the label. `gap`: up to `time` before it. `snapshot`: of the
            newest snapshot that could be read, one taken every `time`, at midnight.
    """

    name: str
    kind: Literal["live", "gap", "snapshot"]
    time: timedelta

    @classmethod
    def read(cls, text: str) -> "Freshness":
        """Read what `--freshness` takes.

        >>> Freshness.read("30m").kind, Freshness.read("1d").kind
        ('gap', 'snapshot')

        Raises:
            InputError: it is none of the three.
        """
        if text == "live":
            return cls(text, "live", timedelta(0))
        match = re.fullmatch(r"([1-9]\d*)([dhms])", text)
        if match is None:
            raise InputError(
                "--freshness: expected live, a gap such as 30m or 6h, or a snapshot every n days "
                f"such as 1d, got {text!r}"
            )
        time = timedelta(**{DURATION_UNITS[match[2]]: int(match[1])})
        return cls(text, "snapshot" if match[2] == "d" else "gap", time)

    def as_of(self, times: Times, first: datetime, publish_delay: timedelta) -> Times:
        """Return the as_of of the features that a label has.

        Args:
            times: Of the labels.
            first: A snapshot is taken then; the others follow.
            publish_delay: From a snapshot's as_of until it can be read.
        """
        if self.kind == "snapshot":
            series = Series(first, self.time, publish_delay)
            return series.newest(times - publish_delay // MICROSECOND)
        return times - self.time // MICROSECOND

    def __str__(self) -> str:
        return self.name


LIVE, GAP, DAILY = (Freshness.read(name) for name in ("live", "30m", "1d"))
ALL = (LIVE, GAP, DAILY)
DECAY = 0.8
"""r of decayed vectors where none is chosen."""
SLOW = ("ease", "als", "sasrec")
"""References that are fitted on all that is before the test."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Ends of an evaluation's periods, as shares of the positive actions in the order of time.

    Attributes:
        fit: Spaces and aggregators are fitted on what is before.
        train: End of the ranker's training labels, which begin where the fits' data end: no row
            has features from weights that were fitted to its label.
        until: End of the labels that are measured.
    """

    fit: float
    train: float
    until: float

    def __post_init__(self) -> None:
        if not 0 < self.fit < self.train < self.until <= 1:
            raise InputError(
                "expected shares of the positive actions 0 < fit < train < until <= 1, got "
                f"{self.fit}, {self.train}, {self.until}"
            )


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of an evaluation.

    Attributes:
        validation: Of the world that every choice is made in.
        test: Of the world that is measured once the choices stand.
        fold_in: Items are encoded again after every such share of the positive actions.
        freshness: The first one is what choices and promises are about; the others are measured
            beside it, with one seed.
        seeds: Rankers per variant.
        resamples: Number of resamples, for the intervals.
        per_member: Labels of a member and sign in a period, at most.
        max_labels: About that many labels per period at most, by sampling members. None: all.
        predicts: The actions whose labels are positive; only items of their kinds are ranked.
            Empty: every positive action, on items of any kind but searches.
        l2: Penalties of the ranker to choose from, for each variant.
        decays: Grid of r for the decayed vectors of the baseline.
        popular_days: Windows of popularity to choose from, in days.
        half_lives: Of co-occurrence, in days, to choose from; None: pairs never fade.
        ease: Penalties of EASE to choose from.
        als: Confidence alpha and penalty of ALS, pairs to choose from.
        tuned: Whether settings are chosen on the validation. Else each is the first of its grid, r
            is DECAY, and the baseline is in the first item space: half the work, for a look.
        without: References that are left out: those of SLOW, which take long to fit.
    """

    validation: Shares = Shares(fit=0.60, train=0.70, until=0.85)
    test: Shares = Shares(fit=0.75, train=0.85, until=1.0)
    fold_in: float = 0.025
    freshness: tuple[Freshness, ...] = ALL
    seeds: int = 3
    resamples: int = 2000
    per_member: int = 30
    max_labels: int | None = None
    predicts: tuple[str, ...] = ()
    l2: tuple[float, ...] = (1e-4, 1e-3)
    decays: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9, 0.95)
    popular_days: tuple[float, ...] = (7, 1, 28, 90, 365)
    half_lives: tuple[float | None, ...] = (7.0, 90.0, None)
    ease: tuple[float, ...] = (100.0, 500.0)
    als: tuple[tuple[float, float], ...] = ((1.0, 1.0), (10.0, 10.0))
    tuned: bool = True
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds: expected at least 1, got {self.seeds}")
        if not 0 < self.fold_in <= 1:
            raise InputError(f"fold_in: expected a share above 0, at most 1, got {self.fold_in}")
        unknown = sorted(set(self.without) - set(SLOW))
        if unknown:
            raise InputError(f"--without: expected some of {', '.join(SLOW)}, got {unknown[0]!r}")
        names = [one.name for one in self.freshness]
        if not names or len(set(names)) < len(names):
            raise InputError(f"freshness: expected at least one, each once, got {names}")

    def shares(self, world: WorldName) -> Shares:
        """Return the shares of a world."""
        return {"validation": self.validation, "test": self.test}[world]


@dataclass(frozen=True)
class Split:
    """The midnights that split the time of one world.

    Attributes:
        fit_until: End of what spaces and aggregators are fitted on.
        train_until: End of the ranker's labels.
        until: End of the labels that are measured.
        moments: When items are encoded: at `fit_until`, and every so often after it.
    """

    fit_until: datetime
    train_until: datetime
    until: datetime
    moments: tuple[datetime, ...]

    @classmethod
    def of(cls, times: Times, shares: Shares, fold_in: float) -> "Split":
        """Split by shares of the positive actions; each end is the midnight before.

        Args:
            times: Of all positive actions, ascending.

        Raises:
            InputError: there are too few days for every period to have one.
        """
        last = timestamp_of(int(times[-1]) // DAY_US * DAY_US) + DAY

        def at(share: float) -> datetime:
            if share >= 1:
                return last
            return timestamp_of(int(times[int(share * len(times))]) // DAY_US * DAY_US)

        ends = at(shares.fit), at(shares.train), at(shares.until)
        first = timestamp_of(int(times[0]) // DAY_US * DAY_US)
        if not first < ends[0] < ends[1] < ends[2]:
            raise InputError(
                f"expected positive actions over enough days to split them, got {len(times):,} "
                f"from {first:%Y-%m-%d} to {last - DAY:%Y-%m-%d}; the periods would end at "
                + ", ".join(f"{each:%Y-%m-%d}" for each in ends)
            )
        steps = np.arange(shares.fit, shares.until, fold_in)
        moments = sorted({at(float(share)) for share in steps})
        return cls(*ends, tuple(one for one in moments if one < ends[2]))

    def periods(self, world: WorldName) -> dict[str, tuple[datetime, datetime]]:
        """Return start and end of the labels of each period; the second is named as the world."""
        return {
            "train": (self.fit_until, self.train_until),
            world: (self.train_until, self.until),
        }
