"""Tasks that are lost on their way: their process, their executor or their driver is killed.

A module of its own: whatever runs a task imports it, and should import nothing heavy with it.
"""

import logging
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import psutil

from pipelines.engine import engine_of
from tests.worlds.events import AS_OF, DAY
from tests.worlds.spark import PASSWORD
from transformations.config import Config
from transformations.duck import connect
from transformations.last_actions import Snapshot
from transformations.tables import (
    SequencesBuilt,
    SequencesTask,
    build_sequences_of,
    sequences_of_bucket,
)

if TYPE_CHECKING:
    from serving.publish.tasks import WriteTask

Build = Callable[[Config, duckdb.DuckDBPyConnection, SequencesTask], SequencesBuilt]
SNAPSHOTS = [
    Snapshot(at, at - DAY, at + timedelta(hours=6)) for at in (AS_OF - 2 * DAY, AS_OF - DAY / 3)
]
SNAPSHOTS.append(Snapshot(AS_OF, AS_OF - DAY / 3, AS_OF))


def lost_once(
    config: Config, con: duckdb.DuckDBPyConnection, task: SequencesTask
) -> SequencesBuilt:
    """Build a bucket; the first attempt at one of them dies before it can say so."""
    built = sequences_of_bucket(config, con, task)
    if task.bucket == 1:
        _die_once(config)
    return built


def written_half(config: Config, con: duckdb.DuckDBPyConnection, task: "WriteTask") -> int:
    """Write rows online; the first attempt dies between two files."""
    from serving.publish.tasks import write_files  # heavy, and of no use to the others

    first = write_files(config, con, replace(task, files=task.files[:1]))
    _die_once(config)
    return first + write_files(config, con, replace(task, files=task.files[1:]))


def tells_password(config: Config, con: duckdb.DuckDBPyConnection, task: object) -> int:
    """Fail as a driver of a database might."""
    logging.getLogger("driver").error("logging in with %s", os.environ[PASSWORD])
    raise RuntimeError(f"cannot log in with {os.environ[PASSWORD]}")


def there(config: Config, con: duckdb.DuckDBPyConnection, file: Path) -> str:
    """Wait until a file is there."""
    while not file.exists():
        time.sleep(0.05)
    return file.name


def _die_once(config: Config) -> None:
    mark = config.data / "killed"
    if mark.exists():
        return
    mark.touch()
    # Of Spark the executor, a Java process; of the pool this very process.
    of_spark = [p for p in psutil.Process().parents() if "Executor" in " ".join(p.cmdline())]
    (of_spark or [psutil.Process()])[0].send_signal(signal.SIGKILL)
    signal.pause()


def driver_lost(
    config: Config, con: duckdb.DuckDBPyConnection, task: SequencesTask
) -> SequencesBuilt:
    """Build one bucket, and kill the process that asked for it; the others never end.

    So nobody writes any more when the driver is gone.
    """
    if task.bucket == 1:
        sequences_of_bucket(config, con, task)
        os.kill(int((config.data / "driver").read_text()), signal.SIGKILL)
    signal.pause()
    raise AssertionError("expected no signal that is handled")


def build_by(config: Config, function: Build) -> int:
    """Build the sequences with another function in the tasks; return their rows."""
    engine = engine_of(config)

    class Replaced:
        def run(
            self, config: Config, _: object, tasks: Sequence[SequencesTask]
        ) -> Iterator[tuple[SequencesTask, SequencesBuilt]]:
            return engine.run(config, function, tasks)

    with connect(config) as con:
        return build_sequences_of(config, con, SNAPSHOTS, engine=Replaced()).rows_out  # type: ignore[arg-type]


def main(data: Path) -> None:
    """Be the driver that is killed."""
    (data / "driver").write_text(str(os.getpid()))
    from tests.worlds import lost_tasks  # tasks find its functions by this name

    build_by(pickle.loads((data / "config.pickle").read_bytes()), lost_tasks.driver_lost)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
