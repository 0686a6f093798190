"""Buckets on a Spark cluster: one Spark task per bucket, each our SQL by DuckDB.

Spark distributes the tasks and runs again those of a lost executor. It moves no rows: a task reads
its bucket's files and writes its own, on a disk that all machines share, and this process puts them
in place. Rows of Spark DataFrames cost several times the CPU (benchmarks/spark.py).
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection as Connection

from pipelines.engine.catalogue import unload
from pipelines.engine.task import Result, Task, result_of
from transformations.config import ROOT, Config
from transformations.engine_settings import EngineSettings
from transformations.errors import InputError, RunFailedError
from transformations.secrets import SECRET_VARIABLE, expanded, redact
from transformations.sources.marks import Mark

JAVA = "Java 17 (Debian: openjdk-17-jre-headless), or JAVA_HOME set to where it is"
EXTRA = "pip install -e '.[spark]'"


class SparkEngine:
    """Runs tasks on the cluster of `engine.master`; the session is started with the first task."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings

    def run(
        self,
        config: Config,
        function: Callable[[Config, Connection, Task], Result],
        tasks: Sequence[Task],
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which they end.

        Raises:
            InputError: pyspark or Java is missing.
            RunFailedError: Spark gave up, as after `spark.task.maxFailures` attempts of a task.
        """
        if not tasks:
            return
        context = self.session.sparkContext  # says what is missing
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        from pipelines.engine.spark_jobs import ended

        try:
            for index, result in ended(context, config, function, tasks):
                yield tasks[index], result_of(result)
        except (Py4JError, PySparkException) as error:
            raise RunFailedError(
                f"Spark at {self._settings.master} gave up: {_reason(error)}; the tables are as "
                "they were before. Mend it, and run again"
            ) from error

    def unload(
        self,
        table: str,
        wanted: Mapping[str, str | None],
        incremental: str | None,
        mark: Mark | None,
        folder: Path,
        state: Path,
    ) -> Mark | None:
        """Write what is new in a table of the catalogue to Parquet files (`ReadsCatalogue`)."""
        session = self.session
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            return unload(session, table, wanted, incremental, mark, folder, state)
        except (Py4JError, PySparkException) as error:
            raise RunFailedError(
                f"reading {table} by Spark at {self._settings.master} failed: "
                f"{redact(_reason(error))}"
            ) from None

    @property
    def slots(self) -> int:
        """Return how many tasks the executors take that are there now; Spark says 2 at least."""
        return int(self.session.sparkContext.defaultParallelism)

    @property
    def where(self) -> str:
        """Return the master, and the address of Spark's pages; starts the session."""
        page = self.session.sparkContext.uiWebUrl
        return f"Spark at {self._settings.master}" + (f", its pages at {page}" if page else "")

    @property
    def session(self) -> Any:
        """The SparkSession of this process: the one that runs, else a new one."""
        return _start(self._settings)


def _refuse_passwords(conf: Mapping[str, str]) -> None:
    """Raise InputError where a setting holds a password: Spark's pages show all settings."""
    for key, value in conf.items():
        _, is_variable, name = key.partition("Env.")
        if (is_variable and SECRET_VARIABLE.search(name)) or redact(value) != value:
            raise InputError(
                f"engine.conf: expected no passwords, since Spark's pages and event logs show "
                f"its settings; got one in {key}. Set the variable where Spark's workers are "
                "started, or on Kubernetes by spark.kubernetes.executor.secretKeyRef.NAME"
            )


def _start(settings: EngineSettings) -> Any:
    _refuse_passwords(settings.conf)
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError:
        raise InputError(f"engine: spark needs pyspark, which is not installed: {EXTRA}") from None
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        raise InputError(f"engine: spark needs Java, which was not found; expected {JAVA}")
    defaults = {
        "spark.app.name": "activity",
        # Executors find this code and these libraries, whatever they were started with.
        "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PYTHONPATH": str(ROOT),
        "spark.ui.showConsoleProgress": "false",
    }
    conf = defaults | expanded(settings.conf)
    # Only spark-submit reads the setting; a context that is made here reads the environment.
    os.environ["PYSPARK_PYTHON"] = conf["spark.pyspark.python"]
    builder = SparkSession.builder.master(settings.master)
    for key, value in conf.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except PySparkRuntimeError as error:
        raise InputError(
            f"Spark did not start with the master {settings.master} ({error}); expected {JAVA}, "
            "and a master that answers"
        ) from None
    if session.sparkContext.master != settings.master:
        raise InputError(
            f"expected Spark at {settings.master} (engine.master), but this process has a session "
            f"at {session.sparkContext.master} already, and can have one; stop that first"
        )
    session.sparkContext.setLogLevel("ERROR")
    return session


def _reason(error: Exception) -> str:
    """Return the line of Spark's message that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line or "Exception" in line or "ailure" in line]
    return (said or lines or ["no reason given"])[-1][:500]
