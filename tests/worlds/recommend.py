"""A small catalogue on disk, and stand-ins for what recommends from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.candidates.spec import CandidateSource, Neighbours, Popular
from serving.recommend.candidates import Found
from serving.recommend.items import ItemFacts
from serving.recommend.member import NOBODY, Member
from serving.recommend.parts import Parts, popular_now
from serving.recommend.scored import Lists, Scored, merged
from serving.request.sequences import Event
from tests.worlds.tiny_models import write_items
from transformations.config import Config
from transformations.member_columns import UTC_US

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=100)
POPULAR, NEAR = Popular(version=1), Neighbours(of="tfidf_svd_v1", version=1, name="near")
VECTORS: Mapping[int, tuple[float, float]] = {
    1: (1, 0), 2: (1, 0.1), 3: (1, 0.2), 4: (0, 1), 5: (0.1, 1), 6: (0.2, 1), 7: (1, 1), 8: (-1, 0),
}  # fmt: skip
KINDS = {item: "job" if item <= 4 else "course" for item in VECTORS}
OVER, SEARCHED = 8, 9


def config_of(folder: Path, recommend: Mapping[str, Any] | None = None) -> Config:
    """Items with a category, and a deadline that a busy machine keeps."""
    settings = {"deadline": "60s", **(recommend or {})}
    return Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "items": {"text": ["title"], "categories": ["kind"]},
            "dim": 2,
            "recommend": settings,
            "duckdb": {"memory_limit": "500MB", "threads": 1},
        }
    )


def write_catalogue(config: Config) -> None:
    """Write staged items and vectors; one item is over, one is the text of a search."""
    ids = [*VECTORS, SEARCHED]
    table = {
        "item_id": pa.array(ids, pa.int64()),
        "available_at": pa.array([LONG_AGO] * len(ids), UTC_US),
        "available_until": pa.array([LONG_AGO if item == OVER else None for item in ids], UTC_US),
        "kind": pa.array(["search" if item == SEARCHED else None for item in ids]),
        "text": pa.array([f"title of {item}" for item in ids]),
        "categories": pa.array([[f"kind={KINDS[item]}"] if item in KINDS else [] for item in ids]),
    }
    config.layout.staged_items.parent.mkdir(parents=True)
    pq.write_table(pa.table(table), config.layout.staged_items)
    write_items(config, [(item, vector, LONG_AGO) for item, vector in VECTORS.items()])


@dataclass
class StandInSources:
    """Sources that bring what they are told; `broken` raises in place of all of it."""

    members: dict[Any, Member] = field(default_factory=dict)
    popular_items: Sequence[Any] = (7, 4, 1, OVER, 2, 5)
    near: Sequence[Any] = (2, 3)
    broken: Exception | None = None
    fits: Mapping[str, str] = field(default_factory=lambda: {"near_v1": "item_neighbours_near_v1"})
    asked: int = 0

    def member(self, member: Any) -> Member:
        if self.broken is not None:
            raise self.broken
        return self.members.get(member, NOBODY)

    def of(
        self,
        member: Any,  # noqa: ARG002
        known: Member | None = None,
    ) -> Sequence[Lists]:
        self.asked += 1
        some = self.near if known is not None and len(known.items) else ()
        return [found(NEAR, some), *self.popular()]

    def popular(self) -> Sequence[Lists]:
        if self.broken is not None:
            raise self.broken
        return [found(POPULAR, self.popular_items)]

    def close(self) -> None:
        pass


class StandInScorer:
    """Scores an item by its id: the largest first; counts how often it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def of(
        self,
        member: Any,
        found: Sequence[Lists],
        extra: Sequence[Any] = (),
        context: Mapping[str, Any] = {},
        now: datetime | None = None,  # noqa: ARG002
        events: Sequence[Event] = (),
    ) -> Scored:
        self.calls.append({"member": member, "context": context, "events": events})
        sources = merged(found, extra)
        items = np.array(list(sources), np.int64)
        scores = (items / 10).astype(np.float32)
        return Scored(
            items,
            scores,
            list(sources.values()),
            {"APPLY": scores},
            "stand_in_v1_f2",
            {"ranker": "stand_in_v1_f2"},
            seconds={"features": 0.001},
        )


def found(source: CandidateSource, items: Sequence[Any]) -> Found:
    return Found(source, np.array(items, np.int64), np.ones(len(items), np.float32))


def member_of(*actions: tuple[int, str, int]) -> Member:
    """A member with a row, and actions: item, action, days ago; oldest first."""
    signs = {"APPLY": 1, "SAVE": 1, "DISMISS": -1}
    return Member(
        [item for item, _, _ in actions],
        np.array([signs[action] for _, action, _ in actions], np.int32),
        [action for _, action, _ in actions],
        [NOW - timedelta(days=days) for _, _, days in actions],
        NOW.replace(microsecond=0),
    )


def parts_of(config: Config, sources: StandInSources, **more: Any) -> Parts:
    """Open the catalogue with stand-ins; `scorer`, `lists` as Parts has them."""
    items = ItemFacts(config, NOW)
    return Parts(sources, items, popular=popular_now(sources, items), **more)
