"""A real S3 server on loopback (moto), which can be made to fail, and to be slow."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

BUCKET = "team"
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"

Fault = Callable[[dict[str, Any]], int | None]
"""A request's WSGI environment → the status that it is answered with; None: as it should be."""


class ObjectStore:
    """The server.

    Attributes:
        requests: Method and path of each request, in order.
        fault: Asked before each request is answered.
        delay: Seconds that each answer waits.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self.requests: list[str] = []
        self.fault: Fault | None = None
        self.delay = 0.0

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        sleep(self.delay)
        status = None if self.fault is None else self.fault(environ)
        if status is None:
            answer: Iterable[bytes] = self._app(environ, start)
            return answer
        start(f"{status} fault", [("Content-Type", "application/xml")])
        return [SLOW_DOWN]

    def put_folder(self, folder: Path, prefix: str) -> str:
        """Copy all files below a folder; return what names them."""
        from upath import UPath

        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{prefix}/{file.relative_to(folder)}", file.read_bytes())
        return str(UPath(f"s3://{BUCKET}/{prefix}"))

    def put(self, name: str, content: bytes) -> None:
        """Write one object."""
        from upath import UPath

        UPath(f"s3://{BUCKET}/{name}").write_bytes(content)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a server with one bucket; credentials and endpoint are in the environment meanwhile."""
    from upath import UPath
    from werkzeug.serving import make_server

    store = ObjectStore()
    server = make_server("127.0.0.1", 0, store, threaded=True)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "key-of-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }
    try:
        with patch.dict(os.environ, environment):
            # What servers before it in this process were given, moto still has.
            urlopen(Request(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST"))
            # One made for a server before it would be found again: its options are the same.
            type(UPath(f"s3://{BUCKET}").fs).clear_instance_cache()
            UPath(f"s3://{BUCKET}").mkdir()
            yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
