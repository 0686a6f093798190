"""The columns that a ranker may read beside vectors: where each lies, and what kind it is."""

from collections.abc import Mapping

from transformations import names
from transformations.config import Config
from transformations.stats.columns import (
    Kind,
    item_stats_columns,
    member_stats_columns,
    profile_columns,
)

Where = tuple[str, str, str]
"""View, feature, kind."""


def ranker_columns(config: Config) -> dict[str, dict[str, Where]]:
    """Return group of `Ranker.reads` → column of the ranker → where it lies."""
    return {
        "member_stats": _named("member", names.MEMBER_STATS_VIEW, member_stats_columns(config)),
        "profile": _named("member", names.PROFILE_VIEW, profile_columns(config)),
        "item_stats": _named("item", names.ITEM_STATS_VIEW, item_stats_columns(config)),
    }


def _named(side: str, view: str, columns: Mapping[str, Kind]) -> dict[str, Where]:
    return {f"{side}.{name}": (view, name, kind) for name, kind in columns.items()}
