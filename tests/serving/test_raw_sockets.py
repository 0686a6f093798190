"""What a client can do to the server before its request is read, on raw sockets."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import uvicorn

from serving.request.limits import ANY_HOST, LOOPBACK, KnownHosts, Limits, LoadLimit
from serving.request.metrics import RequestMetrics
from serving.request.server import server_of

PATIENT = Limits(body_timeout=600.0, head_timeout=600.0, idle_timeout=120)
"""Nothing here ends because time passes."""
HASTY = Limits(body_timeout=0.3, head_timeout=0.3, idle_timeout=1)
LARGE = 50_000_000
HEAD = b"POST /embed HTTP/1.1\r\nHost: localhost\r\n"


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """Read a whole body of /embed, and answer; /large with more than any buffer holds."""
    if scope["path"] == "/embed":
        while (await receive()).get("more_body"):
            pass
    body = b"x" * LARGE if scope["path"] == "/large" else b"answered"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Served:
    """A server on the loopback, and connections to it."""

    def __init__(self, server: uvicorn.Server, address: Any, stack: ExitStack) -> None:
        self.server, self.address, self.stack = server, address, stack

    def connect(self, sent: bytes = b"") -> socket.socket:
        made = self.stack.enter_context(socket.create_connection(self.address, timeout=120))
        made.sendall(sent)
        return made

    def ask(self, head: bytes = HEAD, body: bytes = b"{}") -> bytes:
        with socket.create_connection(self.address, timeout=120) as made:
            length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
            made.sendall(head + length + body)
            return status_of(made)


@contextmanager
def serving(limits: Limits, hosts: Any = LOOPBACK) -> Iterator[Served]:
    app = KnownHosts(LoadLimit(answers, limits, RequestMetrics()), hosts)
    server = server_of(app, limits)
    server.config.lifespan = "off"
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, ExitStack() as stack:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(server, listening.getsockname(), stack)
        finally:
            stack.close()
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def patient() -> Iterator[Served]:
    with serving(replace(PATIENT, max_in_flight=2, max_connections=100)) as served:
        yield served


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    with serving(HASTY) as served:
        yield served


def status_of(connection: socket.socket) -> bytes:
    """The status line's number; nothing where the server has cut the connection."""
    with suppress(ConnectionError):
        return connection.recv(100)[9:12]
    return b""


def sent_until_answered(connection: socket.socket, piece: bytes) -> bytes:
    """Send pieces until the server answers or cuts the connection; return the status."""
    for _ in range(100_000):
        if select.select([connection], [], [], 0.01)[0]:
            return status_of(connection)
        try:
            connection.send(piece)
        except ConnectionError:
            return status_of(connection)
    raise AssertionError("the server took everything")


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"x" * 65_536),
        (b"GET /", b"x" * 65_536),
        (b"GET / HTTP/1.1\r\n", b"X: x\r\n" * 10_000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 65_536),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n" * 10_000),
    ],
    ids=["header", "line", "headers", "chunk", "trailers"],
)
def test_a_head_without_an_end_is_refused_early(
    patient: Served, begin: bytes, piece: bytes
) -> None:
    sent = 0

    connection = patient.connect(begin)
    status = b""
    while sent < 100_000_000:
        if select.select([connection], [], [], 0)[0]:
            status = status_of(connection)
            break
        try:
            sent += connection.send(piece)
        except ConnectionError:
            break
    assert sent < 100_000_000
    assert status in (b"400", b"")
    assert patient.ask() == b"200"


def test_slow_bodies_take_nobodys_turn(patient: Served) -> None:
    """33 connections that have sent the half of a body; two requests may be in flight."""
    for _ in range(33):
        patient.connect(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert [patient.ask() for _ in range(5)] == [b"200"] * 5


def test_who_asks_at_once_is_served_whatever_number_of_others_wait() -> None:
    """500 half-sent heads and 800 sockets that send nothing: the oldest make room."""
    with serving(replace(PATIENT, max_connections=20)) as served:
        first = [served.connect(HEAD[: number % len(HEAD)]) for number in range(40)]
        assert served.ask() == b"200"
        assert [status_of(one) for one in first[:20]] == [b""] * 20
        assert len(served.server.server_state.connections) <= 20


@pytest.mark.parametrize(
    ("begin", "piece", "answered"),
    [
        (b"", b"", b""),
        (b"GET /", b"x", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: x\r\n", b""),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"x", b"408"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"408"),
    ],
    ids=["silent", "line", "headers", "body", "chunks"],
)
def test_every_byte_does_not_buy_more_time(
    hasty: Served, begin: bytes, piece: bytes, answered: bytes
) -> None:
    assert sent_until_answered(hasty.connect(begin), piece) == answered


@pytest.mark.parametrize("head", [HEAD, HEAD.replace(b"embed", b"nowhere")])
def test_the_rest_of_a_refused_body_is_not_read_for_ever(hasty: Served, head: bytes) -> None:
    connection = hasty.connect(head + b"Content-Length: 100000000\r\n\r\nx")
    assert status_of(connection) in (b"408", b"200")
    _until_it_is_cut(connection, lambda: connection.send(b"x"))


def test_a_connection_that_was_answered_has_a_time_for_its_next_head(hasty: Served) -> None:
    connection = hasty.connect(HEAD + b"Content-Length: 0\r\n\r\n")
    assert status_of(connection) == b"200"
    _until_it_is_cut(connection, lambda: connection.send(b"G"))


def test_requests_that_are_sent_ahead_are_answered_in_order(patient: Served) -> None:
    connection = patient.connect((HEAD + b"Content-Length: 2\r\n\r\n{}") * 3)
    received = b""
    while received.count(b"answered") < 3:
        received += connection.recv(1_000)
    assert received.count(b"HTTP/1.1 200") == 3


def test_an_answer_that_is_not_taken_is_given_up(hasty: Served) -> None:
    for more in (b"", b"Connection: close\r\n"):
        hasty.connect(b"GET /large HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n")
    # The server closes them: the test ends when none is left.
    waited = threading.Event()
    for _ in range(6_000):
        if not hasty.server.server_state.connections:
            break
        waited.wait(0.01)
    else:
        raise AssertionError("the connections stayed")


def _until_it_is_cut(connection: socket.socket, send: Callable[[], object]) -> None:
    """Read what was answered, and keep sending, until the server cuts the connection."""
    for _ in range(10_000):
        try:
            if select.select([connection], [], [], 0.01)[0] and not connection.recv(1_000):
                return
            send()
        except ConnectionError:
            return
    raise AssertionError("the connection stayed")


def test_an_upgrade_is_not_taken(patient: Served) -> None:
    head = HEAD + b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    assert patient.ask(head) == b"200"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", b"200"),
        (b"LOCALHOST:6570", b"200"),
        (b"127.0.0.1:80", b"200"),
        (b"[::1]:80", b"200"),
        (b"evil.example", b"400"),
        (b"localhost.evil.example", b"400"),
        (b"localhost@evil.example", b"400"),
        (b"", b"400"),
    ],
)
def test_only_known_hosts_are_answered(patient: Served, host: bytes, status: bytes) -> None:
    assert patient.ask(b"POST /embed HTTP/1.1\r\nHost: " + host + b"\r\n") == status


def test_a_request_without_a_host_is_refused_and_any_host_can_be_allowed(patient: Served) -> None:
    assert patient.ask(b"POST /embed HTTP/1.0\r\n") == b"400"
    with serving(PATIENT, [ANY_HOST]) as served:
        assert served.ask(b"POST /embed HTTP/1.1\r\nHost: any.example\r\n") == b"200"
