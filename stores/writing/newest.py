"""The newest row of every key in a range of Parquet files, streamed.

Two steps, so that no vector goes through an aggregation. First the narrow columns (keys and times)
decide which rows of each file win, as one byte per row. Then the files are read once more, in
order, and only the winners are kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.file_source import FileSource
from numpy.typing import NDArray

# Rows whose keys are compared in one pass, which bounds the memory of the first step. The narrow
# columns of a range with more rows are read in several passes, one per share of the keys.
ROWS_PER_PASS = 250_000


class Columns(NamedTuple):
    """The names of a view's columns in its source, in the order in which Feast returns them."""

    join_keys: list[str]
    features: list[str]
    event: str
    created: str | None


def parquet_files(source: Any, repo_path: Path | None) -> list[str] | None:
    """Return the local Parquet files of a Feast source, sorted; None for any other source.

    Raises:
        FileNotFoundError: the source names a file or folder that does not exist.
    """
    if not isinstance(source, FileSource) or "://" in source.path:
        return None
    is_parquet = isinstance(source.file_format, ParquetFormat) or (
        source.file_format is None and source.path.endswith(".parquet")
    )
    if not is_parquet:
        return None
    path = Path(source.path)
    if not path.is_absolute() and repo_path is not None and not path.exists():
        path = Path(repo_path) / path
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return sorted(str(file) for file in path.rglob("*.parquet"))
    if any(mark in source.path for mark in "*?["):
        return sorted(str(file) for file in path.parent.glob(path.name))
    raise FileNotFoundError(f"expected a Parquet file or folder at {path}, got nothing")


def newest_batches(
    files: Sequence[str],
    columns: Columns,
    start: datetime,
    end: datetime,
    *,
    batch_rows: int,
    memory_limit: str,
    threads: int | None,
) -> Iterator[pa.RecordBatch]:
    """Yield the newest row of every key with start <= event time <= end.

    The newest row has the greatest event time, then the greatest created time (null is the least),
    then the last file by name, then the last row in it. So every run chooses the same rows.
    Naive times are UTC.
    """
    settings: dict[str, Any] = {"memory_limit": memory_limit}
    if threads is not None:
        settings["threads"] = threads
    with closing(duckdb.connect(config=settings)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set preserve_insertion_order = false")
        connection.execute("set enable_progress_bar = false")
        # Nothing is read twice soon enough for a cache to be worth its memory.
        connection.execute("set enable_external_file_cache = false")
        if not files:
            return
        seen = _Range(connection, files, columns, start, end)
        names = dict.fromkeys([*columns.join_keys, *columns.features, columns.event])
        if columns.created:
            names[columns.created] = None
        selected = ", ".join(_quoted(name) for name in names)
        winners = seen.winners()
        # One thread, because the store is slower than this reader, and each holds a row group.
        connection.execute("set threads = 1")
        for file, wins in winners:
            first, last = np.flatnonzero(wins)[[0, -1]].tolist()
            reader = connection.sql(
                f"select {selected}, file_row_number as __row from {_scan([file])} "
                f"where file_row_number between {first} and {last}"
            ).to_arrow_reader(batch_rows)
            for batch in reader:
                kept = wins[batch.column("__row").to_numpy()]
                plain = batch.drop_columns(["__row"])
                yield plain if kept.all() else plain.filter(pa.array(kept))


class _Range:
    """The rows of some files that lie between two times."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        files: Sequence[str],
        columns: Columns,
        start: datetime,
        end: datetime,
    ) -> None:
        self.connection = connection
        self.columns = columns
        self.between = {"start": _naive(start), "end": _naive(end)}
        event, kind = self._timestamp(files, columns.event)
        self.event = event
        # Cast the parameters, not the column, so that DuckDB skips row groups by statistics.
        self.where = f"{event} between $start::{kind} and $end::{kind}"
        counted = connection.execute(
            f"select filename, count(*) from {_scan(files)} where {self.where} group by filename",
            self.between,
        ).fetchall()
        self.rows = sum(count for _, count in counted)
        self.files = sorted(file for file, _ in counted)

    def winners(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return the files that have winners, each with the mask of the rows that win."""
        if not self.files:
            return []
        sizes = dict(
            self.connection.execute(
                "select file_name, num_rows from parquet_file_metadata($files)",
                {"files": self.files},
            ).fetchall()
        )
        wins = [np.zeros(sizes[file], dtype=bool) for file in self.files]
        numbered = pa.table({"filename": self.files, "file": range(len(self.files))})
        self.connection.register("__files", numbered)
        passes = -(-self.rows // ROWS_PER_PASS)
        for nth in range(passes):
            reader = self.connection.sql(
                self._newest(nth, passes), params=self.between
            ).to_arrow_reader(100_000)
            for batch in reader:
                file, line = (batch.column(name).to_numpy() for name in ("file", "line"))
                for index in np.unique(file).tolist():
                    wins[index][line[file == index]] = True
        return [pair for pair in zip(self.files, wins, strict=True) if pair[1].any()]

    def _newest(self, nth: int, passes: int) -> str:
        keys = ", ".join(_quoted(name) for name in self.columns.join_keys)
        share = f"and hash({keys}) % {passes} = {nth}" if passes > 1 else ""
        order = [f"{self.event} desc"]
        if self.columns.created:
            created, _ = self._timestamp(self.files, self.columns.created)
            order.append(f"{created} desc nulls last")
        order += ["file desc", "file_row_number desc"]
        return f"""
            select file, file_row_number as line
            from {_scan(self.files)} inner join __files using (filename)
            where {self.where} {share}
            qualify row_number() over (partition by {keys} order by {", ".join(order)}) = 1
        """

    def _timestamp(self, files: Sequence[str], name: str) -> tuple[str, str]:
        """Return an expression for a time column, and the type of the expression."""
        described = self.connection.execute(
            f"describe select {_quoted(name)} from {_scan(files)}"
        ).fetchall()
        kind = described[0][1]
        if kind in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
            return _quoted(name), kind.lower()
        return f"{_quoted(name)}::timestamp", "timestamp"


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _scan(files: Sequence[str]) -> str:
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{listed}], file_row_number = true, filename = true)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
