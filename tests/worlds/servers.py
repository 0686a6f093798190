"""Real servers for tests: a private redis-server, a PostgreSQL database per test.

Where CI=true a server that is missing fails the test; elsewhere it is skipped with the reason.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from benchmarks.servers import new_database
from pipelines.private_redis import private_redis


def missing(reason: str) -> None:
    """Fail where a server must be there, else skip."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs it: {reason}")
    pytest.skip(reason)


@contextmanager
def running_redis() -> Iterator[str]:
    """Start a redis-server without persistence; yield its host:port; stop it."""
    if shutil.which("redis-server") is None:
        missing("no redis-server on the PATH")
    with tempfile.TemporaryDirectory() as folder, private_redis(Path(folder)) as port:
        yield f"127.0.0.1:{port}"


@contextmanager
def redis_of(
    folder: Path, *options: str, conf: Path | None = None, says: str = "Ready to accept connections"
) -> Iterator[None]:
    """A redis-server with these options; a sentinel where it has a configuration."""
    program = shutil.which("redis-server")
    if program is None:
        missing("no redis-server on the PATH")
    process = subprocess.Popen(
        [program, "--bind", "127.0.0.1", "--save", "", *options]
        if conf is None
        else [program, str(conf), "--sentinel", "--bind", "127.0.0.1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not any(says in line for line in process.stdout):
            missing("this redis-server has no TLS")
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def _redis_process() -> Iterator[str]:
    with running_redis() as address:
        yield address


def emptied(address: str) -> str:
    """Empty a Redis, its owner's marks included; return its host:port."""
    host, port = address.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.flushall()
    return address


@pytest.fixture
def redis_server(_redis_process: str) -> str:
    """An empty Redis, as host:port."""
    return emptied(_redis_process)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A new database, as a SQLAlchemy URL; dropped when the test ends."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(new_database("activity_test"))
        except sa.exc.OperationalError as error:
            missing(f"no PostgreSQL at ACTIVITY_TEST_POSTGRES_URL: {error.orig}")
        yield url
