"""Buckets on a Spark cluster: one Spark task per bucket, each our SQL by DuckDB.

Spark distributes the tasks and runs again those of a lost executor. It moves no rows: a task reads
its bucket's files and writes its own, on a disk that all machines share, and this process puts them
in place. Rows of Spark DataFrames cost several times the CPU (benchmarks/spark.py).
"""

import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection as Connection

from pipelines.engine.catalogue import unload
from pipelines.engine.task import Failed, Result, Task, result_of, run_task
from transformations.config import ROOT, Config
from transformations.engine_settings import EngineSettings
from transformations.errors import InputError, RunFailedError
from transformations.secrets import SECRET_VARIABLE, expanded, redact, redact_logs
from transformations.sources.marks import Mark

logger = logging.getLogger(__name__)

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
        """Yield each task with its result, in their order, once all have ended.

        Raises:
            InputError: pyspark or Java is missing.
            RunFailedError: Spark gave up, as after `spark.task.maxFailures` attempts of a task.
        """
        if not tasks:
            return
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        context = self.session.sparkContext
        run = partial(_without_passwords, config, function)
        try:
            results = context.parallelize(tasks, len(tasks)).map(run).collect()
        except (Py4JError, PySparkException) as error:
            raise RunFailedError(
                f"Spark at {self._settings.master} gave up: {_reason(error)}; the tables are as "
                "they were before. Mend it, and run again"
            ) from error
        for task, result in zip(tasks, results, strict=True):
            yield task, result_of(result)

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
    def session(self) -> Any:
        """The SparkSession of this process: the one that runs, else a new one."""
        return _start(self._settings)


def _without_passwords(
    config: Config, function: Callable[[Config, Connection, Task], Result], task: Task
) -> Result | Failed:
    """As `run_task`; Spark shows what an error says on its pages, in its logs and its event log."""
    _logs_without_passwords()
    try:
        return run_task(config, function, task)
    except Exception as error:
        raise RuntimeError(redact("".join(traceback.format_exception(error)))) from None


_logs_without_passwords = cache(redact_logs)  # once in a process, which runs many tasks


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
    logger.info("Spark's page: %s", session.sparkContext.uiWebUrl)
    return session


def _reason(error: Exception) -> str:
    """Return the line of Spark's message that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line or "Exception" in line or "ailure" in line]
    return (said or lines or ["no reason given"])[-1][:500]
