"""PostgreSQL for benchmarks and tests: a database of one's own, and Feast's options for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import sqlalchemy as sa

POSTGRES = os.environ.get("ACTIVITY_TEST_POSTGRES_URL", "postgresql+psycopg:///postgres")


@contextmanager
def new_database(prefix: str) -> Iterator[str]:
    """Create a database at $ACTIVITY_TEST_POSTGRES_URL; yield its SQLAlchemy URL; drop it.

    Raises:
        sqlalchemy.exc.OperationalError: there is no server.
    """
    engine = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"{prefix}_{uuid4().hex}"
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        try:
            yield engine.url.set(database=name).render_as_string(hide_password=False)
        finally:
            with engine.connect() as connection:
                connection.execute(sa.text(f"drop database {name} with (force)"))
    finally:
        engine.dispose()


def postgres_options(url: str) -> dict[str, Any]:
    """Turn a SQLAlchemy URL into what Feast's PostgreSQL store asks for."""
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        info = connection.info
        return {
            "host": info.host,
            "port": info.port,
            "database": info.dbname,
            "user": info.user,
            "password": info.password,
            "sslmode": "prefer",
        }
