"""Buckets on one machine: a pool of processes, which ends with the process that started it."""

import atexit
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from duckdb import DuckDBPyConnection as Connection

from pipelines.engine.task import Result, Task, result_of, run_task
from transformations.config import Config
from transformations.engine_settings import EngineSettings
from transformations.errors import RunFailedError

PR_SET_PDEATHSIG = 1  # prctl(2)


class LocalEngine:
    """Runs tasks in processes of this machine; they are started once, with the first task."""

    where = ""

    def __init__(self, settings: EngineSettings) -> None:
        self.slots = settings.workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def run(
        self,
        config: Config,
        function: Callable[[Config, Connection, Task], Result],
        tasks: Sequence[Task],
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which they end.

        Raises:
            RunFailedError: a process was killed, as where memory ran out.
        """
        if not tasks:
            return
        pool = self._started()
        try:
            running = {pool.submit(run_task, config, function, task): task for task in tasks}
            try:
                for future in as_completed(running):
                    yield running[future], result_of(future.result())
            finally:
                for future in running:
                    future.cancel()
        except BrokenProcessPool:
            self._pool = None
            raise RunFailedError(
                f"a process of the {self.slots} that build buckets was killed, as where memory "
                "runs out; lower engine.workers or engine.memory, or raise layout.buckets, and "
                "run again"
            ) from None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked: threads of DuckDB, Arrow and TensorFlow hold locks here.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.slots, context, initializer=_end_with, initargs=(os.getpid(),)
            )
            atexit.register(self._close)
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


def _end_with(parent: int) -> None:
    """End this process when its parent does, also where that is killed (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
