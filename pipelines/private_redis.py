"""A redis-server of one's own, and a feature store on it: for the demo and the benchmarks."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformations.errors import InputError, RunFailedError

TRIES = 5
STORE = """
project: private
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: stores.duckdb_asof.DuckDBAsofOfflineStore}}
online_store:
  type: stores.redis.ColumnarRedisOnlineStore
  connection_string: "127.0.0.1:{port}"
batch_engine: {{type: stores.columnar.ColumnarComputeEngine}}
entity_key_serialization_version: 3
"""


def write_store(folder: Path, port: int) -> Path:
    """Write the settings of a feature store whose online side is that Redis; return the file."""
    file = folder / "feature_store.yaml"
    file.write_text(STORE.format(folder=folder, port=port))
    return file


@contextmanager
def private_redis(folder: Path) -> Iterator[int]:
    """Start a redis-server that keeps nothing on disk; yield its port; end it.

    Raises:
        InputError: there is no redis-server.
        RunFailedError: it does not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise InputError(
            "expected redis-server on the PATH, for a private one that is started here; install "
            "Redis, or run `activity stream --bus ...` against the one that you have"
        )
    for _ in range(TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for its user, who ends it
        )
        assert process.stdout is not None
        # Its log says when it listens, and ends when it could not: another process was faster.
        if any("Ready to accept connections" in line for line in process.stdout):
            break
        process.communicate()
    else:
        raise RunFailedError(f"a private redis-server does not start, on {TRIES} free ports")
    try:
        yield port
    finally:
        process.terminate()
        process.communicate()
