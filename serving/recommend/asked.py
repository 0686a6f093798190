"""What is asked of the recommender, checked; and what it answers."""

import math
import uuid
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from serving.recommend.items import ItemFacts, Reason
from serving.recommend.member import checked_events
from serving.request.sequences import Event, checked_ids
from transformations.config import Config
from transformations.errors import InputError
from transformations.recommend_settings import MOST_ITEMS

By = Literal["ranker", "votes", "popular"]
Path = Literal["ranked", "votes", "cached", "precomputed", "popular"]
LONGEST = 200


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        n: Items of the answer. Default: `recommend.n`.
        context: Of the keys that `recommend.context` declares.
        events: Actions of the member that no store has to have seen.
        leave_out: Items that shall not stand in the list.
        candidates: The caller's own: only these may stand in the list. None: what sources bring.
        by: What orders: the ranker, the sources' votes, or popularity alone.
        id: Names the answer, and what is logged of it.
    """

    member_id: Any
    n: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Event] = ()
    leave_out: Sequence[Any] = ()
    candidates: Sequence[Any] | None = None
    by: By = "ranker"
    id: str = field(default_factory=lambda: str(uuid.uuid4()), compare=False)

    def key(self, row_at: datetime | None) -> Hashable:
        """Return what makes it the same question while the member's online row is this one."""
        events = tuple(
            (*event[:4], tuple(sorted(event.attributes.items(), key=str)), event.text)
            for event in self.events
        )
        own = None if self.candidates is None else tuple(self.candidates)
        context = tuple(sorted(self.context.items()))
        left_out = frozenset(self.leave_out)
        return self.member_id, row_at, self.n, context, events, left_out, own, self.by


@dataclass(frozen=True)
class Recommended:
    """An item of an answer.

    Attributes:
        score: What it was ordered by, with boosts; None of a pinned item that no source brought.
        probabilities: Action → its probability; empty without a ranker.
        sources: Line of each source that brought it → its rank there, from 0.
        reason: The nearest past action; None where there is none.
        propensity: The probability that its place got it, given the places before it.
        by: What gave it its place: score, explore, pin.
    """

    item_id: Any
    title: str
    score: float | None
    probabilities: Mapping[str, float]
    sources: Mapping[str, int]
    reason: Reason | None
    propensity: float
    by: str


@dataclass(frozen=True)
class Answer:
    """What the recommender answers.

    Attributes:
        path: What made it: the ranker, the sources' votes, what was just made for the same
            question, a list made before, or what is popular.
        member_known: Whether the online store has a row of the member; None where it did not say.
        ranker: The fit that scored; "votes" without one.
        fits: What took part: line of a source → the fit that it reads, ranker, spaces.
        made_at: When the list was made: of a cached one, before.
        release: The release that all of it is of; None before there were releases.
        arm: The member's arms of the experiments that run, as `ranker:treatment`; None in none.
        seconds: What the answer took, with waiting.
    """

    request_id: str
    member_id: Any
    path: Path
    member_known: bool | None
    ranker: str
    fits: Mapping[str, str]
    made_at: datetime
    items: Sequence[Recommended]
    release: int | None = None
    arm: str | None = None
    seconds: float | None = None


def checked(config: Config, items: ItemFacts, request: Request, now: datetime) -> Request:
    """Return a request with ids of the configured types and its number of items.

    Raises:
        InputError: what is wrong with it.
    """
    settings, rules = config.recommend, config.rules
    n = settings.n if request.n is None else request.n
    if not 1 <= n <= MOST_ITEMS:
        raise InputError(f"n: expected 1 to {MOST_ITEMS:,} items, got {n}")
    (member,) = checked_ids(rules, "member", [request.member_id])
    unknown = sorted({*request.context} - {*settings.context})
    if unknown:
        raise InputError(
            f"context: expected keys among {', '.join(settings.context) or 'none'} "
            f"(recommend.context), got {', '.join(unknown)}"
        )
    for name, value in request.context.items():
        _expect_kind(name, settings.context[name], value)
    own = request.candidates
    if own is not None:
        own = list(dict.fromkeys(checked_ids(rules, "item", own)))
        missing = [item for item in own if item not in items]
        if missing:
            listed = ", ".join(repr(item) for item in missing[:5])
            raise InputError(f"candidates: expected items of the catalogue, got {listed}")
    return replace(
        request,
        member_id=member,
        n=n,
        events=checked_events(rules, member, request.events, now),
        leave_out=checked_ids(rules, "item", request.leave_out),
        candidates=own,
    )


def _expect_kind(name: str, kind: str, value: Any) -> None:
    if kind == "number":
        right = isinstance(value, int | float) and not isinstance(value, bool)
        right = right and math.isfinite(value)
        expected = "a finite number"
    else:
        right = isinstance(value, str) and len(value) <= LONGEST
        expected = f"a text of at most {LONGEST} characters"
    if not right and value is not None:
        raise InputError(f"context.{name}: expected {expected}, got {value!r:.60}")
