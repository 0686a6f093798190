"""A real Spark cluster on this machine: a master and two workers of one core each."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from pipelines.engine.standalone import standalone

PASSWORD = "ACTIVITY_TEST_STORE_PASSWORD"
"""A variable of the workers' environment, and of the driver's."""
QUICK = {
    f"spark.{one}.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    for one in ("driver", "executor")
}
"""For sessions of seconds: Java's second compiler takes more than it gives back in them."""
CONF = QUICK | {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.ui.enabled": "false",
}


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a standalone cluster; one that does not start is an error, not a skip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD, f"secret-{uuid4().hex}")
        with standalone(tmp_path_factory.mktemp("spark")) as url:
            yield url


def stop_session() -> None:
    """Stop the one Spark session that a process can have, whoever started it."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()
