"""A DuckDB session with limits, and helpers for the statements of the join."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from stores.objects import is_url, version_of
from stores.quoting import literal

DECODED_AHEAD = "32MB"

# Of memory_limit; the rest is for the rows handed to the caller (stores.asof.job.CHUNK_SHARE).
DUCKDB_SHARE = 0.6


@dataclass(frozen=True)
class Limits:
    """Memory, threads and disk of a query, and the folder of its relative paths."""

    memory_limit: str
    threads: int | None
    temp_directory: Path | None
    repo_path: Path


@contextmanager
def session(limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database that spills into its own folder, which is removed at the end."""
    if limits.temp_directory is not None:
        limits.temp_directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="asof-", dir=limits.temp_directory) as spill:
        con = duckdb.connect(
            config={
                "memory_limit": limits.memory_limit,
                "temp_directory": spill,
                "python_enable_replacements": False,
                **({} if limits.threads is None else {"threads": limits.threads}),
            }
        )
        try:
            con.execute(f"set memory_limit = '{int(memory_limit(con) * DUCKDB_SHARE)}B'")
            con.execute("set TimeZone = 'UTC'")
            con.execute("set enable_progress_bar = false")
            # DuckDB decodes this much ahead while the caller copies vectors. The default of 1 MB
            # lasts a hundredth of a second, and all cores but one would wait.
            con.execute(f"set streaming_buffer_size = '{DECODED_AHEAD}'")
            con.execute(f"set file_search_path = {literal(str(limits.repo_path))}")
            yield con
        finally:
            con.close()


Fingerprint = tuple[int, int, int] | None


def fingerprint(file: str) -> Fingerprint:
    """Return values that change when a file is replaced or rewritten; None if it is gone."""
    try:
        if is_url(file):
            return version_of(file)
        stat = Path(file).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def memory_limit(con: duckdb.DuckDBPyConnection) -> float:
    """Return the session's memory limit in bytes."""
    [(limit,)] = con.execute("select current_setting('memory_limit')").fetchall()
    number, unit = limit.split()
    return float(number) * 1024 ** ["bytes", "KiB", "MiB", "GiB", "TiB"].index(unit)
