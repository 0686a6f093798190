"""Limits on requests before they are computed: whom they ask, number in flight, size, time."""

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi.responses import JSONResponse
from prometheus_client import Counter, Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EMBED = ("/embed",)


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Attributes:
        threads: Requests computed at once.
        max_in_flight: Requests waiting or computed at once; a further one gets 429.
        max_body: Bytes of a request's body; a longer one gets 413.
        body_timeout: Seconds for a request's whole body; then 408.
        timeout: Seconds from a read request to its answer: queue, online store, model. Then 503.
            It is needed because the store's client retries for seconds while the store is away.
        max_head: Bytes of a request's line and headers; more get 400.
        head_timeout: Seconds for a whole head, from the connection's start or from the last answer.
        idle_timeout: Whole seconds after an answer until a connection that sends nothing is closed.
        max_connections: Open at once; with one more, that which waits longest for a head is cut.
    """

    threads: int = 2
    max_in_flight: int = 32
    max_body: int = 256 * 1024
    body_timeout: float = 5.0
    timeout: float = 1.0
    max_head: int = 16 * 1024
    head_timeout: float = 10.0
    idle_timeout: int = 5
    max_connections: int = 256


LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"


class KnownHosts:
    """ASGI middleware that answers only requests whose Host is known.

    A page of another site can let a browser ask this machine under a name that leads here.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400."""
        if scope["type"] == "http" and ANY_HOST not in self._hosts:
            given = [value for name, value in scope["headers"] if name == b"host"]
            host = _name_of(given[0].decode("latin-1")) if len(given) == 1 else None
            if host not in self._hosts:
                message = "the Host is not one that is served; name it with --allow-host"
                await failure(400, "host", message)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port.

    >>> [_name_of(host) for host in ("Localhost:80", "[::1]:80", "10.0.0.1", "[::1]")]
    ['localhost', '::1', '10.0.0.1', '::1']
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


OPEN = ("/", "/health", "/ready")
"""Paths that need no token: a page without data, and what a load balancer asks."""


class BearerToken:
    """ASGI middleware that answers only requests with a token, save those to OPEN.

    Args:
        token: None lets each request pass.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "http" and self._expected is not None and scope["path"] not in OPEN:
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            # In constant time: how long a comparison takes says nothing of the token.
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                message = "expected the header Authorization: Bearer TOKEN, with the token of here"
                refusal = failure(401, "token", message, headers={"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class LoadMetrics(Protocol):
    """What counts requests that have limits."""

    requests: Counter
    """By status."""
    in_flight: Gauge


class LoadLimit:
    """ASGI middleware that enforces the limits on requests to some paths, and counts them.

    A body is read before its request counts as in flight: slow clients take nobody's turn.

    Args:
        paths: These, and all below them.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: LoadMetrics,
        paths: Sequence[str] = EMBED,
    ) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._paths = tuple(paths)
        self._below = tuple(f"{path}/" for path in paths)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 408, 413 or 429."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path in self._paths or path.startswith(self._below)):
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        try:
            async with asyncio.timeout(self._limits.body_timeout):
                body = await self._body(receive)
        except TimeoutError:
            late = failure(
                408,
                "http",
                f"the request's body did not arrive within {self._limits.body_timeout:g} s",
            )
            await late(scope, receive, counted)
            return
        if body is None:
            return  # the client is gone
        if len(body) > self._limits.max_body:
            large = f"expected a body of at most {self._limits.max_body:,} bytes"
            await failure(413, "http", large)(scope, receive, counted)
            return
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
            await self._app(scope, _again(body, receive), counted)
        except Exception:  # answered by Starlette, outside this middleware
            self._metrics.requests.labels("500").inc()
            raise
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.dec()

    async def _body(self, receive: Receive) -> bytes | None:
        """Return a body up to the first bytes that are too many; None where the client left."""
        body = bytearray()
        while len(body) <= self._limits.max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives a body that was read, then what the connection does."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


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
