"""A small simulated job market, to run the whole flow before you have your own data.

The assumptions; nothing is tuned so that one aggregator wins over another:

- A job has a category, a location, a seniority and an attractiveness (log-normal), is posted at
  some time and stays open for 30 days.
- A member likes three of the categories (weights from a Dirichlet), lives in one location, and is
  active at a log-normal rate: most act a few times, few act very often. One in three changes the
  favourite category once, at a uniformly random time. One in ten joins during the simulation.
- Members come in sessions, more by day than by night, and act on a few jobs in each (geometric).
- For an action, a category is drawn by the member's liking (one in ten at random), then the best
  of three open jobs of it, by attractiveness and nearness.
- The member applies, saves or dismisses by how well the job fits, with noise: about 97 positive
  actions to 3 dismissals, the imbalance that LinkedIn's post of 2022 reports.
- An event arrives minutes later; one in a hundred arrives hours to two days later.
- About one row in a thousand is broken: no member, an unknown action, a bad timestamp.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transformations.errors import InputError

CATEGORIES = {
    "engineering": ["software engineer", "backend developer", "platform engineer", "web developer"],
    "data": ["data scientist", "data engineer", "machine learning engineer", "analyst"],
    "design": ["product designer", "graphic designer", "ux researcher"],
    "sales": ["account executive", "sales manager", "business developer"],
    "marketing": ["content strategist", "brand manager", "growth marketer"],
    "finance": ["accountant", "financial controller", "auditor"],
    "health": ["registered nurse", "physician assistant", "pharmacist"],
    "education": ["teacher", "instructional designer", "school counsellor"],
    "operations": ["operations manager", "supply chain planner", "warehouse supervisor"],
    "legal": ["paralegal", "contract lawyer", "compliance officer"],
    "support": ["support specialist", "customer success manager", "technical writer"],
    "people": ["recruiter", "people partner", "payroll specialist"],
}
LOCATIONS = [
    *("amsterdam", "berlin", "bengaluru", "boston", "chicago", "dublin", "lagos", "lisbon"),
    *("london", "madrid", "mumbai", "nairobi", "paris", "remote", "seattle", "singapore"),
    *("sydney", "tokyo", "toronto", "warsaw"),
]
SENIORITIES = ("junior", "", "senior", "lead")
OPEN_DAYS = 30.0
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Size:
    """Size of the simulated market."""

    members: int = 20_000
    jobs: int = 5_000
    days: int = 60

    def __post_init__(self) -> None:
        for name, least in (("members", 1), ("jobs", 50), ("days", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Jobs:
    posted: np.ndarray  # seconds after the start, ascending; negative: before it
    category: np.ndarray
    location: np.ndarray
    seniority: np.ndarray
    attractiveness: np.ndarray


@dataclass(frozen=True)
class _Members:
    liking: np.ndarray  # [members, 2, categories], cumulative; before and after the change
    changes_at: np.ndarray
    joins_at: np.ndarray
    location: np.ndarray
    seniority: np.ndarray
    sessions: np.ndarray


def simulate(
    folder: Path,
    size: Size | None = None,
    seed: int = 7,
    end: datetime | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, int]:
    """Write `folder`/events/<day>.parquet and `folder`/items.parquet; return how many rows.

    Args:
        folder: Replaced as a whole once everything is written; a killed call leaves it unchanged.
        size: Number of members, jobs and days.
        seed: The same seed, size and end give the same rows.
        end: All events are before it; default: the last midnight UTC.
        progress: Called with 1 after each written day.
    """
    size = size or Size()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = (end or midnight) - timedelta(days=size.days)
    rng = np.random.default_rng(seed)
    jobs = _jobs(rng, size)
    members = _members(rng, size)
    events = _break(rng, _events(rng, size, jobs, members, start))

    temporary = folder.with_name(f"{folder.name}.{uuid4().hex}.tmp")
    (temporary / "events").mkdir(parents=True)
    pq.write_table(_items(jobs, start), temporary / "items.parquet")
    # One file per day of arrival, as a log shipper would deliver.
    arrived = events["ingested_at"].to_numpy()
    day = ((arrived - arrived.min()) // np.timedelta64(1, "D")).astype(int)
    for number in range(int(day.max()) + 1):
        chosen = np.flatnonzero(day == number)
        name = np.datetime_as_string(arrived.min() + np.timedelta64(number, "D"), unit="D")
        pq.write_table(events.take(chosen), temporary / "events" / f"{name}.parquet")
        if progress is not None:
            progress(1)
    if folder.exists():
        rmtree(folder)
    temporary.rename(folder)
    return {"members": size.members, "items": size.jobs, "events": events.num_rows}


def _jobs(rng: np.random.Generator, size: Size) -> _Jobs:
    # Started early, so as many jobs are open at the start as later.
    posted = rng.uniform(-OPEN_DAYS * SECONDS_PER_DAY, size.days * SECONDS_PER_DAY, size.jobs)
    return _Jobs(
        posted=np.sort(posted),
        category=rng.integers(len(CATEGORIES), size=size.jobs),
        location=rng.integers(len(LOCATIONS), size=size.jobs),
        seniority=rng.choice(len(SENIORITIES), size=size.jobs, p=[0.25, 0.4, 0.25, 0.1]),
        attractiveness=rng.normal(0.0, 1.0, size.jobs),
    )


def _members(rng: np.random.Generator, size: Size) -> _Members:
    count, categories = size.members, len(CATEGORIES)
    favourites = np.argsort(rng.random((count, categories)), axis=1)[:, :3]
    before = np.zeros((count, categories))
    np.put_along_axis(before, favourites, rng.dirichlet([3.0, 1.5, 0.75], count), axis=1)
    # A change swaps the favourite with a category that the member did not like before.
    after = before.copy()
    changed = np.flatnonzero(rng.random(count) < 1 / 3)
    old = favourites[changed, 0]
    new = np.argsort(before[changed] + rng.random((changed.size, categories)) * 1e-3, axis=1)[:, 0]
    after[changed, new], after[changed, old] = before[changed, old], before[changed, new]
    joins = np.where(
        rng.random(count) < 0.1, rng.uniform(0, size.days * SECONDS_PER_DAY, count), 0.0
    )
    rate = rng.lognormal(mean=1.3, sigma=1.0, size=count) * size.days / 60
    return _Members(
        liking=np.cumsum(np.stack([before, after], axis=1), axis=2),
        changes_at=rng.uniform(0, size.days * SECONDS_PER_DAY, count),
        joins_at=joins,
        location=rng.integers(len(LOCATIONS), size=count),
        seniority=rng.choice(len(SENIORITIES), size=count, p=[0.25, 0.4, 0.25, 0.1]),
        sessions=rng.poisson(rate * (1 - joins / (size.days * SECONDS_PER_DAY))),
    )


def _events(
    rng: np.random.Generator, size: Size, jobs: _Jobs, members: _Members, start: datetime
) -> pa.Table:
    who = np.repeat(np.arange(size.members), members.sessions)
    day = rng.uniform(members.joins_at[who] / SECONDS_PER_DAY, size.days)
    hour = np.clip(rng.normal(14.0, 4.0, who.size), 0, 23.99)
    began = np.floor(day) * SECONDS_PER_DAY + hour * 3600
    actions = rng.geometric(1 / 3.5, who.size)
    who, began = np.repeat(who, actions), np.repeat(began, actions)
    within = np.arange(who.size) - np.repeat(np.cumsum(actions) - actions, actions)
    seconds = began + within * rng.uniform(5, 90, who.size)
    keep = (seconds >= members.joins_at[who]) & (seconds < size.days * SECONDS_PER_DAY)
    who, seconds = who[keep], seconds[keep]

    job = _choose(rng, jobs, members, who, seconds)
    near = (jobs.location[job] == members.location[who]) | (
        jobs.location[job] == LOCATIONS.index("remote")
    )
    liking = np.diff(members.liking, axis=2, prepend=0.0)
    later = (seconds >= members.changes_at[who]).astype(int)
    fit = (
        2.0 * liking[who, later, jobs.category[job]]
        + 0.8 * near
        - 0.5 * np.abs(jobs.seniority[job] - members.seniority[who])
        + 0.2 * jobs.attractiveness[job]
        + rng.normal(0.0, 0.7, who.size)
    )
    dismiss, apply = np.quantile(fit, [0.03, 0.55])
    action = np.where(fit < dismiss, "DISMISS", np.where(fit >= apply, "APPLY", "SAVE"))

    lag = rng.exponential(180.0, who.size)
    late = rng.random(who.size) < 0.01
    lag[late] = rng.uniform(3600, 2 * SECONDS_PER_DAY, int(late.sum()))
    here = seconds + lag < size.days * SECONDS_PER_DAY  # what arrives after the end has not arrived
    return pa.table(
        {
            "member_id": who + 1,
            "item_id": job + 1,
            "action": action,
            "event_timestamp": _times(start, seconds),
            "ingested_at": _times(start, seconds + lag),
        }
    ).filter(pa.array(here))


def _choose(
    rng: np.random.Generator, jobs: _Jobs, members: _Members, who: np.ndarray, seconds: np.ndarray
) -> np.ndarray:
    """Return the index of the job that each event is about."""
    later = (seconds >= members.changes_at[who]).astype(int)
    drawn = (rng.random((who.size, 1)) > members.liking[who, later]).sum(axis=1)
    explored = rng.random(who.size) < 0.1
    category = np.where(explored, rng.integers(len(CATEGORIES), size=who.size), drawn)
    category = np.minimum(category, len(CATEGORIES) - 1)
    chosen = np.zeros(who.size, dtype=np.int64)
    for one in range(len(CATEGORIES)):
        rows = np.flatnonzero(category == one)
        listed = np.flatnonzero(jobs.category == one)
        if listed.size == 0:  # a tiny market may have no job of this category: take any
            listed = np.arange(jobs.posted.size)
        # `posted` ascends, so the jobs open at one time are one range of the list.
        last = np.searchsorted(jobs.posted[listed], seconds[rows], side="right")
        first = np.searchsorted(
            jobs.posted[listed], seconds[rows] - OPEN_DAYS * SECONDS_PER_DAY, side="left"
        )
        first = np.minimum(first, np.maximum(last - 1, 0))
        span = np.maximum(last - first, 1)
        drawn_jobs = first[:, None] + rng.integers(span[:, None], size=(rows.size, 3))
        seen = listed[np.minimum(drawn_jobs, listed.size - 1)]
        nearness = jobs.location[seen] == members.location[who[rows], None]
        best = np.argmax(jobs.attractiveness[seen] + 1.5 * nearness, axis=1)
        chosen[rows] = seen[np.arange(rows.size), best]
    return chosen


def _break(rng: np.random.Generator, events: pa.Table) -> pa.Table:
    """Break about one row in a thousand."""
    count = events.num_rows
    kind = rng.integers(3000, size=count)
    member = pa.array(events["member_id"].to_numpy(), mask=kind == 0)
    action = np.where(kind == 1, "VIEW", events["action"].to_numpy(zero_copy_only=False))
    timestamp = events["event_timestamp"].to_numpy().astype("datetime64[us]")
    timestamp = np.where(kind == 2, np.datetime64("1901-01-01", "us"), timestamp)
    events = events.set_column(0, "member_id", member)
    events = events.set_column(2, "action", pa.array(action))
    return events.set_column(
        3, "event_timestamp", pa.array(timestamp).cast(pa.timestamp("us", tz="UTC"))
    )


def _items(jobs: _Jobs, start: datetime) -> pa.Table:
    names = list(CATEGORIES)
    titles = []
    for number, (category, seniority) in enumerate(zip(jobs.category, jobs.seniority, strict=True)):
        roles = CATEGORIES[names[category]]
        titles.append(f"{SENIORITIES[seniority]} {roles[number % len(roles)]}".strip())
    return pa.table(
        {
            "item_id": np.arange(jobs.posted.size) + 1,
            "title": titles,
            "category": [names[category] for category in jobs.category],
            "location": [LOCATIONS[location] for location in jobs.location],
            "posted_at": _times(start, jobs.posted),
        }
    )


def _times(start: datetime, seconds: np.ndarray) -> pa.Array:
    microseconds = int(start.timestamp() * 1_000_000) + np.round(seconds * 1e6).astype(np.int64)
    return pa.array(microseconds, pa.timestamp("us", tz="UTC"))
