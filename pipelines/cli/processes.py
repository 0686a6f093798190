"""Several processes that serve one port: the kernel spreads the connections (SO_REUSEPORT)."""

import os
import signal
import socket
from contextlib import suppress

from transformations.errors import InputError


def listening(host: str, port: int, shared: bool = False) -> socket.socket:
    """Return a socket that listens.

    Args:
        port: 0 for any free one.
        shared: Whether other processes of this service may listen there too.

    Raises:
        InputError: the address is taken.
    """
    try:
        return socket.create_server((host, port), backlog=1024, reuse_port=shared)
    except OSError as error:
        raise _taken(host, port, error) from None


def reserved(host: str, port: int) -> socket.socket:
    """Return a socket that holds an address for `listening(…, shared=True)`, and gets no request.

    Raises:
        InputError: the address is taken, also by a service that would share it.
    """
    listening(host, port).close()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
    except OSError as error:
        raise _taken(host, port, error) from None
    return holder


def forked(count: int) -> tuple[int, list[int]]:
    """Fork before anything is loaded: 0 and no one's id in each child, else -1 and the children's.

    Returns:
        The number of the child, from 0, or -1 in the parent; the process ids in the parent.
    """
    children: list[int] = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            return number, []
        children.append(child)
    return -1, children


def waited(children: list[int]) -> int:
    """Wait for the children; pass SIGTERM and SIGINT on, and end all once one has ended by itself.

    Returns:
        The exit status: 0 where all ended in order.
    """
    left, stopping, status = {*children}, False, 0

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for child in left:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while left:
        ended, code = os.waitpid(-1, 0)
        left.discard(ended)
        if os.waitstatus_to_exitcode(code) or not stopping:
            status = 1
        if not stopping:
            stop()
    return status


def _taken(host: str, port: int, error: OSError) -> InputError:
    return InputError(
        f"expected a free address, got {host}:{port}: {error.strerror}; choose another --port"
    )
