"""Candidates with scores: what makes them, and the votes that order them without a ranker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.candidates.spec import CandidateSource
from serving.request.sequences import Event
from stores.read import Features

RRF = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)."""
VOTES = "votes"
"""What stands for the ranker of a list that candidate sources alone have ordered."""


class Lists(Protocol):
    """What a candidate source brought (serving/recommend/candidates.py: Found)."""

    @property
    def source(self) -> CandidateSource:
        """The line of the catalogue."""
        ...

    @property
    def items(self) -> NDArray[Any]:
        """Ids, the best first."""
        ...


class Served(NamedTuple):
    """What a ranker read online, by `view__feature`: a row of the member, and one of each item."""

    member: Features
    items: Features


@dataclass
class Scored:
    """Candidates of a member with their scores.

    Attributes:
        items: Ids, each once, in the order of their first appearance in the sources.
        scores: What they are ordered by, float32 [items].
        probabilities: Action → its probability, float32 [items]; empty without a ranker.
        sources: Per item, the line of each source that brought it → its rank there, from 0.
        ranker: The fit that scored, as "wide_v1_f2"; VOTES without one.
        fits: What took part: ranker, spaces, aggregators.
        columns: What the ranker read of the items, as category.
        seconds: What a part of the scoring took, as "features"; for the service's metrics.
        served: What the ranker read; None without a ranker.
    """

    items: NDArray[Any]
    scores: NDArray[np.float32]
    sources: list[dict[str, int]]
    probabilities: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    ranker: str = VOTES
    fits: dict[str, str] = field(default_factory=dict)
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    served: Served | None = None


class Scorer(Protocol):
    """From candidates to scores; threads share it. It may fail, and it may be late."""

    def of(
        self,
        member: Any,
        found: Sequence[Lists],
        extra: Sequence[Any] = (),
        context: Mapping[str, Any] = {},
        now: datetime | None = None,
        events: Sequence[Event] = (),
    ) -> Scored:
        """Return the scores of what the sources found and of further items.

        Args:
            extra: Ids of items that no source has to have brought.
            context: Of the request, as `recommend.context` declares it.
            now: Default: the present.
            events: Actions of the member that no store has to have seen.
        """
        ...


class Precomputed(Protocol):
    """Lists that were made before, for when ranking fails or is late."""

    def of(self, member: Any) -> Scored | None:
        """Return a member's list; None where it has none. It may fail, and it may be late."""
        ...


class NoLists:
    """No list was made before."""

    def of(self, member: Any) -> Scored | None:  # noqa: ARG002
        """Return None."""
        return None


def merged(found: Sequence[Lists], extra: Sequence[Any] = ()) -> dict[Any, dict[str, int]]:
    """Return each item of the lists, in the order of first appearance → line of source → rank."""
    sources: dict[Any, dict[str, int]] = {}
    for each in found:
        line = str(each.source)
        for rank, item in enumerate(each.items.tolist()):
            sources.setdefault(item, {}).setdefault(line, rank)
    for item in extra:
        sources.setdefault(item, {})
    return sources


def fused(found: Sequence[Lists], extra: Sequence[Any] = ()) -> Scored:
    """Order candidates by what sources alone say: reciprocal rank fusion.

    An item's score is the sum of 1 / (RRF + rank) over the sources that brought it, with ranks from
    1; one that none brought has 0.
    """
    sources = merged(found, extra)
    scores = [sum(1 / (RRF + 1 + rank) for rank in ranks.values()) for ranks in sources.values()]
    return Scored(as_ids(list(sources)), np.array(scores, np.float32), list(sources.values()))


def as_ids(items: Sequence[Any]) -> NDArray[Any]:
    """Return ids as an array: int64, or objects where they are texts."""
    return np.array(items, np.int64 if items and isinstance(items[0], int) else object)
