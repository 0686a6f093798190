"""A Spark cluster of this machine: a master and workers on loopback, as Spark's own scripts start.

To try things out, for tests and benchmarks: `python -m pipelines.engine.standalone`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformations.errors import InputError, RunFailedError

MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
STARTED = 120
"""Seconds until a part of the cluster must have said that it is there."""


class _Daemon:
    """A process of the cluster, and what it says."""

    def __init__(self, home: Path, folder: Path, *arguments: str) -> None:
        own = {
            "SPARK_HOME": str(home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(folder),
            "SPARK_DAEMON_MEMORY": "256m",
            # They do little: Java's second compiler would take more than it gives back.
            "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            # As on another machine: nothing of this process is on its path. The engine brings it.
            "PYTHONPATH": "",
        }
        self.process = subprocess.Popen(
            [str(home / "bin" / "spark-class"), *arguments],
            env=os.environ | own,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._there = threading.Event()
        self._found = ""

    def expect(self, pattern: str) -> str:
        """Wait until it says something; return the pattern's group."""
        self._listening = threading.Thread(target=self._listen, args=(pattern,), daemon=True)
        self._listening.start()
        self._there.wait(STARTED)
        if not self._found:
            raise RunFailedError(
                f"expected Spark to say {pattern!r} within {STARTED} s, got "
                f"{''.join(self._said[-20:])}"
            )
        return self._found

    def _listen(self, pattern: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not self._there.is_set():
                self._said.append(line)
                if match := re.search(pattern, line):
                    self._found = match[1]
                    self._there.set()
        self._there.set()  # it ended

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._listening.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def standalone(
    folder: Path, workers: int = 2, memory: str = "700M", port: int = 0
) -> Iterator[str]:
    """Start a master and workers of one core each; yield the master's address.

    Args:
        folder: What they write.
        memory: Of one worker, for its executor.
        port: Of the master; 0: a free one.

    Raises:
        InputError: pyspark is not installed.
        RunFailedError: a part of it does not start, as without Java.
    """
    try:
        import pyspark
    except ImportError:
        raise InputError("expected pyspark, got none: pip install -e '.[spark]'") from None
    home, daemons = Path(pyspark.__file__).parent, []
    at = ("--host", "127.0.0.1", "--webui-port", "0")
    try:
        daemons.append(_Daemon(home, folder, MASTER, *at, "--port", str(port)))
        url = daemons[0].expect(r"Starting Spark master at (spark://\S+)")
        resources = ("--port", "0", "--cores", "1", "--memory", memory, "--work-dir", str(folder))
        started = [_Daemon(home, folder, WORKER, *at, *resources, url) for _ in range(workers)]
        daemons += started
        for worker in started:
            worker.expect("(Successfully registered) with master")
        yield url
    finally:
        for daemon in daemons:
            daemon.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that its parts end with it
    with tempfile.TemporaryDirectory() as own, standalone(Path(own), 2, "1500M", 7077) as address:
        print(f"Spark at {address}; Enter ends it", flush=True)
        sys.stdin.readline()
