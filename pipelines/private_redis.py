"""A private redis-server and a feature store on it, for the demo, benchmarks and tests."""

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
    """Write the settings of a feature store with that Redis as online store; return the file."""
    file = folder / "feature_store.yaml"
    file.write_text(STORE.format(folder=folder, port=port))
    return file


@contextmanager
def private_redis(folder: Path) -> Iterator[int]:
    """Start a redis-server without persistence; yield its port; stop it.

    Raises:
        InputError: there is no redis-server.
        RunFailedError: it does not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise InputError(
            "expected redis-server on the PATH, to start a private one; install Redis, or run "
            "`activity stream --bus ...` against an existing one"
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
            start_new_session=True,  # Ctrl-C is for this process, which stops it
        )
        assert process.stdout is not None
        # Its log says when it listens; the log ends if another process took the port.
        if any("Ready to accept connections" in line for line in process.stdout):
            break
        process.communicate()
    else:
        raise RunFailedError(f"a private redis-server does not start: tried {TRIES} free ports")
    try:
        yield port
    finally:
        process.terminate()
        process.communicate()
