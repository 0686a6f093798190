"""The DuckDB toolkit: a connection within bounds, queries from sql/, quoting, checks, Parquet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from transformations.config import Config
from transformations.errors import RunFailedError
from transformations.quoting import one_file, quoted

SQL_ID_TYPES = {"int64": "BIGINT", "string": "VARCHAR"}


@dataclass(frozen=True)
class TableReport:
    """How many rows a table's build read, wrote and refused."""

    table: str
    rows_in: int
    rows_out: int
    refused: dict[str, int] = field(default_factory=dict)
    """Reason to rows."""
    written: tuple[str, ...] = ()
    """Names of the partitions that were rewritten."""


def connect(config: Config, spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with sql/macros.sql, within the configured memory; times are UTC.

    Args:
        spill: Where rows go that memory does not hold; default: a folder of the workspace's state.
    """
    spill = spill or config.layout.state / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": config.duckdb.memory_limit,
        "temp_directory": str(spill),
    }
    if config.duckdb.threads is not None:
        settings["threads"] = config.duckdb.threads
    con = duckdb.connect(config=settings)
    con.execute("set TimeZone = 'UTC'")
    con.execute("set enable_progress_bar = false")
    con.execute(sql("macros"))
    return con


def sql(name: str, beside: str = __file__) -> str:
    """Return the query of `sql/<name>.sql` beside a module, given as its `__file__`."""
    return (Path(beside).parent / "sql" / f"{name}.sql").read_text()


def named_in(query: str, parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that a query names, since DuckDB refuses others."""
    return {name: parameters[name] for name in set(re.findall(r"\$(\w+)", query))}


def parquet(files: list[Path], *options: str) -> str:
    """Return a read_parquet call over exactly these files."""
    names = ", ".join(quoted(one_file(file)) for file in files)
    return f"read_parquet([{names}], {', '.join(['hive_partitioning = false', *options])})"


def check(con: duckdb.DuckDBPyConnection, table: str, parameters: Mapping[str, object]) -> None:
    """Run `checks/<table>.sql` on the relation `table` of this connection.

    Raises:
        RunFailedError: a row breaks a rule; the message names the table, the rules and such rows.
    """
    query = (Path(__file__).parent / "checks" / f"{table}.sql").read_text()
    result = con.execute(query, named_in(query, parameters))
    names = [column[0] for column in result.description]
    first = result.fetchmany(5)
    if first:
        lines = [
            ", ".join(f"{name}={value!r}" for name, value in zip(names, row, strict=True))
            for row in first
        ]
        raise RunFailedError(
            f"the check of {table} found rows that break a rule, so nothing was "
            f"written; the first {len(first)} (transformations/checks/{table}.sql gives the rest):"
            "\n  " + "\n  ".join(lines)
        )


def count(
    con: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object] | None = None
) -> int:
    """Return the single number that a query returns."""
    row = con.execute(query, parameters or {}).fetchone()
    return int(row[0] or 0) if row else 0


def copy(
    con: duckdb.DuckDBPyConnection,
    query: str,
    file: Path,
    parameters: Mapping[str, object] | None = None,
    compression: str = "zstd",
    rows_per_group: int | None = None,
) -> None:
    """Write the rows of a query to one Parquet file.

    Args:
        rows_per_group: Of its row groups, which a reader skips by their statistics; default:
            DuckDB's.
    """
    # Version 2 delta-encodes timestamps and ids: smaller, and faster to write.
    options = f"format parquet, parquet_version v2, compression {compression}"
    if rows_per_group is not None:
        options += f", row_group_size {rows_per_group}"
    con.execute(f"copy ({query}) to {quoted(file)} ({options})", parameters or {})
