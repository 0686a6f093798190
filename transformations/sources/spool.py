"""Rows between a source and their partitions, and the lines that are no CSV."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import copy, count, sql
from transformations.errors import RunFailedError
from transformations.quoting import identifier
from transformations.sources.files import Files

MALFORMED = "line is malformed"


@contextmanager
def spool(config: Config, table: str) -> Iterator[Path]:
    """Yield an empty folder for a table's rows between the source and their partitions."""
    folder = config.layout.state / f"{table}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spool_rows(
    con: Connection,
    table: str,
    file: Path,
    parameters: Mapping[str, object],
    source: Files,
    rows_per_group: int | None = None,
) -> None:
    """Write the rows of `sql/<table>.sql` to the spool."""
    try:
        copy(con, sql(table), file, parameters, "lz4", rows_per_group)
    except duckdb.Error as error:
        names = ", ".join(str(path) for path in source.files[:3])
        more = f" and {len(source.files) - 3} more" if len(source.files) > 3 else ""
        raise RunFailedError(f"reading {names}{more} failed: {error}") from error


def collect_malformed(con: Connection, files: Files, label: str) -> None:
    """Collect the lines that the CSV reader rejected; it writes one row per error.

    Args:
        label: SQL that makes what quarantine calls a file of `files.file_column`.
    """
    con.execute(
        f"insert into malformed select line, {label} from ("
        "select distinct file_id, malformed_lines.line as number, "
        "trim(csv_line, chr(10) || chr(13)) as line, "
        f"file.name as {identifier(files.file_column)} "
        "from malformed_lines inner join malformed_scans using (scan_id, file_id) "
        f"inner join {files.names} on malformed_scans.file_path = file.path)"
    )
    con.execute("drop table malformed_lines")
    con.execute("drop table malformed_scans")


def counted(con: Connection, reasons: str) -> dict[str, int]:
    """Return reason → its rows in a query."""
    query = f"select reason, count(*) from ({reasons}) group by reason order by reason"
    return dict(con.execute(query).fetchall())


def rows_read(con: Connection) -> int:
    """Return how many rows of the source were judged, or are no CSV."""
    return count(con, "select (select count(*) from judged) + (select count(*) from malformed)")
