"""One task, wherever it runs: a connection within its bounds, and errors that find their way."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config, DuckDB
from transformations.duck import connect
from transformations.errors import ActivityError, InputError, RunFailedError
from transformations.secrets import redact

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failed:
    """What a task was refused for, in words: to run it again would give the same."""

    kind: type[ActivityError]
    message: str


def run_task(
    config: Config, function: Callable[[Config, Connection, Task], Result], task: Task
) -> Result | Failed:
    """Call a function for a task, with a DuckDB of `engine.threads` and `engine.memory`.

    Without bounds each task's DuckDB would take the whole machine. What is larger than memory is
    spilled beside the machine's own temporary files, not onto the disk that machines share.
    """
    bounds = DuckDB(memory_limit=config.engine.memory, threads=config.engine.threads)
    own = config.model_copy(update={"duckdb": bounds})
    try:
        with TemporaryDirectory(prefix="activity-") as spill, connect(own, Path(spill)) as con:
            return function(own, con, task)
    except (InputError, RunFailedError) as error:
        return Failed(type(error), redact(str(error)))


def result_of(given: Result | Failed) -> Result:
    """Return a task's result, or raise what it was refused for."""
    if isinstance(given, Failed):
        raise given.kind(given.message)
    return given
