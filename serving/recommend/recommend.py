"""A member's recommendations: candidates → scores → rules → a list, always within the deadline.

request ─► checked, and the member's release ─┐
                    ┌─────────────────────────┘
                    ├─► member, candidates, scores, rules   in a thread; kept for a time
                    │       late, or it fails
                    ├─► a list that was made before         in another thread
                    │       there is none, or it is late
                    └─► what is popular, from memory
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self, TypeVar

import numpy as np

from serving.recommend.asked import Answer, Path, Recommended, Request, checked
from serving.recommend.cache import Kept
from serving.recommend.input_log import InputLog
from serving.recommend.member import NOBODY, Member, with_events
from serving.recommend.metrics import RecommendMetrics
from serving.recommend.opened import Opened
from serving.recommend.parts import Parts
from serving.recommend.rules import Pool, drawing, listed
from serving.recommend.scored import Scored, fused
from serving.recommend.standby import Standby
from serving.request.sequences import checked_ids
from transformations import clock
from transformations.config import Config

logger = logging.getLogger(__name__)

T = TypeVar("T")

LISTS_AT, GIVE_UP = 0.4, 0.6
"""Shares of the deadline: when a list made before is asked for, and when what is popular serves.
The rest is for the rules, and for a machine that is busy."""
CLOSED_AFTER = 5.0
"""Seconds, beside the deadline, after which nothing uses the parts any more that were replaced."""


class Recommender:
    """Recommends by one configuration; threads share it.

    Args:
        parts: What answers are made from.
        reopen: Opens new parts where what they are made from has changed, else returns None; for
            `refresh`.
        threads: Answers that are ranked at once.
        rng: Makes the random numbers of an answer that explores.
        log: Gets what a ranker read of a member at a time; not with actions of the request.
        standby: Says which release answers, and opens those that may answer next; for `follow`.
            None: there is one, or none.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        reopen: Callable[[Parts], Parts | None] = lambda _: None,
        threads: int = 2,
        metrics: RecommendMetrics | None = None,
        rng: Callable[[], np.random.Generator] = np.random.default_rng,
        log: InputLog | None = None,
        standby: Standby | None = None,
    ) -> None:
        self.config, self.metrics = config, metrics or RecommendMetrics()
        self._rng, self._log = rng, log
        self._ranking = ThreadPoolExecutor(threads, thread_name_prefix="rank")
        self._lists = ThreadPoolExecutor(threads, thread_name_prefix="lists")
        self._kept: Kept[_Made] = Kept(config.recommend.keep.total_seconds())
        closed_after = config.recommend.deadline.total_seconds() + CLOSED_AFTER
        self._opened = Opened(parts, reopen, standby, closed_after, self._kept.clear)

    @property
    def parts(self) -> Parts:
        """What answers are made from now, save for a treatment's members."""
        return self._opened.parts

    def refresh(self) -> bool:
        """Load new fits, items and lists; return whether there were new parts.

        After a failure the old ones stay. The releases that may answer next are opened too.
        """
        return self._opened.refresh()

    def follow(self) -> bool:
        """Let the releases answer that the ledger names; return whether a `refresh` opens one."""
        return self._opened.follow()

    def of(self, request: Request, since: float | None = None) -> Answer:
        """Return the recommendations of a member, within `recommend.deadline`.

        A member that nobody knows gets what the sources bring for all.

        Args:
            since: When the deadline began, as time.monotonic(). Default: now.

        Raises:
            InputError: the request is wrong.
        """
        since, now = time.monotonic() if since is None else since, clock.now()
        parts, arm, request = self._checked(request, now)
        made, path = self._made(parts, request, since, now)
        seconds = time.monotonic() - since
        self.metrics.seconds.labels("answer").observe(seconds)
        self.metrics.answers.labels(path).inc()
        if not made.items:
            self.metrics.empty.inc()
        return _answer(request, made, path, arm, seconds)

    def _checked(self, request: Request, now: datetime) -> tuple[Parts, str | None, Request]:
        """Return what a request is answered from, its member's arms, and the request, checked."""
        (member,) = checked_ids(self.config.rules, "member", [request.member_id])
        parts, arm, is_its_own = self._opened.of(member)
        if not is_its_own:
            self.metrics.failures.labels("treatment").inc()  # what opens it has said why
        return parts, arm, checked(self.config, parts.items, request, now)

    def _made(
        self, parts: Parts, request: Request, since: float, now: datetime
    ) -> "tuple[_Made, Path]":
        deadline = self.config.recommend.deadline.total_seconds()
        ranking = self._ranking.submit(self._ranked, parts, request, now)
        if _is_done(ranking, since + LISTS_AT * deadline) and (found := self._result(ranking)):
            return found
        made_before: Future[Scored | None]
        made_before = self._lists.submit(parts.lists.of, request.member_id)
        until = since + GIVE_UP * deadline
        if not ranking.done() and _is_done(ranking, until) and (found := self._result(ranking)):
            made_before.cancel()
            return found
        if not ranking.done():
            ranking.cancel()
            self.metrics.failures.labels("late").inc()
        scored = self._result(made_before, "lists") if _is_done(made_before, until) else None
        made_before.cancel()
        path: Path = "popular" if scored is None or request.by == "popular" else "precomputed"
        if scored is None or request.by == "popular":
            scored = parts.popular
        member = with_events(self.config.rules, NOBODY, request.events)
        made = self._listed(parts, request, scored, member, now)
        return replace(made, member_known=None), path

    def _result(self, done: Future[T], what: str = "ranking") -> T | None:
        """Return what a thread made; None where it failed."""
        if done.cancelled():
            return None
        if (error := done.exception()) is not None:
            self._failed(what, error)
            return None
        return done.result()

    def _failed(self, what: str, error: BaseException) -> None:
        self.metrics.failures.labels(what).inc()
        logger.warning("%s failed, something simpler serves: %r", what, error)

    def _ranked(self, parts: Parts, request: Request, now: datetime) -> "tuple[_Made, Path]":
        """Rank in a thread of its own: what of it is late is not waited for."""
        known = parts.sources.member(request.member_id)

        def make() -> _Made:
            return self._new(parts, request, known, now)

        def keep(made: _Made) -> bool:
            return not made.failed and self._opened.is_answering(parts)

        made, was_there = self._kept.of((parts.release, request.key(known.row_at)), make, keep)
        return made, "cached" if was_there else made.path

    def _new(self, parts: Parts, request: Request, known: Member, now: datetime) -> "_Made":
        member = with_events(self.config.rules, known, request.events)
        with self._stage("candidates"):
            found = parts.sources.of(request.member_id, member)
        for each in found:
            self.metrics.candidates.labels(str(each.source)).inc(len(each.items))
        extra = request.candidates or ()
        if request.by == "popular" or not (extra or any(len(each.items) for each in found)):
            made = self._listed(parts, request, parts.popular, member, now)
            return replace(made, path="popular")
        scored, failed = None, False
        if parts.scorer is not None and request.by == "ranker":
            try:
                with self._stage("ranking"):
                    scored = parts.scorer.of(
                        request.member_id, found, extra, request.context, now, request.events
                    )
                for stage, seconds in scored.seconds.items():
                    self.metrics.seconds.labels(stage).observe(seconds)
                if self._log is not None and not request.events:
                    self._log.add(request, scored, now)
                scored.served = None  # vectors of all candidates: a kept list need not hold them
            except Exception as error:
                failed = True
                self._failed("ranker", error)
        path: Path = "votes" if scored is None else "ranked"
        made = self._listed(parts, request, scored or fused(found, extra), member, now)
        return replace(made, path=path, failed=failed)

    def _listed(
        self, parts: Parts, request: Request, scored: Scored, member: Member, now: datetime
    ) -> "_Made":
        """Apply the rules to candidates with scores."""
        with self._stage("rules"):
            rules = self.config.recommend.rules
            pinned = [pin for pin in rules.pinned if pin.item in parts.items]
            rules = rules.model_copy(update={"pinned": pinned})
            own = request.candidates
            if own is not None:
                scored = _only(scored, own)
            ids = scored.items.tolist()
            acted: frozenset[Any] = frozenset()
            if rules.leave_out_acted is not None:
                acted = member.acted_since(now - rules.leave_out_acted, rules.leave_out_actions)
            left_out = frozenset(request.leave_out)
            pool = Pool(
                scored.items,
                scored.scores,
                parts.items.columns(rules.columns, ids),
                parts.items.vectors(ids, now) if rules.diversity else None,
            )
            assert request.n is not None
            places = listed(
                pool,
                rules,
                request.n,
                drawing(self._rng(), rules.explore),
                acted,
                lambda item: item in left_out or parts.items.is_out(item, now),
            )
            reasons = parts.items.reasons([place.item for place in places], member, now)
            items = [
                Recommended(
                    place.item,
                    parts.items.title(place.item),
                    None if math.isnan(place.score) else round(place.score, 6),
                    {
                        action: round(float(values[place.row]), 6)
                        for action, values in scored.probabilities.items()
                        if place.row >= 0 and not math.isnan(values[place.row])
                    },
                    scored.sources[place.row] if place.row >= 0 else {},
                    reason,
                    place.propensity,
                    place.by,
                )
                for place, reason in zip(places, reasons, strict=True)
            ]
        fits = {**parts.sources.fits, **scored.fits}
        if parts.items.space is not None:
            fits["reasons"] = parts.items.space
        return _Made(
            items, scored.ranker, fits, now, member.row_at is not None, release=parts.release
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with self.metrics.seconds.labels(name).time():
            yield

    def now(self, request: Request) -> Answer:
        """Return a member's recommendations however long they take, newly made.

        Raises:
            InputError: the request is wrong. Whatever a store raises while it is away.
        """
        since, at = time.monotonic(), clock.now()
        parts, arm, request = self._checked(request, at)
        made = self._new(parts, request, parts.sources.member(request.member_id), at)
        return _answer(request, made, made.path, arm, time.monotonic() - since)

    def warm_up(self) -> None:
        """Answer for a member that nobody knows, whatever the deadline: imports, connections."""
        nobody = Request(-(2**63) if self.config.member_id_type == "int64" else "")
        for _ in range(3):
            self.now(nobody)

    def actions(self, member_id: Any) -> list[dict[str, Any]]:
        """Return a member's last actions, the newest first: item_id, title, action, at, sign.

        Raises:
            InputError: not a member's id.
        """
        now = clock.now()
        request = checked(self.config, self.parts.items, Request(member_id), now)
        known = self.parts.sources.member(request.member_id)
        rows = zip(known.items, known.actions, known.times, known.signs.tolist(), strict=True)
        return [
            {
                "item_id": item,
                "title": self.parts.items.title(item),
                "action": action,
                "event_timestamp": at,
                "sign": sign,
            }
            for item, action, at, sign in [*rows][::-1]
        ]

    def neighbours(self, item_id: Any, count: int = 10) -> list[dict[str, Any]]:
        """Return the items nearest to one, the nearest first: item_id, title, similarity.

        Raises:
            InputError: not an item's id.
            KeyError: an item that does not exist.
        """
        items = self.parts.items
        (item,) = checked_ids(self.config.rules, "item", [item_id])
        if item not in items:
            raise KeyError(item)
        near = items.neighbours(item, count, clock.now())
        return [
            {"item_id": other, "title": items.title(other), "similarity": similarity}
            for other, similarity in near
        ]

    def close(self) -> None:
        """Close the connections; threads that are held are not waited for."""
        for pool in (self._ranking, self._lists):
            pool.shutdown(wait=False, cancel_futures=True)
        self._opened.close()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Made:
    """A list, before it has a request's id."""

    items: Sequence[Recommended]
    ranker: str
    fits: Mapping[str, str]
    at: datetime
    member_known: bool | None
    path: Path = "popular"
    failed: bool = False
    release: int | None = None


def _answer(request: Request, made: _Made, path: Path, arm: str | None, seconds: float) -> Answer:
    return Answer(
        request.id,
        request.member_id,
        path,
        made.member_known,
        made.ranker,
        made.fits,
        made.at,
        made.items,
        made.release,
        arm,
        round(seconds, 6),
    )


def _only(scored: Scored, own: Sequence[Any]) -> Scored:
    """Return what was scored of the caller's own candidates; the others have the lowest score."""
    row = {item: number for number, item in enumerate(scored.items.tolist())}
    rows = np.array([row[item] for item in own if item in row], np.int64)
    missing = [item for item in own if item not in row]
    lowest = float(scored.scores.min()) if len(scored.scores) else 0.0
    return replace(
        scored,
        items=np.array([*scored.items[rows].tolist(), *missing], scored.items.dtype),
        scores=np.append(scored.scores[rows], [min(lowest, 0.0)] * len(missing)).astype(np.float32),
        sources=[*(scored.sources[number] for number in rows), *({} for _ in missing)],
        probabilities={
            action: np.append(values[rows], [np.nan] * len(missing)).astype(np.float32)
            for action, values in scored.probabilities.items()
        },
    )


def _is_done(future: "Future[Any]", until: float) -> bool:
    wait([future], timeout=max(until - time.monotonic(), 0.0))
    return future.done()
