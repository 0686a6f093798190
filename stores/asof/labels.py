"""The left side of a training join: a DataFrame, Parquet on disk, or a SQL text.

Each becomes a DuckDB relation `labels` whose last column, ROW, numbers the rows from 0 in their
given order. Joins lose that order; the number restores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from stores.ids import given_sql
from stores.parquet import (
    NANOSECONDS,
    Scan,
    cut_sql,
    find_files,
    folder_keys,
    scan,
    source_root,
)

ROW = "__asof_row"


@dataclass(frozen=True)
class AsofLabels:
    """The source and columns of the labels; `load` makes them the relation `labels`."""

    source: pa.Table | Path | str
    """An Arrow table, the absolute path of a Parquet file or folder, or a SQL text."""
    columns: Mapping[str, str]
    """Each column and its DuckDB type, in order; without ROW."""
    timestamp: str
    """The column with the timestamp of each row."""
    converted: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Each column that `labels` has besides: the one it is made of, and the SQL of its ids."""

    @property
    def time(self) -> str:
        """SQL for the timestamp of a row of `labels`."""
        return f"cast({self.column(self.timestamp)} as timestamptz)"

    def column(self, name: str) -> str:
        """Return what `labels` calls a column, whose own name could be one of DuckDB's or ours."""
        return f"column_{list(self.columns).index(name)}"

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        """Create `labels` in the session. This reads files and SQL once, into a table.

        Raises:
            ValueError: a value that cannot be made an id of its key's type.
        """
        names = [self.column(name) for name in self.columns]
        row = ROW
        if isinstance(self.source, pa.Table):
            numbers = pa.array(np.arange(len(self.source), dtype=np.int64))
            given = self.source.rename_columns(names).append_column(ROW, numbers)
            con.register("labels_as_given", given)
        else:
            query = _query(con, self.source)
            con.execute(f"create temp table labels_as_given ({', '.join(names)}) as {query}")
            # rowid follows the order of insertion, so an `order by` in a SQL text is kept.
            row = f"rowid as {ROW}"
        kind = self.columns[self.timestamp]
        wanted = "TIMESTAMP WITH TIME ZONE" if kind == "VARCHAR" else NANOSECONDS.get(kind, kind)
        time = self.column(self.timestamp)
        columns = [
            f"{cut_sql(name, kind, wanted)} as {name}" if name == time else name for name in names
        ]
        columns += [f"{sql} as {name}" for name, (_, sql) in self.converted.items()]
        con.execute(
            f"create temp view labels as select {', '.join([*columns, row])} from labels_as_given"
        )
        for name, (column, _) in self.converted.items():
            given_id = given_sql(self.column(column), self.columns[column])
            refused = con.execute(
                f"select {self.column(column)} from labels "
                f"where {name} is null and {given_id} limit 1"
            ).fetchone()
            if refused is not None:
                raise ValueError(
                    f"{column}: expected ids that become the key's type and back without a change, "
                    f"got {refused[0]!r}. Convert the column"
                )

    def part(self, con: duckdb.DuckDBPyConnection, first: int, end: int) -> pa.Table:
        """Return the rows from `first` up to before `end`, in order; those of a frame unchanged."""
        if isinstance(self.source, pa.Table):
            return self.source.slice(first, end - first)
        found = con.sql(
            f"select {', '.join(map(self.column, self.columns))} from labels "
            f"where {ROW} >= {first} and {ROW} < {end} order by {ROW}"
        ).to_arrow_table()
        return found.rename_columns(list(self.columns))


def _query(con: duckdb.DuckDBPyConnection, source: Path | str) -> str:
    if isinstance(source, str):
        return source
    files = find_files(str(source))
    read, names = scan_labels(con, source)
    values = ", ".join(map(read.value, names))
    return (
        f"select {values} from {read.with_folders(con, files)} "
        "order by read.file_index, read.file_row_number"
    )


def scan_labels(con: duckdb.DuckDBPyConnection, source: Path) -> tuple[Scan, list[str]]:
    """Return how to read every column of Parquet files and folders, and their names."""
    files = find_files(str(source))
    _, names = scan(con, str(source), files, {})
    root = source_root(str(source))
    keys = (key for file in files for key in folder_keys(root, file))
    return scan(con, str(source), files, dict.fromkeys([*names, *keys]))
