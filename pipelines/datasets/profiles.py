"""Profiles of the simulated market's members: what they say of themselves, with holes.

- The industry is the favourite category, but another one in a fifth of the profiles. Years of
  experience are gamma distributed about a mean that grows with the seniority. The region is that
  of the location; who looks for remote work has none.
- Besides, a part of each column is missing: 10 % of industries and regions, 15 % of seniorities,
  25 % of years.
- Who joined before the start wrote the profile in the two years before it. Half of those who
  change the favourite category say so a week later on average: a second row, with the new
  industry.
"""

from datetime import datetime

import numpy as np
import pyarrow as pa

from pipelines.datasets.columns import named, timestamps
from pipelines.datasets.market import CATEGORIES, LOCATIONS, REMOTE, SECONDS_PER_DAY, Market

REGIONS = ("africa", "americas", "asia-pacific", "europe")
IN_REGION = {
    "africa": ("lagos", "nairobi"),
    "americas": ("boston", "chicago", "seattle", "toronto"),
    "asia-pacific": ("bengaluru", "mumbai", "singapore", "sydney", "tokyo"),
}
SENIORITY_NAMES = ("junior", "mid", "senior", "lead")
MEAN_YEARS = np.array([1.5, 5.0, 9.0, 14.0])


def profiles(rng: np.random.Generator, market: Market, start: datetime) -> pa.Table:
    """Return a row per member and available_at.

    member_id, industry, seniority, years_experience and region, null where missing, and
    available_at, since when it holds.
    """
    members, count = market.members, market.size.members
    favourite = members.liking.argmax(axis=2)
    said = np.where(
        rng.random(count) < 0.2, rng.integers(len(CATEGORIES), size=count), favourite[:, 0]
    )
    years = np.round(rng.gamma(4.0, MEAN_YEARS[members.seniority] / 4), 1)
    before = -rng.uniform(0, 730 * SECONDS_PER_DAY, count)
    since = np.where(members.joins_at > 0, members.joins_at, before)
    holes = rng.random((4, count)) < np.array([[0.10], [0.15], [0.25], [0.10]])

    later = members.changes_at + rng.exponential(7 * SECONDS_PER_DAY, count)
    tells = (favourite[:, 0] != favourite[:, 1]) & (rng.random(count) < 0.5)
    tells &= (members.changes_at > members.joins_at) & (later < market.size.seconds)
    again = np.flatnonzero(tells)
    rows = np.concatenate([np.arange(count), again])
    industry = np.concatenate([said, favourite[again, 1]])
    # Telling a change fills the hole.
    no_industry = np.concatenate([holes[0], np.zeros(again.size, bool)])
    region = np.array([_region(name) for name in LOCATIONS])[members.location[rows]]
    no_region = holes[3, rows] | (members.location[rows] == REMOTE)
    return pa.table(
        {
            "member_id": rows + 1,
            "industry": named(industry, tuple(CATEGORIES), no_industry),
            "seniority": named(members.seniority[rows], SENIORITY_NAMES, holes[1, rows]),
            "years_experience": pa.array(years[rows], mask=holes[2, rows]),
            "region": named(region, REGIONS, no_region),
            "available_at": timestamps(start, np.concatenate([since, later[again]])),
        }
    )


def _region(location: str) -> int:
    """Return the index in REGIONS."""
    own = (region for region, places in IN_REGION.items() if location in places)
    return REGIONS.index(next(own, "europe"))
