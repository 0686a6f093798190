"""The vector at request time over HTTP: POST /embed, GET /health, /ready and /metrics.

Every error has the form {"error": {"code", "message", "details": [{"where", "message"}]}}.
"""

import asyncio
import gc
import html
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
)
from pydantic_core import to_json

from serving.request.errors import answer_errors
from serving.request.limits import (
    LOOPBACK,
    BearerToken,
    KnownHosts,
    Limits,
    LoadLimit,
    failure,
)
from serving.request.metrics import RequestMetrics
from serving.request.sequences import Event
from serving.request.vectors import Embedded, RequestTime
from serving.times import read_time
from transformations import clock
from transformations.errors import InputError
from transformations.ids import LONGEST
from transformations.secrets import redact
from transformations.timestamps import timestamp_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

TITLE = "Member activity embeddings at request time"
MEMBERS, EVENTS = 64, 512  # at most, in one request
FOLLOWED_EVERY = 0.2
"""Seconds after which a moved pointer is seen at the latest."""

Integer = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[StrictStr, Field(max_length=200)]
TextId = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST)]
Id = Integer | TextId


def _time(value: Any) -> datetime:
    """Read a time as a message of the stream holds it."""
    us = read_time(value)
    if us is None:
        raise ValueError(
            "expected ISO 8601 with a timezone, or an integer of microseconds since 1970"
        )
    try:
        return timestamp_of(us)
    except OverflowError:
        raise ValueError("lies outside the calendar; integers are microseconds") from None


# RequestTime refuses what lies outside the configured bounds.
Timestamp = Annotated[AwareDatetime, BeforeValidator(_time)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewEvent(_Strict):
    """An action that the online store may not have yet; on an item, or with a text."""

    member_id: Id
    item_id: Id | None = None
    action: Annotated[StrictStr, Field(max_length=100)]
    event_timestamp: Timestamp
    attributes: Annotated[dict[Text, float | StrictStr | None], Field(max_length=100)] = {}
    text: Annotated[StrictStr, Field(max_length=1_000)] | None = None


class Question(_Strict):
    """What POST /embed takes."""

    member_ids: Annotated[list[Id], Field(min_length=1, max_length=MEMBERS)]
    events: Annotated[list[NewEvent], Field(max_length=EVENTS)] = []
    as_of: Timestamp | None = None
    views: Annotated[list[Text], Field(min_length=1, max_length=100)] | None = None


class Member(BaseModel):
    """One member of an answer."""

    member_id: int | str
    vectors: dict[str, dict[str, list[float]]]
    """View → field → numbers."""
    columns: dict[str, int | float | datetime | None]
    """n_actions, n_<action>, last_action_at: what a member row holds beside its vectors."""
    sequence_at: datetime | None
    """Timestamp of the stored row; null where the online store has none."""


class Answer(BaseModel):
    """What POST /embed returns: the members in the order of the request."""

    as_of: datetime
    members: list[Member]
    model_versions: dict[str, str]
    held_back: int
    """Events of the request at or after as_of."""


@dataclass
class _Health:
    """The last check for new models and items."""

    looked_at: datetime | None = None
    error: str | None = None
    is_warm: bool = False


class Beside(Protocol):
    """Another service of the same process, on the same port."""

    @property
    def registry(self) -> CollectorRegistry:
        """Its metrics."""
        ...

    def mount(self, app: FastAPI, limits: Limits) -> None:
        """Add its paths and their limits."""
        ...

    def warm_up(self) -> None:
        """Do what the first request would else wait for."""
        ...

    def refresh(self) -> bool:
        """Load what is new; return whether anything was."""
        ...

    def follow(self) -> bool:
        """Do what a moved pointer asks for, if that is a swap; return whether a refresh is due."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


def application(
    requests: RequestTime,
    limits: Limits | None = None,
    refresh_every: float = 10.0,
    hosts: Sequence[str] = LOOPBACK,
    beside: Sequence[Beside] = (),
    token: str | None = None,
) -> FastAPI:
    """Return the service; it closes `requests` and what is beside it when it ends.

    Args:
        hosts: What a request may name as Host; ANY_HOST lets each pass.
        refresh_every: Seconds between two checks for new item parts and models.
        beside: Further services of the process.
        token: What requests have to have, if any.
    """
    limits = limits or Limits()
    metrics, health = RequestMetrics(), _Health()
    pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="embed")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        metrics.serving(requests)
        _settle()
        due = asyncio.Event()
        working = (
            asyncio.create_task(
                _warm_then_refreshing(requests, beside, metrics, health, refresh_every, due)
            ),
            asyncio.create_task(_following(beside, due)),
        )
        yield
        for task in working:
            task.cancel()
        pool.shutdown()
        for service in beside:
            service.close()
        requests.close()
        gc.unfreeze()

    # FastAPI's own pages of the schema load scripts from elsewhere.
    app = FastAPI(title=TITLE, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(LoadLimit, limits=limits, metrics=metrics)
    for service in beside:
        service.mount(app, limits)
    app.add_middleware(BearerToken, token=token)
    app.add_middleware(KnownHosts, hosts=hosts)  # outermost: added last

    async def _in_time(work: Callable[[], T]) -> T:
        """Compute in the pool, within the timeout.

        Work already running at the deadline continues, but its result is discarded.
        """
        async with asyncio.timeout(limits.timeout):
            return await asyncio.get_running_loop().run_in_executor(pool, work)

    @app.post("/embed", response_model=Answer)
    async def embed(question: Question) -> Response:
        """Return members' vectors, with the request's events in their sequences."""
        answer = await _in_time(partial(_answer, question))
        return Response(answer, media_type="application/json")

    def _answer(question: Question) -> bytes:
        with metrics.embed_seconds.time():
            events = [
                Event(
                    event.member_id,
                    event.item_id,
                    event.action,
                    event.event_timestamp,
                    event.attributes,
                    event.text,
                )
                for event in question.events
            ]
            embedded = requests.embed(question.member_ids, events, question.as_of)
        metrics.answered(embedded)
        return to_json(_body(question, embedded))

    @app.get("/health")
    async def healthy() -> Response:
        """Return the served model versions, after a request for a non-existent member."""
        embedded = await _in_time(requests.embed_nobody)
        return JSONResponse(
            {
                "status": "ok",
                "models": embedded.model_versions,
                "items": len(requests.items),
                "item_table": requests.items.key,
                "looked_at": health.looked_at and health.looked_at.isoformat(),
                "refresh_error": health.error,
            }
        )

    @app.get("/ready")
    async def ready() -> Response:
        """Say whether everything is loaded and warmed up; 503 until then."""
        if not health.is_warm:
            return failure(503, "unavailable", "not ready yet", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def measured() -> Response:
        """Return the figures as Prometheus reads them."""
        registries = [metrics.registry, *(service.registry for service in beside)]
        figures = b"".join(map(generate_latest, registries))
        return Response(figures, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/docs", include_in_schema=False)
    async def described() -> Response:
        """Return the schema as a page that loads nothing."""
        schema = html.escape(json.dumps(app.openapi(), indent=2))
        page = f"<!doctype html><title>{TITLE}</title><h1>{TITLE}</h1><pre>{schema}</pre>"
        return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'none'"})

    answer_errors(app, limits)
    return app


def _settle() -> None:
    """Exclude what is loaded from the garbage collector's full collections.

    With TensorFlow's objects one takes half a second, in which nothing is answered. So what was
    excluded before stays so after new parts were loaded: the old ones go with their last reference.
    """
    gc.collect()
    gc.freeze()


async def _warm_then_refreshing(
    requests: RequestTime,
    beside: Sequence[Beside],
    metrics: RequestMetrics,
    health: _Health,
    every: float,
    due: asyncio.Event,
) -> None:
    """Warm up, then check for new models and items forever; after a failure the old serve on.

    Args:
        due: Set when something waits for the next check: it comes at once.
    """
    while not health.is_warm:
        try:
            await asyncio.to_thread(requests.embed_nobody)
            for service in beside:
                await asyncio.to_thread(service.warm_up)
            _settle()
            health.is_warm = True
        except Exception as error:
            logger.warning("not ready, tried again in %g s: %s", every, error)
            await asyncio.sleep(every)
    while True:
        if health.error is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(due.wait(), every)
        else:  # what failed is not asked for again and again
            await asyncio.sleep(every)
        due.clear()
        try:
            changed = await asyncio.to_thread(requests.refresh)
            for service in beside:
                changed |= await asyncio.to_thread(service.refresh)
            if changed:
                _settle()
            metrics.serving(requests)
            metrics.refreshes.labels("changed" if changed else "unchanged").inc()
            health.error = None
        except Exception as error:
            metrics.refreshes.labels("failed").inc()
            logger.warning(
                "new models or items cannot be loaded, the old ones are served: %s", error
            )
            health.error = redact(str(error))
        health.looked_at = clock.now()


async def _following(beside: Sequence[Beside], due: asyncio.Event) -> None:
    """Look several times per second whether another release has to answer."""
    while True:
        await asyncio.sleep(FOLLOWED_EVERY)
        for service in beside:
            try:
                if await asyncio.to_thread(service.follow):
                    due.set()
            except Exception as error:
                logger.warning("which release serves cannot be read, the last one does: %s", error)
                await asyncio.sleep(1)


def _body(question: Question, embedded: Embedded) -> dict[str, Any]:
    views = list(embedded.vectors) if question.views is None else question.views
    unknown = sorted(set(views) - set(embedded.vectors))
    if unknown:
        raise InputError(
            f"expected views among {', '.join(embedded.vectors)}, got {', '.join(unknown)}"
        )
    # Convert whole columns at once; value by value it would take most of the time.
    lists = {
        view: {field: vectors.tolist() for field, vectors in embedded.vectors[view].items()}
        for view in views
    }
    columns = {name: _listed(values) for name, values in embedded.columns.items()}
    stored = _listed(embedded.sequence_at)
    return {
        "as_of": embedded.as_of,
        "members": [
            {
                "member_id": member,
                "vectors": {
                    view: {field: vectors[row] for field, vectors in fields.items()}
                    for view, fields in lists.items()
                },
                "columns": {name: values[row] for name, values in columns.items()},
                "sequence_at": stored[row],
            }
            for row, member in enumerate(question.member_ids)
        ],
        "model_versions": {view: embedded.model_versions[view] for view in views},
        "held_back": embedded.held_back,
    }


def _listed(values: Any) -> list[Any]:
    """Return a column as JSON takes it: null for what is missing."""
    if values.dtype.kind == "M":
        return [moment and moment.replace(tzinfo=UTC) for moment in values.tolist()]
    if values.dtype.kind == "f":
        return [None if number != number else number for number in values.tolist()]
    return list(values.tolist())
