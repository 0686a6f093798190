"""What members of the simulated market do: find jobs and courses, search, see a feed.

- Members come in sessions, more by day than by night, and act on a few jobs in each (geometric).
- To find an item, a member draws a category by its liking (one in ten at random), then takes the
  best of three open items of it, by attractiveness and nearness.
- A member sees the feed in half as many sessions. A policy that knows nothing of the members fills
  a slate of at most six with open items, uniformly at random.
- A search names a role or a course of a category drawn by liking, and sometimes the member's
  seniority and location.
- What happens to an item is drawn from `taste.py`.
- An event arrives minutes later; one in a hundred arrives hours to two days later.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.datasets.columns import named
from pipelines.datasets.market import (
    CATEGORIES,
    COURSES,
    LOCATIONS,
    SECONDS_PER_DAY,
    SENIORITIES,
    Bools,
    Floats,
    Ints,
    Market,
    Size,
    draw_market,
)
from pipelines.datasets.taste import Taste, attention

PAGES = ("search", "mail", "similar", "feed")
"""Where a member met an item."""
FEED = PAGES.index("feed")
SLATE = 6
NAMES = [name for names in (*CATEGORIES.values(), *COURSES.values()) for name in names]
"""Every role, then every course, category after category."""
FIRST = np.cumsum([0, *(len(names) for names in (*CATEGORIES.values(), *COURSES.values()))])
FIRST_ROLE, FIRST_COURSE = FIRST[: len(CATEGORIES) + 1], FIRST[len(CATEGORIES) :]
"""Index in NAMES where each category begins, and where the last one ends."""


@dataclass(frozen=True)
class Actions:
    """Arrays [actions], in which `here` says which have arrived by the end."""

    member: Ints
    item: Ints
    reaction: Ints
    fit: Floats
    seconds: Floats
    lag: Floats
    here: Bools


@dataclass(frozen=True)
class Impressions:
    """Arrays [impressions]: what was shown at which position, from 1, and the reaction."""

    member: Ints
    item: Ints
    seconds: Floats
    position: Ints
    reaction: Ints


@dataclass(frozen=True)
class Searches:
    """Arrays [searches]."""

    member: Ints
    query: pa.Array
    seconds: Floats
    lag: Floats
    here: Bools


def taste_of(size: Size, seed: int) -> Taste:
    """Return the taste that a simulation of this size and seed draws from."""
    rng = np.random.default_rng(seed)
    return find_jobs(rng, draw_market(rng, seed, size))[0]


def find_jobs(rng: np.random.Generator, market: Market) -> tuple[Taste, Actions]:
    """Return the taste, calibrated on the jobs that members found, and their actions on these."""
    members = market.members
    who, began = visits_of(rng, market, members.sessions)
    actions = rng.geometric(1 / 3.5, who.size)
    who, began = np.repeat(who, actions), np.repeat(began, actions)
    within = np.arange(who.size) - np.repeat(np.cumsum(actions) - actions, actions)
    seconds = began + within * rng.uniform(5, 90, who.size)
    keep = (seconds >= members.joins_at[who]) & (seconds < market.size.seconds)
    who, seconds = who[keep], seconds[keep]

    taste = Taste(market)
    job = _choose(rng, taste, who, seconds, is_course=False)
    fit = taste.fit(rng, who, job, seconds)
    taste = taste.calibrated(fit)
    reaction = taste.react(job, fit, shown=False)
    return taste, Actions(who, job, reaction, fit, seconds, *_arrival(rng, market, seconds))


def find_courses(rng: np.random.Generator, taste: Taste) -> Actions:
    """Return the actions on courses that members found."""
    market = taste.market
    who, seconds = visits_of(rng, market, rng.binomial(market.members.sessions, 0.15))
    keep = seconds >= market.members.joins_at[who]
    who, seconds = who[keep], seconds[keep]
    course = _choose(rng, taste, who, seconds, is_course=True)
    posted = market.items.posted[course] <= seconds  # a small market may have none yet
    who, seconds, course = who[posted], seconds[posted], course[posted]
    fit = taste.fit(rng, who, course, seconds)
    reaction = taste.react(course, fit, shown=False)
    return Actions(who, course, reaction, fit, seconds, *_arrival(rng, market, seconds))


def see_feed(rng: np.random.Generator, taste: Taste, courses: bool) -> tuple[Actions, Impressions]:
    """Return what the feed showed, and the actions on it.

    A reaction whose action has not arrived by the end is none in the impressions.

    Args:
        rng: Where random numbers come from.
        taste: What the members like.
        courses: Whether the feed shows courses too.
    """
    market = taste.market
    who, seconds = visits_of(rng, market, rng.binomial(market.members.sessions, 0.5))
    keep = seconds >= market.members.joins_at[who]
    who, seconds = who[keep], seconds[keep]
    item, is_there = _slates(rng, market, seconds, courses)
    slate, place = np.nonzero(is_there)
    who, seconds, item = who[slate], seconds[slate], item[slate, place]
    position = place + 1

    fit = taste.fit(rng, who, item, seconds)
    looks = rng.random(who.size) < attention(position)
    reaction = np.where(looks, taste.react(item, fit, shown=True), 0)
    acted = np.flatnonzero(reaction)
    later = seconds[acted] + rng.uniform(2.0, 120.0, acted.size)
    actions = Actions(
        who[acted],
        item[acted],
        reaction[acted],
        fit[acted],
        later,
        *_arrival(rng, market, later),
    )
    reaction[acted[~actions.here]] = 0
    return actions, Impressions(who, item, seconds, position, reaction)


def search(rng: np.random.Generator, taste: Taste, courses: bool) -> Searches:
    """Return what members searched for: jobs, and where there are courses also these."""
    market = taste.market
    who, seconds = visits_of(rng, market, rng.binomial(market.members.sessions, 0.3))
    keep = seconds >= market.members.joins_at[who]
    who, seconds = who[keep], seconds[keep]
    for_course = (rng.random(who.size) < 0.25) & courses
    category = np.where(
        for_course,
        _wanted(rng, taste, who, seconds, is_course=True),
        _wanted(rng, taste, who, seconds, is_course=False),
    )
    members = market.members
    first = np.where(for_course, FIRST_COURSE[category], FIRST_ROLE[category])
    many = np.where(for_course, np.diff(FIRST_COURSE)[category], np.diff(FIRST_ROLE)[category])
    name = first + (rng.random(who.size) * many).astype(np.int64)
    level, place = members.seniority[who], members.location[who]
    no_level = for_course | (rng.random(who.size) > 0.3) | (level == SENIORITIES.index(""))
    no_place = for_course | (rng.random(who.size) > 0.3)
    query = pc.binary_join_element_wise(
        named(level, SENIORITIES, no_level),
        named(name, NAMES),
        named(place, LOCATIONS, no_place),
        " ",
        null_handling="skip",
    )
    return Searches(who, query, seconds, *_arrival(rng, market, seconds))


def visits_of(rng: np.random.Generator, market: Market, sessions: Ints) -> tuple[Ints, Floats]:
    """Return who comes and when, for each member's number of sessions."""
    who = np.repeat(np.arange(sessions.size), sessions)
    joins = market.members.joins_at[who] / SECONDS_PER_DAY
    day = rng.uniform(joins, market.size.days)
    hour = np.clip(rng.normal(14.0, 4.0, who.size), 0, 23.99)
    return who, np.floor(day) * SECONDS_PER_DAY + hour * 3600


def _wanted(
    rng: np.random.Generator, taste: Taste, who: Ints, seconds: Floats, is_course: bool
) -> Ints:
    """Draw a category by liking."""
    cumulative = np.cumsum(taste.liking[int(is_course)], axis=-1)
    drawn = (rng.random((who.size, 1)) > cumulative[who, taste.era(who, seconds)]).sum(axis=1)
    return np.minimum(drawn, len(CATEGORIES) - 1)


def _choose(
    rng: np.random.Generator, taste: Taste, who: Ints, seconds: Floats, is_course: bool
) -> Ints:
    """Return the item that each member finds."""
    market, items = taste.market, taste.market.items
    drawn = _wanted(rng, taste, who, seconds, is_course)
    explored = rng.random(who.size) < 0.1
    category = np.where(explored, rng.integers(len(CATEGORIES), size=who.size), drawn)
    chosen = np.zeros(who.size, dtype=np.int64)
    for one in range(len(CATEGORIES)):
        rows = np.flatnonzero(category == one)
        listed = market.listed(is_course, one)  # a tiny market may have no job of this category
        first, last = market.open_at(listed, seconds[rows])
        first = np.minimum(first, np.maximum(last - 1, 0))
        span = np.maximum(last - first, 1)
        drawn_items = first[:, None] + rng.integers(span[:, None], size=(rows.size, 3))
        seen = listed[np.minimum(drawn_items, listed.size - 1)]
        nearness = items.location[seen] == market.members.location[who[rows], None]
        best = np.argmax(items.attractiveness[seen] + 1.5 * nearness, axis=1)
        chosen[rows] = seen[np.arange(rows.size), best]
    return chosen


def _slates(
    rng: np.random.Generator, market: Market, seconds: Floats, courses: bool
) -> tuple[Ints, Bools]:
    """Draw a slate of open items at each time: items [n, SLATE], and which places are filled."""
    listed = [market.listed(is_course) for is_course in ((False, True) if courses else (False,))]
    ranges = [market.open_at(one, seconds) for one in listed]
    spans = np.stack([last - first for first, last in ranges], axis=1)
    total = spans.sum(axis=1)
    drawn = rng.integers(np.maximum(total, 1)[:, None], size=(seconds.size, SLATE))
    item = listed[0][0] + ranges[0][0][:, None] + drawn
    if courses:
        own = drawn - spans[:, :1]
        item = np.where(own >= 0, listed[1][0] + ranges[1][0][:, None] + own, item)
    # What is drawn again is left out, and the rest moves up.
    again = np.zeros(item.shape, bool)
    for place in range(1, SLATE):
        again[:, place] = (item[:, :place] == item[:, place, None]).any(axis=1)
    order = np.argsort(again, axis=1, kind="stable")
    filled = (~again & (total > 0)[:, None]).sum(axis=1)
    return np.take_along_axis(item, order, axis=1), np.arange(SLATE) < filled[:, None]


def _arrival(rng: np.random.Generator, market: Market, seconds: Floats) -> tuple[Floats, Bools]:
    """Return each event's lag, in seconds, and whether it has arrived by the end."""
    lag = rng.exponential(180.0, seconds.size)
    late = rng.random(seconds.size) < 0.01
    lag[late] = rng.uniform(3600, 2 * SECONDS_PER_DAY, int(late.sum()))
    return lag, seconds + lag < market.size.seconds
