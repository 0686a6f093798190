"""What there is in the simulated market: jobs, courses and members, before anybody acts.

- A job has a category, a location, a seniority and an attractiveness (log-normal), is posted at
  some time and stays open for 30 days. A course is held remotely, has a level in place of the
  seniority, and never closes.
- A member likes three of the categories (weights from a Dirichlet), lives in one location, and is
  active at a log-normal rate: most act a few times, few act very often. One in three changes the
  favourite category once, at a uniformly random time. One in ten joins during the simulation.
- A member is curious about other categories too, which only courses serve (`taste.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
"""Each category's job titles."""
COURSES = {
    "engineering": ["web development", "software architecture", "cloud platforms"],
    "data": ["machine learning", "statistics", "data visualization"],
    "design": ["product design", "typography", "ux research"],
    "sales": ["negotiation", "account planning", "sales forecasting"],
    "marketing": ["content strategy", "search engine marketing", "brand building"],
    "finance": ["accounting", "financial modelling", "audit practice"],
    "health": ["patient care", "pharmacology", "public health"],
    "education": ["classroom teaching", "instructional design", "educational psychology"],
    "operations": ["supply chain management", "lean operations", "warehouse safety"],
    "legal": ["contract law", "compliance", "data protection law"],
    "support": ["technical writing", "customer success", "conflict resolution"],
    "people": ["interviewing", "payroll practice", "people management"],
}
"""Each category's courses."""
LOCATIONS = [
    *("amsterdam", "berlin", "bengaluru", "boston", "chicago", "dublin", "lagos", "lisbon"),
    *("london", "madrid", "mumbai", "nairobi", "paris", "remote", "seattle", "singapore"),
    *("sydney", "tokyo", "toronto", "warsaw"),
]
REMOTE = LOCATIONS.index("remote")
SENIORITIES = ("junior", "", "senior", "lead")
LEVELS = ("introduction to", "", "advanced", "expert")
"""Of a course, by the seniority that it is for."""
OPEN_DAYS = 30.0
SECONDS_PER_DAY = 86_400.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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

    @property
    def courses(self) -> int:
        """One for ten jobs; three for each category at least."""
        return max(self.jobs // 10, 3 * len(COURSES))

    @property
    def seconds(self) -> float:
        """From the start to the end."""
        return self.days * SECONDS_PER_DAY


@dataclass(frozen=True)
class Items:
    """Arrays [items]: jobs, then courses; `item_id` is the index plus 1."""

    posted: Floats
    """Seconds after the start, ascending within each kind; negative: before it."""
    is_course: Bools
    category: Ints
    location: Ints
    seniority: Ints
    attractiveness: Floats


@dataclass(frozen=True)
class Members:
    """Arrays [members]; `member_id` is the index plus 1."""

    liking: Floats
    """Of jobs, [members, 2, categories], before and after the change; sums to 1."""
    interest: Floats
    """What a member is curious about besides, [members, categories]; sums to 1."""
    changes_at: Floats
    joins_at: Floats
    location: Ints
    seniority: Ints
    sessions: Ints


@dataclass(frozen=True)
class Market:
    """Items and members."""

    size: Size
    items: Items
    members: Members

    def listed(self, is_course: bool, category: int | None = None) -> Ints:
        """Return the items of a kind, and of a category; all of the kind where it has none."""
        start, end = (self.size.jobs, None) if is_course else (0, self.size.jobs)
        chosen = np.arange(self.items.posted.size)[start:end]
        own = chosen if category is None else chosen[self.items.category[chosen] == category]
        return own if own.size else chosen

    def open_at(self, listed: Ints, seconds: Floats) -> tuple[Ints, Ints]:
        """Return the range of `listed` that is open at each time: first, and one after the last.

        `posted` ascends, so what is open at one time is one range.
        """
        posted = self.items.posted[listed]
        last = np.searchsorted(posted, seconds, side="right")
        if self.items.is_course[listed[0]]:
            return np.zeros_like(last), last
        return np.searchsorted(posted, seconds - OPEN_DAYS * SECONDS_PER_DAY, side="left"), last


def random_for(seed: int, part: int) -> np.random.Generator:
    """Return random numbers for one part, so that no part changes what another one draws."""
    return np.random.default_rng([seed, part])


def draw_market(rng: np.random.Generator, seed: int, size: Size) -> Market:
    """Draw jobs and members with `rng`, and the rest with numbers of its own from `seed`."""
    items = _items(rng, size, random_for(seed, 1))
    return Market(size, items, _members(rng, size, random_for(seed, 2)))


def _items(rng: np.random.Generator, size: Size, other: np.random.Generator) -> Items:
    # Started early, so as many jobs are open at the start as later.
    posted = rng.uniform(-OPEN_DAYS * SECONDS_PER_DAY, size.seconds, size.jobs)
    category = rng.integers(len(CATEGORIES), size=size.jobs)
    location = rng.integers(len(LOCATIONS), size=size.jobs)
    seniority = rng.choice(len(SENIORITIES), size=size.jobs, p=[0.25, 0.4, 0.25, 0.1])
    attractiveness = rng.normal(0.0, 1.0, size.jobs)

    courses = size.courses
    first_posted = other.uniform(-365 * SECONDS_PER_DAY, size.seconds, courses)
    return Items(
        posted=np.concatenate([np.sort(posted), np.sort(first_posted)]),
        is_course=np.arange(size.jobs + courses) >= size.jobs,
        # In turn, so that each category has courses in the smallest market.
        category=np.concatenate([category, np.arange(courses) % len(COURSES)]),
        location=np.concatenate([location, np.full(courses, REMOTE)]),
        seniority=np.concatenate(
            [seniority, other.choice(4, size=courses, p=[0.4, 0.3, 0.2, 0.1])]
        ),
        attractiveness=np.concatenate([attractiveness, other.normal(0.0, 1.0, courses)]),
    )


def _members(rng: np.random.Generator, size: Size, other: np.random.Generator) -> Members:
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
    joins = np.where(rng.random(count) < 0.1, rng.uniform(0, size.seconds, count), 0.0)
    rate = rng.lognormal(mean=1.3, sigma=1.0, size=count) * size.days / 60
    return Members(
        liking=np.stack([before, after], axis=1),
        interest=other.dirichlet([0.3] * categories, count),
        changes_at=rng.uniform(0, size.seconds, count),
        joins_at=joins,
        location=rng.integers(len(LOCATIONS), size=count),
        seniority=rng.choice(len(SENIORITIES), size=count, p=[0.25, 0.4, 0.25, 0.1]),
        sessions=rng.poisson(rate * (1 - joins / size.seconds)),
    )
