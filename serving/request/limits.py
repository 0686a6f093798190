"""Limits on requests before they are computed: number in flight, body size, time."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.request.metrics import RequestMetrics

GUARDED = "/embed"


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Attributes:
        threads: Requests computed at once.
        max_in_flight: Requests read, waiting or computed at once; a further one gets 429.
        max_body: Bytes of a request's body; a longer one gets 413.
        body_timeout: Seconds to wait for each piece of a request's body; then 408.
        timeout: Seconds from a read request to its answer: queue, online store, model. Then 503.
            It is needed because the store's client retries for seconds while the store is away.
    """

    threads: int = 2
    max_in_flight: int = 32
    max_body: int = 256 * 1024
    body_timeout: float = 5.0
    timeout: float = 1.0


class LoadLimit:
    """ASGI middleware that enforces the limits on requests to GUARDED, and counts them."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: RequestMetrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429."""
        if scope["type"] != "http" or scope["path"] != GUARDED:
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        if self._in_flight >= self._limits.max_in_flight:
            refusal = failure(
                429,
                "overloaded",
                f"{self._in_flight} requests are in flight; try again in a second",
                headers={"Retry-After": "1"},
            )
            await refusal(scope, receive, counted)
            return
        self._in_flight += 1
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, self._bounded(receive), counted)
        except Exception:  # answered by Starlette, outside this middleware
            self._metrics.requests.labels("500").inc()
            raise
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.dec()

    def _bounded(self, receive: Receive) -> Receive:
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:  # next is the end of the connection, which may take long
                return await receive()
            try:
                async with asyncio.timeout(self._limits.body_timeout):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request's body did not arrive in time") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._limits.max_body:
                raise HTTPException(
                    413, f"expected a body of at most {self._limits.max_body:,} bytes"
                )
            return message

        return bounded


def failure(
    status: int,
    code: str,
    message: str,
    details: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error in the form that all errors of the service have."""
    error = {"code": code, "message": message, "details": list(details)}
    return JSONResponse({"error": error}, status, headers)
