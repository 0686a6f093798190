"""Fixtures of the tests of stores."""

import sys
from collections.abc import Iterator

import pytest

from stores.duckdb_asof import DuckDBAsofOfflineStore
from stores.spark_asof import SparkAsofOfflineStore
from tests.worlds.asof import Ours


@pytest.fixture(params=[DuckDBAsofOfflineStore, SparkAsofOfflineStore], scope="module")
def both_stores(request: pytest.FixtureRequest) -> Iterator[type]:
    """Runs a test by the DuckDB store, then by the one that joins in Spark."""
    Ours.kind = request.param
    yield request.param
    Ours.kind = DuckDBAsofOfflineStore


@pytest.fixture(scope="session", autouse=True)
def _spark_stops() -> Iterator[None]:
    yield
    if "pyspark.sql" in sys.modules:
        session = sys.modules["pyspark.sql"].SparkSession.getActiveSession()
        if session is not None:
            session.stop()
