"""What an engine is: whoever calls a function for many tasks, here or on other machines.

A task is data that can be pickled: which bucket, which as_ofs, where to write. The function gets a
DuckDB connection of its own, within the bounds of a task. pipelines/engine/ holds the engines.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config

Task = TypeVar("Task")
Result = TypeVar("Result")


class Engine(Protocol):
    """Calls a function for each of many tasks."""

    @property
    def where(self) -> str:
        """Return what to tell a user of the machines; "" where it is this one alone."""
        ...

    @property
    def slots(self) -> int:
        """About how many tasks run at the same time."""
        ...

    def run(
        self,
        config: Config,
        function: Callable[[Config, Connection, Task], Result],
        tasks: Sequence[Task],
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which they end.

        Args:
            config: What the function gets.
            function: Of a module: it is found by its name on the other side.
        """
        ...


class InTurn:
    """An engine that runs one task after the other, here, with a connection that is open."""

    slots = 1
    where = ""

    def __init__(self, con: Connection) -> None:
        self._con = con

    def run(
        self,
        config: Config,
        function: Callable[[Config, Connection, Task], Result],
        tasks: Sequence[Task],
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in their order."""
        for task in tasks:
            yield task, function(config, self._con, task)
