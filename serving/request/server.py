"""uvicorn with bounds on what a connection may cost before its request is read.

uvicorn bounds the bytes of a head (with h11; httptools has no bound) and the time of an idle
connection. The number of connections and the time for a head are bounded here.
"""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.request.limits import Limits

NUMBERS = itertools.count()


def server_of(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return a server of an application; run it on sockets that listen already."""

    class Bounded(_Bounded):
        bounds = limits

    config = uvicorn.Config(
        app,
        http=Bounded,
        ws="none",  # an upgraded connection would have none of the bounds
        h11_max_incomplete_event_size=limits.max_head,
        timeout_keep_alive=limits.idle_timeout,
        timeout_graceful_shutdown=10,
        server_header=False,
        log_level="warning",
        access_log=False,
    )
    return uvicorn.Server(config)


class _Bounded(H11Protocol):
    """One connection: from its start, and from each answer, it has a time for a whole head.

    The time covers what a client leaves unread or unsent too: an answer that it does not take, the
    rest of a body that was refused.
    """

    bounds: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadline: asyncio.TimerHandle | None = None
        self._expect_head()
        if len(self.connections) > self.bounds.max_connections:
            # The one that keeps its head back for longest: whoever asks at once is served.
            every: Iterable[Any] = self.connections
            waiting = [one for one in every if one.deadline is not None]
            min(waiting, key=lambda one: one.since, default=self)._cut()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note_request()

    def on_response_complete(self) -> None:
        self._expect_head()
        super().on_response_complete()  # may begin with a request that was sent ahead
        self._note_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._forget()
        self.since = next(NUMBERS)  # loop times can be equal
        self.deadline = self.loop.call_later(self.bounds.head_timeout, self._cut)

    def _note_request(self) -> None:
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self._forget()

    def _forget(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _cut(self) -> None:
        self._forget()
        self.connections.discard(self)  # now, so that the next one does not find it again
        self.transport.abort()
