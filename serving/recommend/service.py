"""Recommendations over HTTP, beside POST /embed: POST /recommend, GET /recommend/{member_id}.

GET / is a page for people; GET /members/{member_id} and GET /neighbours/{item_id} are what it asks.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from pydantic_core import to_json

from serving.recommend.asked import Answer, By, Request
from serving.recommend.impressions import Impressions
from serving.recommend.recommend import Recommender
from serving.request.limits import Limits, LoadLimit
from serving.request.sequences import Event
from serving.request.service import Id, NewEvent, Text, TextId
from transformations.recommend_settings import MOST_ITEMS

PATHS = ("/recommend", "/members", "/neighbours")
EVENTS, LEFT_OUT, CANDIDATES = 512, 10_000, 10_000  # at most, in one request
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

T = TypeVar("T")
Number = Annotated[float, Field(strict=True)]  # no truth is one
Count = Annotated[StrictInt, Field(ge=1, le=MOST_ITEMS)]


class Wanted(BaseModel):
    """What POST /recommend takes."""

    model_config = ConfigDict(extra="forbid")

    member_id: Id
    n: Count | None = None
    context: Annotated[dict[Text, StrictStr | Number | None], Field(max_length=100)] = {}
    events: Annotated[list[NewEvent], Field(max_length=EVENTS)] = []
    leave_out: Annotated[list[Id], Field(max_length=LEFT_OUT)] = []
    candidates: Annotated[list[Id], Field(min_length=1, max_length=CANDIDATES)] | None = None
    by: By = "ranker"
    shown: StrictBool = True


class RecommendService:
    """The paths of a recommender; it closes the recommender when it ends.

    Args:
        impressions: Where what is shown is written; None: nowhere.
    """

    def __init__(self, recommender: Recommender, impressions: Impressions | None = None) -> None:
        self._recommender, self._impressions = recommender, impressions
        self._pool: ThreadPoolExecutor | None = None

    @property
    def registry(self) -> CollectorRegistry:
        """The recommender's metrics."""
        return self._recommender.metrics.registry

    def mount(self, app: FastAPI, limits: Limits) -> None:
        """Add the paths and their limits."""
        # A thread waits while another ranks, so that each request in flight has its own deadline.
        pool = self._pool = ThreadPoolExecutor(limits.max_in_flight, thread_name_prefix="answer")
        recommender, metrics = self._recommender, self._recommender.metrics
        app.add_middleware(LoadLimit, limits=limits, metrics=metrics, paths=PATHS)

        deadline = recommender.config.recommend.deadline.total_seconds()
        timeout = max(limits.timeout, deadline)

        async def answered(work: Callable[[], Any]) -> Response:
            async with asyncio.timeout(timeout):
                body = await asyncio.get_running_loop().run_in_executor(pool, _as_json, work)
            return Response(body, media_type="application/json")

        @app.post("/recommend")
        async def recommend(wanted: Wanted) -> Response:
            """Return what a member may like: items, and what made the list."""
            request = Request(
                wanted.member_id,
                wanted.n,
                wanted.context,
                [_event(event) for event in wanted.events],
                wanted.leave_out,
                wanted.candidates,
                wanted.by,
            )
            return await answered(partial(self._shown, request, wanted.shown, time.monotonic()))

        @app.get("/recommend/{member_id:path}")
        async def recommend_to(
            member_id: TextId,
            n: Annotated[int | None, Query(ge=1, le=MOST_ITEMS)] = None,
            by: By = "ranker",
            shown: bool = True,
        ) -> Response:
            """Return what a member may like, by what the stores know."""
            request = Request(member_id, n, by=by)
            return await answered(partial(self._shown, request, shown, time.monotonic()))

        @app.get("/members/{member_id:path}")
        async def member(member_id: TextId) -> Response:
            """Return a member's last actions, the newest first."""
            return await answered(
                lambda: {"member_id": member_id, "actions": recommender.actions(member_id)}
            )

        @app.get("/neighbours/{item_id:path}")
        async def neighbours(
            item_id: TextId, n: Annotated[int, Query(ge=1, le=100)] = 10
        ) -> Response:
            """Return the items nearest to an item in the first space, the nearest first."""

            def near() -> Any:
                try:
                    return {"item_id": item_id, "neighbours": recommender.neighbours(item_id, n)}
                except KeyError:
                    raise HTTPException(
                        404, f"expected an item that exists, got {item_id!r}"
                    ) from None

            return await answered(near)

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            """Return the page: one file that loads nothing from elsewhere."""
            text = PAGE.read_text().replace("ACTIONS", _actions(recommender))
            headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
            return HTMLResponse(text, headers=headers)

    def _shown(self, request: Request, shown: bool, since: float) -> Answer:
        """Answer; what is shown to the member is an impression."""
        answer = self._recommender.of(request, since)
        if shown and self._impressions is not None:
            self._impressions.add(answer, request.context)
        return answer

    def warm_up(self) -> None:
        """Do what the first request would else wait for."""
        self._recommender.warm_up()

    def refresh(self) -> bool:
        """Load new fits, items and lists; return whether there were new fits or items."""
        outcomes = self._recommender.metrics.refreshes
        try:
            changed = self._recommender.refresh()
        except Exception:
            outcomes.labels("failed").inc()
            raise
        outcomes.labels("changed" if changed else "unchanged").inc()
        return changed

    def follow(self) -> bool:
        """Let the release answer that the pointer names; return whether a refresh opens it."""
        return self._recommender.follow()

    def close(self) -> None:
        """Close the recommender; answers in flight are there already, or late."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._impressions is not None:
            self._impressions.close()
        self._recommender.close()


def _event(event: NewEvent) -> Event:
    return Event(
        event.member_id,
        event.item_id,
        event.action,
        event.event_timestamp,
        event.attributes,
        event.text,
    )


def _as_json(work: Callable[[], Any]) -> bytes:
    return to_json(work())


def _actions(recommender: Recommender) -> str:
    """Return the names of actions on items, as JSON that may stand in a script."""
    actions = recommender.config.rules.actions.items()
    names = [name for name, action in actions if action.text is None]
    return to_json(names).decode().replace("<", "\\u003c")
