"""What a request has to pass before it is read: how many may be inside, how large, how slow."""

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
    """Bounds of the service.

    Attributes:
        threads: Requests that are computed at once.
        inside: Requests read, waiting or computed at once; one more is answered 429.
        body: Bytes of a request's body; a longer one is answered 413.
        seconds: For which a client may keep the service waiting for its body; then 408.
        answer: Seconds within which a request that was read is answered: its turn, the online
            store, the model. Then 503. A store that is away is retried by its client for seconds.
    """

    threads: int = 2
    inside: int = 32
    body: int = 256 * 1024
    seconds: float = 5.0
    answer: float = 1.0


class Gate:
    """ASGI middleware that holds requests to GUARDED within the limits, and counts them."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: RequestMetrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429."""
        if scope["type"] != "http" or scope["path"] != GUARDED:
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        if self._inside >= self._limits.inside:
            refusal = failure(
                429,
                "overloaded",
                f"{self._inside} requests are being answered; try again in a second",
                headers={"Retry-After": "1"},
            )
            await refusal(scope, receive, counted)
            return
        self._inside += 1
        self._metrics.inside.inc()
        try:
            await self._app(scope, self._bounded(receive), counted)
        except Exception:  # answered by Starlette, outside of this
            self._metrics.requests.labels("500").inc()
            raise
        finally:
            self._inside -= 1
            self._metrics.inside.dec()

    def _bounded(self, receive: Receive) -> Receive:
        taken, whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:  # what comes now is the end of the connection, which may take long
                return await receive()
            try:
                async with asyncio.timeout(self._limits.seconds):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request's body did not come in time") from None
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > self._limits.body:
                raise HTTPException(413, f"expected a body of at most {self._limits.body:,} bytes")
            return message

        return bounded


def failure(
    status: int,
    code: str,
    message: str,
    details: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the one form of an error."""
    error = {"code": code, "message": message, "details": list(details)}
    return JSONResponse({"error": error}, status, headers)
