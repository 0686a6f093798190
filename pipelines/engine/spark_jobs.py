"""One job on a Spark cluster: what its tasks return, as soon as each has ended.

`RDD.collect` returns when the last task has ended. Here a task adds its result to an accumulator,
which Spark brings to the driver as the task ends, and counts once, however often a task was tried
(Spark, "RDD Programming Guide", accumulators: exactly once within an action).
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from threading import Event
from typing import Any
from uuid import uuid4

from duckdb import DuckDBPyConnection as Connection
from pyspark import AccumulatorParam, InheritableThread, SparkContext

from pipelines.engine.task import Failed, Result, Task, run_task
from transformations.config import Config
from transformations.secrets import redact, redact_logs

LOOK = 0.2
"""Seconds between two looks at what has ended."""


class _Joined(AccumulatorParam[list[Any]]):
    def zero(self, value: list[Any]) -> list[Any]:  # noqa: ARG002
        return []

    def addInPlace(self, value1: list[Any], value2: list[Any]) -> list[Any]:  # noqa: N802
        value1.extend(value2)
        return value1


def ended(
    context: SparkContext,
    config: Config,
    function: Callable[[Config, Connection, Task], Result],
    tasks: Sequence[Task],
) -> Iterator[tuple[int, Result | Failed]]:
    """Yield the index of each task with its result, in the order in which they end.

    Raises:
        Py4JError, PySparkException: Spark gave up.
    """
    results = context.accumulator([], _Joined())

    def run(numbered: tuple[int, Task]) -> None:
        index, task = numbered
        results.add([(index, _without_passwords(config, function, task))])

    group, over, failures = uuid4().hex, Event(), list[BaseException]()
    name = getattr(function, "__name__", "function")  # a partial has none

    def wait() -> None:
        try:
            context.setJobGroup(group, f"{name} of {len(tasks)} tasks", True)
            context.parallelize([*enumerate(tasks)], len(tasks)).foreach(run)
        except BaseException as error:  # raised where it was asked for
            failures.append(error)
        finally:
            over.set()

    thread = InheritableThread(target=wait, name=name, daemon=True)
    thread.start()
    told = 0
    try:
        while True:
            is_over = over.wait(LOOK)  # before the look: nothing comes after it
            landed = results.value
            while told < len(landed):
                yield landed[told]
                told += 1
            if is_over:
                break
        if failures:
            raise failures[0]
    finally:
        if not over.is_set():  # whoever asked gave up
            context.cancelJobGroup(group)
        thread.join()
        results.value = []


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
