"""The simulated market as a closed loop: what members are shown decides what they do next.

Jobs, members, the hidden taste and the jobs that members find by themselves are those of
`simulate.py`, of the same seed. In the last days the feed is no longer random: somebody shows each
visitor a list, and what becomes of it is drawn from the hidden taste (`taste.py`), which is in no
table. The assumptions, in round numbers, set once; nothing is tuned so that one list wins:

- A member visits the feed as often as it searches for jobs, by default; more by day than by night.
- It looks at a position as `taste.attention` says, and dismisses, saves, applies or passes by.
- A job that is closed, or was acted on by this member before, is passed by.
- After a visit that brought neither SAVE nor APPLY a member leaves for good, one time in fifty. It
  then finds no jobs by itself any more, either.
- What a member would do with a job in a visit is drawn for all jobs at once, from the seed, the day
  and the number of the visit: two ways to recommend meet the same members in the same mood.
- An action arrives minutes later, and is in the sources of the day of its arrival.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.datasets.behaviour import FEED, Actions, find_jobs, visits_of
from pipelines.datasets.columns import timestamps
from pipelines.datasets.market import (
    OPEN_DAYS,
    SECONDS_PER_DAY,
    Bools,
    Floats,
    Ints,
    Size,
    draw_market,
    random_for,
)
from pipelines.datasets.profiles import profiles
from pipelines.datasets.simulate import broken, event_rows, item_rows
from pipelines.datasets.taste import NOISE, REACTIONS, attention
from transformations.errors import InputError

LEAVES = 0.02
"""The probability that a member comes no more after a visit that brought nothing."""
MOST_SHOWN = 100
"""Positions of a list that a member may look at."""
POSITIVE = (REACTIONS.index("SAVE"), REACTIONS.index("APPLY"))


@dataclass(frozen=True)
class Visit:
    """A member that comes to the feed.

    Attributes:
        number: Of the visit on its day, from 0, also of members that have left.
        day: Index of the day.
        member_id: Who.
        seconds: When, after the start of the simulation.
        at: The same as a timestamp.
    """

    number: int
    day: int
    member_id: int
    seconds: float
    at: datetime


Show = Callable[[Visit], Sequence[int]]
"""Shows a member a list: returns the ids of its items, in order."""


class ClosedLoop:
    """A market whose last days are lived, one after the other.

    Args:
        size: Of the market; its days are all days, the lived ones too.
        seed: The same seed, size, end, and lists shown give the same events.
        end: The midnight after the last day.
        lived: How many of the days members are shown lists.
        visits: Visits of the feed per search for jobs.

    Raises:
        InputError: no day is left before the lived ones.
    """

    def __init__(
        self, size: Size, seed: int, end: datetime, lived: int, visits: float = 1.0
    ) -> None:
        if not 1 <= lived < size.days:
            raise InputError(
                f"expected 1 to {size.days - 1} of {size.days} days to be lived, got {lived}"
            )
        self.size, self._seed, self.end, self.lived = size, seed, end, lived
        self.start = end - timedelta(days=size.days)
        rng = np.random.default_rng(seed)
        self._market = draw_market(rng, seed, size)
        taste, found = find_jobs(rng, self._market)
        self._taste = taste
        self._reports = random_for(seed, 3).random(size.members) < 0.8
        rows = event_rows(random_for(seed, 4), self._reports, found, self.start)
        here = found.here
        self._found = broken(rng, rows)
        self._found_member, self._found_seconds = found.member[here], found.seconds[here]
        self._found_day = _days((found.seconds + found.lag)[here])
        who, seconds = visits_of(
            (drawn := random_for(seed, 11)),
            self._market,
            drawn.poisson(self._market.members.sessions * visits),
        )
        order = np.argsort(seconds, kind="stable")
        self._who, self._seconds = who[order], seconds[order]
        self._came = self._seconds >= self._market.members.joins_at[self._who]
        self._left_at = np.full(size.members, np.inf)
        self._acted: set[tuple[int, int]] = set()
        self._late: list[tuple[int, pa.Table]] = []

    @property
    def first(self) -> int:
        """Index of the first lived day."""
        return self.size.days - self.lived

    def midnight(self, day: int) -> datetime:
        """Return when a day begins."""
        return self.start + timedelta(days=day)

    def write(self, folder: Path) -> None:
        """Write items, profiles, and the events that arrive before the first lived day."""
        (folder / "events").mkdir(parents=True)
        items = item_rows(self._market, self.start, courses=False)
        closes = self._market.items.posted[: self.size.jobs] + OPEN_DAYS * SECONDS_PER_DAY
        items = items.append_column("closes_at", timestamps(self.start, closes))
        pq.write_table(items, folder / "items.parquet")
        people = profiles(random_for(self._seed, 10), self._market, self.start)
        pq.write_table(people, folder / "profiles.parquet")
        for day in range(self.first):
            write_day(folder, self.midnight(day), self._found.filter(self._found_day == day))
        before = self._found_seconds < self.first * SECONDS_PER_DAY
        rows = self._found.filter(before)
        both = (rows[name].to_pylist() for name in ("member_id", "item_id"))
        self._acted = {*zip(*both, strict=True)}

    def visits(self, day: int) -> list[Visit]:
        """Return the visits of a lived day in order, without members that left before it."""
        low, high = np.searchsorted(
            self._seconds, [day * SECONDS_PER_DAY, (day + 1) * SECONDS_PER_DAY]
        )
        return [
            Visit(
                number,
                day,
                int(self._who[row]) + 1,
                float(self._seconds[row]),
                self.start + timedelta(seconds=float(self._seconds[row])),
            )
            for number, row in enumerate(range(low, high))
            if self._came[row] and self._seconds[row] < self._left_at[self._who[row]]
        ]

    def expected(self, visit: Visit, item_ids: Sequence[int]) -> Floats:
        """Return how many of each reaction a list would bring; [len(REACTIONS)].

        It is for whoever judges a list by the hidden taste, shown or not.
        """
        items = np.asarray(item_ids, np.int64) - 1
        if not items.size:
            return np.zeros(len(REACTIONS))
        likely = self._taste.probabilities(
            np.full(items.size, visit.member_id - 1),
            items,
            np.full(items.size, visit.seconds),
            np.arange(1, items.size + 1),
        )
        brought: Floats = likely[self._open(visit, items)].sum(axis=0)
        return brought

    def live(self, day: int, show: Show) -> pa.Table:
        """Let the visitors of a day come and act; return the events that arrive on it.

        Args:
            show: Called once per visit, in the order of time.
        """
        acted = [
            actions
            for visit in self.visits(day)
            if visit.seconds < self._left_at[visit.member_id - 1]
            and (actions := self._come(visit, show(visit))) is not None
        ]
        rng = np.random.default_rng([self._seed, 13, day])
        stays = self._found_seconds < self._left_at[self._found_member]
        tables = [self._found.filter((self._found_day == day) & stays)]
        if acted:
            actions = _together(acted)
            rows = event_rows(rng, self._reports, actions, self.start, FEED)
            arrival = _days(actions.seconds + actions.lag)
            self._late += [(int(one), rows.filter(arrival == one)) for one in np.unique(arrival)]
        tables += [rows for at, rows in self._late if at <= day]
        self._late = [(at, rows) for at, rows in self._late if at > day]
        return pa.concat_tables(tables, promote_options="default")

    def _open(self, visit: Visit, items: Ints) -> Bools:
        posted = self._market.items.posted[items]
        member = visit.member_id
        new = np.array([(member, item + 1) not in self._acted for item in items.tolist()])
        closed = visit.seconds - OPEN_DAYS * SECONDS_PER_DAY
        return new & (posted <= visit.seconds) & (posted > closed)

    def _come(self, visit: Visit, item_ids: Sequence[int]) -> Actions | None:
        """Draw what becomes of a list; None where nothing does."""
        member = visit.member_id - 1
        mood = np.random.default_rng([self._seed, 12, visit.day, visit.number])
        noise, luck = mood.normal(0.0, NOISE, self.size.jobs), mood.random(MOST_SHOWN)
        pause, lags = mood.uniform(2.0, 120.0, MOST_SHOWN), mood.exponential(180.0, MOST_SHOWN)
        stays = mood.random() >= LEAVES
        items = np.asarray(item_ids, np.int64)[:MOST_SHOWN] - 1
        positions = np.arange(1, items.size + 1)
        looks = luck[: items.size] < attention(positions)
        who, when = np.full(items.size, member), np.full(items.size, visit.seconds)
        fit = self._taste.utility(who, items, when) + noise[items]
        reaction = np.where(
            looks & self._open(visit, items), self._taste.react(items, fit, shown=True), 0
        )
        if not np.isin(reaction, POSITIVE).any() and not stays:
            self._left_at[member] = visit.seconds
        rows = np.flatnonzero(reaction)
        if not rows.size:
            return None
        self._acted |= {(visit.member_id, int(item) + 1) for item in items[rows]}
        seconds = visit.seconds + np.sort(pause[rows])
        here = np.ones(rows.size, bool)
        return Actions(who[rows], items[rows], reaction[rows], fit[rows], seconds, lags[rows], here)


def write_day(folder: Path, day: datetime, rows: pa.Table) -> None:
    """Write the events that arrive on a day, as a log shipper would deliver them."""
    if rows.num_rows:
        pq.write_table(rows, folder / "events" / f"{day:%Y-%m-%d}.parquet")


def _days(seconds: Floats) -> Ints:
    return (seconds // SECONDS_PER_DAY).astype(np.int64)


def _together(acted: Sequence[Actions]) -> Actions:
    first, *_ = acted
    fields = {name: np.concatenate([getattr(one, name) for one in acted]) for name in vars(first)}
    return replace(first, **fields)
