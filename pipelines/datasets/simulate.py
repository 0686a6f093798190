"""A small simulated job market, to run the whole flow before you have your own data.

The assumptions; nothing is tuned so that one aggregator wins over another. They stand where they
are drawn: jobs, courses and members in `market.py`, what the members like in `taste.py`, what they
do in `behaviour.py`, what they say of themselves in `profiles.py`. Here is how it is recorded:

- A member's client tells how long a page was read (`dwell`, in seconds, log-normal, longer the
  better the fit), except one client in five, and one action in twenty of the others.
- One action in eight has a rating from 1 to 5, by the fit.
- About one row in a thousand is broken, of the actions on jobs that members found: no member, an
  unknown action, a bad timestamp.

Items and members, actions on jobs that members found, and their attributes are the same whatever
else is simulated (`Parts`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.datasets.behaviour import (
    FEED,
    PAGES,
    Actions,
    Impressions,
    Searches,
    find_courses,
    find_jobs,
    search,
    see_feed,
)
from pipelines.datasets.columns import named, timestamps
from pipelines.datasets.market import (
    CATEGORIES,
    COURSES,
    LEVELS,
    LOCATIONS,
    SENIORITIES,
    Market,
    Size,
    draw_market,
    random_for,
)
from pipelines.datasets.profiles import profiles
from pipelines.datasets.taste import REACTIONS
from transformations import clock
from transformations.config import Config


@dataclass(frozen=True)
class Parts:
    """What is simulated besides jobs, members and the jobs that members find.

    Attributes:
        courses: A second kind of items, and ENROLL.
        searches: SEARCH, with a text in `query` and no item.
        feed: Slates of random items, the actions on them, and impressions.
    """

    courses: bool = False
    searches: bool = False
    feed: bool = False

    @classmethod
    def read_by(cls, config: Config) -> Self:
        """Return the parts that a configuration reads."""
        enroll, searched = config.actions.get("ENROLL"), config.actions.get("SEARCH")
        return cls(
            courses=enroll is not None and enroll.item_kind == "course",
            searches=searched is not None and searched.text == "query",
            feed="source_page"
            in {given.column or name for name, given in config.events.attributes.items()},
        )


def simulate(
    folder: Path,
    size: Size | None = None,
    seed: int = 7,
    end: datetime | None = None,
    progress: Callable[[int], object] | None = None,
    parts: Parts | None = None,
) -> dict[str, int]:
    """Write events, items, profiles and impressions; return how many rows.

    `folder`/events/<day>.parquet, items.parquet, profiles.parquet, and with a feed
    impressions/<day>.parquet.

    Args:
        folder: Replaced as a whole once everything is written; a killed call leaves it unchanged.
        size: Number of members, jobs and days.
        seed: The same seed, size, end and parts give the same bytes.
        end: All events are before it; default: the last midnight UTC.
        progress: Called with 1 after each written day of events.
        parts: What is simulated besides; default: nothing.
    """
    size, parts = size or Size(), parts or Parts()
    midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    start = (end or midnight) - timedelta(days=size.days)
    rng = np.random.default_rng(seed)
    market = draw_market(rng, seed, size)
    taste, found = find_jobs(rng, market)
    reports = random_for(seed, 3).random(size.members) < 0.8
    events = [broken(rng, event_rows(random_for(seed, 4), reports, found, start))]
    impressions = None
    if parts.courses:
        enrolled = find_courses(random_for(seed, 5), taste)
        events.append(event_rows(random_for(seed, 6), reports, enrolled, start))
    if parts.feed:
        acted, impressions = see_feed(random_for(seed, 7), taste, parts.courses)
        events.append(event_rows(random_for(seed, 8), reports, acted, start, FEED))
    if parts.searches:
        events.append(_searches(search(random_for(seed, 9), taste, parts.courses), start))
    table = pa.concat_tables(events, promote_options="default")

    temporary = folder.with_name(f"{folder.name}.{uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    items = item_rows(market, start, parts.courses)
    pq.write_table(items, temporary / "items.parquet")
    people = profiles(random_for(seed, 10), market, start)
    pq.write_table(people, temporary / "profiles.parquet")
    # One file per day of arrival, as a log shipper would deliver.
    _write_days(temporary / "events", table, "ingested_at", progress)
    counts = {"members": size.members, "items": items.num_rows, "events": table.num_rows}
    if impressions is not None:
        shown = _impressions(impressions, start)
        _write_days(temporary / "impressions", shown, "shown_at")
        counts["impressions"] = shown.num_rows
    if folder.exists():
        rmtree(folder)
    temporary.rename(folder)
    return counts


def _write_days(
    folder: Path, table: pa.Table, column: str, progress: Callable[[int], object] | None = None
) -> None:
    """Write one file per day of a timestamp."""
    folder.mkdir()
    times = table[column].to_numpy()
    if not times.size:
        return
    first = times.min()
    day = ((times - first) // np.timedelta64(1, "D")).astype(int)
    table = table.take(np.argsort(day, kind="stable"))
    ends = np.cumsum(np.bincount(day))
    for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        name = np.datetime_as_string(first + np.timedelta64(number, "D"), unit="D")
        pq.write_table(table.slice(begin, end - begin), folder / f"{name}.parquet")
        if progress is not None:
            progress(1)


def event_rows(
    rng: np.random.Generator,
    reports: np.ndarray,
    actions: Actions,
    start: datetime,
    page: int | None = None,
) -> pa.Table:
    """Return the rows of actions that have arrived; `page` is where all were met, if at one."""
    count = actions.member.size
    dwell = np.exp(3.0 + 0.3 * actions.fit + rng.normal(0.0, 0.8, count))
    rating = np.clip(np.rint(2.0 + actions.fit + rng.normal(0.0, 0.5, count)), 1, 5)
    told = reports[actions.member] & (rng.random(count) < 0.95)
    rated = rng.random(count) < 1 / 8
    drawn = np.searchsorted([0.5, 0.7], rng.random(count)) if page is None else np.full(count, page)
    return pa.table(
        {
            "member_id": actions.member + 1,
            "item_id": actions.item + 1,
            "action": named(actions.reaction, REACTIONS),
            "event_timestamp": timestamps(start, actions.seconds),
            "ingested_at": timestamps(start, actions.seconds + actions.lag),
            "dwell": pa.array(np.maximum(np.round(dwell, 1), 0.1), mask=~told),
            "rating": pa.array(rating.astype(np.int32), mask=~rated),
            "source_page": named(drawn, PAGES),
        }
    ).filter(pa.array(actions.here))


def _searches(searches: Searches, start: datetime) -> pa.Table:
    count = searches.member.size
    return pa.table(
        {
            "member_id": searches.member + 1,
            "action": pa.repeat("SEARCH", count),
            "event_timestamp": timestamps(start, searches.seconds),
            "ingested_at": timestamps(start, searches.seconds + searches.lag),
            "source_page": pa.repeat("search", count),
            "query": searches.query,
        }
    ).filter(pa.array(searches.here))


def _impressions(shown: Impressions, start: datetime) -> pa.Table:
    return pa.table(
        {
            "member_id": shown.member + 1,
            "item_id": shown.item + 1,
            "shown_at": timestamps(start, shown.seconds),
            "position": shown.position.astype(np.int32),
            "source_page": pa.repeat(PAGES[FEED], shown.member.size),
            "policy": pa.repeat("uniform", shown.member.size),
            "action": named(shown.reaction, REACTIONS, shown.reaction == 0),
        }
    )


def broken(rng: np.random.Generator, events: pa.Table) -> pa.Table:
    """Break about one row in a thousand."""
    count = events.num_rows
    kind = rng.integers(3000, size=count)
    member = pa.array(events["member_id"].to_numpy(), mask=kind == 0)
    action = pc.if_else(pa.array(kind == 1), "VIEW", events["action"])
    timestamp = events["event_timestamp"].to_numpy().astype("datetime64[us]")
    timestamp = np.where(kind == 2, np.datetime64("1901-01-01", "us"), timestamp)
    events = events.set_column(0, "member_id", member)
    events = events.set_column(2, "action", action)
    return events.set_column(
        3, "event_timestamp", pa.array(timestamp).cast(pa.timestamp("us", tz="UTC"))
    )


def item_rows(market: Market, start: datetime, courses: bool) -> pa.Table:
    """Return the rows of the items' source; without courses, of jobs alone."""
    names, items = list(CATEGORIES), market.items
    titles = []
    for number, (is_course, category, seniority) in enumerate(
        zip(items.is_course, items.category, items.seniority, strict=True)
    ):
        own = (COURSES if is_course else CATEGORIES)[names[category]]
        prefix = (LEVELS if is_course else SENIORITIES)[seniority]
        titles.append(f"{prefix} {own[number % len(own)]}".strip())
    table = pa.table(
        {
            "item_id": np.arange(items.posted.size) + 1,
            "kind": named(items.is_course.astype(int), ("job", "course")),
            "title": titles,
            "category": named(items.category, names),
            "location": named(items.location, LOCATIONS),
            "posted_at": timestamps(start, items.posted),
        }
    )
    return table if courses else table.slice(0, market.size.jobs)
