"""Parquet and CSV files as DuckDB queries."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import duckdb

from transformations.errors import InputError
from transformations.quoting import quoted

SUFFIXES = (".parquet", ".csv", ".csv.gz")
DELIMITERS = (",", ";", "\t", "|")
FILE = "__source_file"
"""The column that names the file of a row."""


@dataclass(frozen=True)
class Files:
    """Files with the same columns and delimiter, which one query reads."""

    files: tuple[Path, ...]
    columns: dict[str, str]
    """Name → DuckDB type in the files."""
    delimiter: str | None = None
    """For CSV."""

    @property
    def query(self) -> str:
        """Rows with every column of the files, and `FILE`.

        Lines that are not valid CSV go to the temporary tables `malformed_lines` and
        `malformed_scans`.
        """
        names = "[" + ", ".join(quoted(file) for file in self.files) + "]"
        if self.delimiter is None:
            return (
                f"select * from read_parquet({names}, filename = {quoted(FILE)}, "
                "union_by_name = true)"
            )
        columns = ", ".join(f"{quoted(name)}: 'varchar'" for name in self.columns)
        return (
            f"select * from read_csv({names}, filename = {quoted(FILE)}, header = true, "
            f"auto_detect = false, delim = {quoted(self.delimiter)}, quote = '\"', escape = '\"', "
            f"columns = {{{columns}}}, hive_partitioning = false, store_rejects = true, "
            "rejects_table = 'malformed_lines', rejects_scan = 'malformed_scans')"
        )

    def require(self, wanted: dict[str, str | None], where: Path) -> None:
        """Raise InputError where a column is missing; `wanted` maps configuration keys to names."""
        for key, name in wanted.items():
            if name is not None and name not in self.columns:
                raise InputError(
                    f"{key}: expected a column {name!r} in {where}, "
                    f"which has: {', '.join(self.columns)}"
                )


def find(key: str, source: Path) -> list[Path]:
    """Return the files at `source`, a file or a folder of any depth, in the order of their names.

    Raises:
        InputError: there are none; the message names `key`, a key of the configuration.
    """
    if source.is_file():
        files = [source]
    elif source.is_dir():
        visible = (path for path in source.rglob("*") if not path.name.startswith((".", "_")))
        files = sorted(path for path in visible if path.is_file() and path.name.endswith(SUFFIXES))
    else:
        raise InputError(f"{key}: expected a file or a folder, found nothing at {source}")
    if not files or not files[0].name.endswith(SUFFIXES):
        raise InputError(f"{key}: expected files that end in {', '.join(SUFFIXES)} at {source}")
    return files


def group(
    con: duckdb.DuckDBPyConnection, files: list[Path], wanted: dict[str, str | None]
) -> list[Files]:
    """Group files by their columns; one query reads a group.

    Args:
        wanted: Configuration key → column name; None for a column that is not configured.

    Raises:
        InputError: a file cannot be read, or lacks a wanted column.
    """
    groups: dict[tuple[object, ...], list[Path]] = {}
    for file in files:
        one = _describe(con, file, [name for name in wanted.values() if name is not None])
        one.require(wanted, file)
        groups.setdefault((one.delimiter, *one.columns.items()), []).append(file)
    return [
        Files(tuple(same), dict(columns), delimiter)  # type: ignore[arg-type]
        for (delimiter, *columns), same in groups.items()
    ]


def _describe(con: duckdb.DuckDBPyConnection, file: Path, wanted: list[str]) -> Files:
    if not file.name.endswith(".parquet"):
        return _header(file, wanted)
    try:
        rows = con.execute(f"describe {Files((file,), {}).query}").fetchall()
    except duckdb.Error as error:
        raise InputError(f"{file} cannot be read as Parquet: {error}") from error
    return Files((file,), {name: kind for name, kind, *_ in rows if name != FILE})


def _header(file: Path, wanted: list[str]) -> Files:
    """Read a CSV's first line. DuckDB's detection fails when lines below it are broken."""
    opened = gzip.open if file.name.endswith(".gz") else open
    try:
        with opened(file, "rb") as binary:
            line = binary.readline().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as CSV in UTF-8: {error}") from error
    forms = {
        delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in DELIMITERS
    }
    delimiter = max(DELIMITERS, key=lambda d: (len({*wanted} & {*forms[d]}), len(forms[d])))
    names = forms[delimiter]
    if len(set(names)) < len(names):
        raise InputError(f"{file}: expected a header of distinct names, got {line.strip()!r}")
    return Files((file,), dict.fromkeys(names, "VARCHAR"), delimiter)
