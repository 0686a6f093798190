"""Real servers for tests: a redis-server of the tests' own, a PostgreSQL database per test.

Where CI=true a server that is missing fails the test; elsewhere it is skipped with the reason.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
import redis
import sqlalchemy as sa

POSTGRES = os.environ.get("ACTIVITY_TEST_POSTGRES_URL", "postgresql+psycopg:///postgres")


def missing(reason: str) -> None:
    """Fail where a server must be there, else skip."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs it: {reason}")
    pytest.skip(reason)


@contextmanager
def running_redis() -> Iterator[str]:
    """Start a redis-server that keeps nothing on disk; yield its host:port; kill it."""
    program = shutil.which("redis-server")
    if program is None:
        missing("no redis-server on the PATH")
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        # Its log says when it listens, and ends when it could not: another process was faster.
        if any("Ready to accept connections" in line for line in process.stdout):
            break
        process.communicate()
    else:
        missing("redis-server does not start")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def _redis_process() -> Iterator[str]:
    with running_redis() as address:
        yield address


@pytest.fixture
def redis_server(_redis_process: str) -> str:
    """An empty Redis, as host:port."""
    host, port = _redis_process.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.flushall()
    return _redis_process


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A new database, as a SQLAlchemy URL; dropped when the test ends."""
    engine = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"activity_test_{uuid4().hex}"
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
    except sa.exc.OperationalError as error:
        engine.dispose()
        missing(f"no PostgreSQL at ACTIVITY_TEST_POSTGRES_URL: {error.orig}")
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"drop database {name} with (force)"))
        engine.dispose()
