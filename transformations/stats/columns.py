"""The columns that rankers may read beside vectors: name → kind. Neither Feast nor a table is read.

A number is a float64, null where it is not known.
"""

from collections.abc import Iterable
from typing import Literal

from transformations.config import Config
from transformations.names import count_column, plain

Kind = Literal["number", "category", "timestamp"]

DAYS = (1, 7, 28)
"""How far back the counts of an item look."""
PARTS_OF_DAY = ("night_share", "morning_share", "afternoon_share", "evening_share")
"""Columns of the shares of actions by the part of the day, in UTC: each has six hours."""
MEMBER_COUNTS = frozenset({"n_sessions", "active_days", "distinct_items"})
"""Of a member's statistics: 0 where it did nothing, which is also what no row says."""
SECONDS = frozenset({"s", "sec", "second", "seconds"})


def item_stats_columns(config: Config) -> dict[str, Kind]:
    """Return the columns of `item_stats_v1`, in order."""
    names = [days_column(action, days) for action in item_actions(config) for days in DAYS]
    names += ["positive_share", "trend", "distinct_members_28d", "age_days"]
    names += ["dwell"] * (duration(config) is not None)
    names += ["popularity_rank"] + ["category_rank"] * bool(config.items.categories)
    names.append("cluster_rank")
    return dict.fromkeys(names, "number")


def member_stats_columns(config: Config) -> dict[str, Kind]:
    """Return the columns of `member_activity_stats_v1`, in order.

    Both timestamps stand for ages: the hours since then, at the time that asks.
    """
    return member_columns_of(config.rules.actions, duration(config) is not None)


def member_columns_of(actions: Iterable[str], has_duration: bool) -> dict[str, Kind]:
    """Return the columns of a member's statistics, in order, by what a sequence holds."""
    names = ["n_sessions", "actions_per_session", "session_minutes", "active_days"]
    names += ["distinct_items", *map(share_column, actions), *PARTS_OF_DAY]
    names += ["dwell_mean", "dwell_median", "dwell_sum"] * has_duration
    numbers: dict[str, Kind] = dict.fromkeys(names, "number")
    return numbers | {"last_acted_at": "timestamp", "last_session_at": "timestamp"}


def share_column(action: str) -> str:
    """Name the share of an action among a member's: share_apply for APPLY."""
    return f"share_{action.lower()}"


def profile_columns(config: Config) -> dict[str, Kind]:
    """Return the columns of `member_profile_v1`, in order; none where no source is configured."""
    members = config.members
    numeric: dict[str, Kind] = dict.fromkeys(map(plain, members.numeric), "number")
    return numeric | dict.fromkeys(map(plain, members.categorical), "category")


def days_column(action: str, days: int) -> str:
    """Name the count of an action on an item in the last days.

    >>> days_column("APPLY", 7)
    'n_apply_7d'
    """
    return f"{count_column(action)}_{days}d"


def item_actions(config: Config) -> list[str]:
    """Return the actions that have an item: all but those on texts, as searches."""
    texts = config.rules.texts
    return [action for action in config.rules.actions if action not in texts]


def duration(config: Config) -> str | None:
    """Return the attribute that says how long an action took: the first number in seconds."""
    for name, given in config.events.attributes.items():
        if given.type == "number" and given.unit.strip().lower() in SECONDS:
            return name
    return None
