"""The newest row of every key in a range of Parquet files, streamed.

Two steps, so that vectors never travel through an aggregation: the narrow columns decide which row
of which file wins, one byte a row; then the files are read once more, in order, and winners pass.
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

# Rows whose keys are compared at a time, which bounds the memory of the first step: a range with
# more rows is read, in its narrow columns, once for every so many.
ROWS_A_PASS = 250_000


class Columns(NamedTuple):
    """The names that a view's columns have in its source, in the order Feast gives them."""

    join_keys: list[str]
    features: list[str]
    event: str
    created: str | None


def parquet_files(source: Any, repo_path: Path | None) -> list[str] | None:
    """Return the local Parquet files of a Feast source, sorted; None when it is anything else.

    Raises:
        FileNotFoundError: the source names a file or folder that is not there.
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
    raise FileNotFoundError(f"expected a Parquet file or folder at {path}, found nothing")


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

    Newest is the greatest event time, then the greatest created time (null is the least), then the
    later file by name, then the later row in it, so that the choice is the same at every run.
    Naive times are UTC.
    """
    settings: dict[str, Any] = {"memory_limit": memory_limit}
    if threads is not None:
        settings["threads"] = threads
    with closing(duckdb.connect(config=settings)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set preserve_insertion_order = false")
        connection.execute("set enable_progress_bar = false")
        # Nothing here is read twice soon enough for a cache to pay for its memory.
        connection.execute("set enable_external_file_cache = false")
        if not files:
            return
        seen = _Range(connection, files, columns, start, end)
        names = dict.fromkeys([*columns.join_keys, *columns.features, columns.event])
        if columns.created:
            names[columns.created] = None
        selected = ", ".join(_quoted(name) for name in names)
        winners = seen.winners()
        # One thread, because the store behind is slower; two would hold two row groups.
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
        event, kind = self._moment(files, columns.event)
        self.event = event
        # The parameters are cast, not the column: DuckDB then skips row groups by their statistics.
        self.where = f"{event} between $start::{kind} and $end::{kind}"
        counted = connection.execute(
            f"select filename, count(*) from {_scan(files)} where {self.where} group by filename",
            self.between,
        ).fetchall()
        self.rows = sum(count for _, count in counted)
        self.files = sorted(file for file, _ in counted)

    def winners(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return the files that have winners, each with which of its rows win."""
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
        passes = -(-self.rows // ROWS_A_PASS)
        for part in range(passes):
            reader = self.connection.sql(
                self._newest(part, passes), params=self.between
            ).to_arrow_reader(100_000)
            for batch in reader:
                file, line = (batch.column(name).to_numpy() for name in ("file", "line"))
                for place in np.unique(file).tolist():
                    wins[place][line[file == place]] = True
        return [pair for pair in zip(self.files, wins, strict=True) if pair[1].any()]

    def _newest(self, part: int, passes: int) -> str:
        keys = ", ".join(_quoted(name) for name in self.columns.join_keys)
        share = f"and hash({keys}) % {passes} = {part}" if passes > 1 else ""
        order = [f"{self.event} desc"]
        if self.columns.created:
            created, _ = self._moment(self.files, self.columns.created)
            order.append(f"{created} desc nulls last")
        order += ["file desc", "file_row_number desc"]
        return f"""
            select file, file_row_number as line
            from {_scan(self.files)} inner join __files using (filename)
            where {self.where} {share}
            qualify row_number() over (partition by {keys} order by {", ".join(order)}) = 1
        """

    def _moment(self, files: Sequence[str], name: str) -> tuple[str, str]:
        """Return a time column as an expression, and that expression's type."""
        described = self.connection.execute(
            f"describe select {_quoted(name)} from {_scan(files)}"
        ).fetchall()
        kind = described[0][1]
        if kind in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
            return _quoted(name), kind.lower()
        return f"{_quoted(name)}::timestamp", "timestamp"


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _scan(files: Sequence[str]) -> str:
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{listed}], file_row_number = true, filename = true)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
