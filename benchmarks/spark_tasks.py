"""Of each task of an engine: its seconds, its processor seconds, and its process's peak of memory.

A module of its own, since tasks find their function by the name of its module.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.tasks import Engine

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """What one task took.

    Attributes:
        process: In which process it ran.
        process_cpu_s: What that process had used in all when the task ended: imports among it.
        peak_mb: The most memory that was resident in that process until then.
    """

    process: int
    wall_s: float
    cpu_s: float
    process_cpu_s: float
    peak_mb: float


class Measured:
    """An engine that asks another one, and notes in `costs` what each task took."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.where = engine.where
        self.costs: list[Cost] = []

    @property
    def slots(self) -> int:
        """Return how many tasks run at the same time."""
        return self._engine.slots

    def run(
        self,
        config: Config,
        function: Callable[[Config, Connection, Task], Result],
        tasks: Sequence[Task],
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result."""
        for task, (result, cost) in self._engine.run(config, partial(_timed, function), tasks):
            self.costs.append(cost)
            yield task, result

    def summary(self) -> dict[str, Any]:
        """Return what stands in the results; empty where no task ran."""
        if not self.costs:
            return {}
        walls = [cost.wall_s for cost in self.costs]
        cpus = [cost.cpu_s for cost in self.costs]
        used = {cost.process: 0.0 for cost in self.costs}
        for cost in self.costs:
            used[cost.process] = max(used[cost.process], cost.process_cpu_s)
        return {
            "tasks": len(self.costs),
            "processes": len(used),
            "tasks_cpu_s": sum(cpus),
            "processes_cpu_s": sum(used.values()),
            "longest_to_median_wall": max(walls) / median(walls),
            "longest_to_median_cpu": max(cpus) / median(cpus),
            "peak_mb": max(cost.peak_mb for cost in self.costs),
            "costs": [asdict(cost) for cost in self.costs],
        }


def _timed(
    function: Callable[[Config, Connection, Task], Result],
    config: Config,
    con: Connection,
    task: Task,
) -> tuple[Result, Cost]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(config, con, task)
    wall, used = time.perf_counter() - wall, time.process_time()
    return result, Cost(os.getpid(), wall, used - cpu, used, peak_mb())


def peak_mb() -> float:
    """Return the most memory that was resident in this process until now, in MB (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6
