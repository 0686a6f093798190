"""The newest row of every key in a range of Parquet files, streamed.

Two steps, so that no vector goes through an aggregation. First the narrow columns (keys and times)
decide which rows of each file win, as one byte per row. Then the files are read once more, in
order, and only the winners are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.file_source import FileSource
from numpy.typing import NDArray

from stores.objects import is_url, not_read
from stores.parquet import Scan, find_files, rows_per_file, scan

# Rows whose keys are compared in one pass, which bounds the memory of the first step. The narrow
# columns of a range with more rows are read in several passes, one per share of the keys.
ROWS_PER_PASS = 250_000


class Columns(NamedTuple):
    """The names of a view's columns in its source, in the order in which Feast returns them."""

    join_keys: list[str]
    features: list[str]
    event: str
    created: str | None


def parquet_path(source: Any, repo_path: Path | None) -> str | None:
    """Return the path, pattern or URL of a Feast source of Parquet; None for any other source."""
    if not isinstance(source, FileSource):
        return None
    is_parquet = isinstance(source.file_format, ParquetFormat) or (
        source.file_format is None and source.path.endswith(".parquet")
    )
    if not is_parquet:
        return None
    if is_url(source.path):
        is_ours = not_read(source.path, source.s3_endpoint_override) is None
        return source.path if is_ours else None
    path = Path(source.path)
    if not path.is_absolute() and repo_path is not None and not path.exists():
        path = Path(repo_path) / path
    return str(path)


def newest_batches(
    path: str,
    columns: Columns,
    start: datetime,
    end: datetime,
    *,
    declared: Mapping[str, pa.DataType | None] | None = None,
    batch_rows: int,
    memory_limit: str,
    threads: int | None,
) -> Iterator[pa.RecordBatch]:
    """Yield the newest row of every key with start <= event time <= end.

    The newest row has the greatest event time, then the greatest created time (null is the least),
    then the last file by name, then the last row in it. So every run chooses the same rows.
    Naive times are UTC. A feature is null in the rows of a file that lacks it.

    Args:
        declared: Column → the type that the view declares, for files whose types differ.

    Raises:
        FileNotFoundError: there is no Parquet file at the path.
        ValueError: no file has a column.
    """
    settings: dict[str, Any] = {"memory_limit": memory_limit}
    if threads is not None:
        settings["threads"] = threads
    files = find_files(path)
    with closing(duckdb.connect(config=settings)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set preserve_insertion_order = false")
        connection.execute("set enable_progress_bar = false")
        # Nothing is read twice soon enough for a cache to be worth its memory.
        connection.execute("set enable_external_file_cache = false")
        wanted = dict.fromkeys([*columns.join_keys, *columns.features, columns.event])
        if columns.created:
            wanted[columns.created] = None
        read, names = scan(connection, path, files, wanted | dict(declared or {}))
        missing = [name for name in wanted if name not in read.columns]
        if missing:
            raise ValueError(
                f"expected the columns {', '.join(wanted)} in {path}; missing: "
                f"{', '.join(missing)}; it has {', '.join(names)}"
            )
        seen = _Range(connection, read, files, columns, start, end)
        selected = ", ".join(read.value(name) for name in wanted)
        winners = seen.winners()
        # One thread, because the store is slower than this reader, and each holds a row group.
        connection.execute("set threads = 1")
        for file, wins in winners:
            first, last = np.flatnonzero(wins)[[0, -1]].tolist()
            reader = connection.sql(
                f"select {selected}, read.file_row_number "
                f"from {read.with_folders(connection, [file])} "
                f"where read.file_row_number between {first} and {last}"
            ).to_arrow_reader(batch_rows)
            for batch in reader:
                *arrays, rows = batch.columns
                kept = wins[rows.to_numpy()]
                plain = pa.RecordBatch.from_arrays(arrays, list(wanted))
                yield plain if kept.all() else plain.filter(pa.array(kept))


class _Range:
    """The rows of some files that lie between two times."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        read: Scan,
        files: Sequence[str],
        columns: Columns,
        start: datetime,
        end: datetime,
    ) -> None:
        self.connection = connection
        self.read = read
        self.columns = columns
        self.event = self._time(columns.event)
        self.where = " and ".join(
            self._bound(comparison, time) for comparison, time in ((">=", start), ("<=", end))
        )
        counted = connection.execute(
            f"select read.filename, count(*) from {read.with_folders(connection, files)} "
            f"where {self.where} group by read.filename"
        ).fetchall()
        self.rows = sum(count for _, count in counted)
        self.files = sorted(file for file, _ in counted)

    def winners(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return the files that have winners, each with the mask of the rows that win."""
        if not self.files:
            return []
        sizes = rows_per_file(self.connection, self.files)
        wins = [np.zeros(sizes[file], dtype=bool) for file in self.files]
        passes = -(-self.rows // ROWS_PER_PASS)
        for nth in range(passes):
            reader = self.connection.sql(self._newest(nth, passes)).to_arrow_reader(100_000)
            for batch in reader:
                file, line = (batch.column(name).to_numpy() for name in ("file", "line"))
                for index in np.unique(file).tolist():
                    wins[index][line[file == index]] = True
        return [pair for pair in zip(self.files, wins, strict=True) if pair[1].any()]

    def _newest(self, nth: int, passes: int) -> str:
        keys = ", ".join(map(self.read.value, self.columns.join_keys))
        share = f"and hash({keys}) % {passes} = {nth}" if passes > 1 else ""
        order = [f"{self.event} desc"]
        if self.columns.created:
            order.append(f"{self._time(self.columns.created)} desc nulls last")
        order += ["read.file_index desc", "read.file_row_number desc"]
        return f"""
            select cast(read.file_index as bigint) as file, read.file_row_number as line
            from {self.read.with_folders(self.connection, self.files)}
            where {self.where} {share}
            qualify row_number() over (partition by {keys} order by {", ".join(order)}) = 1
        """

    def _time(self, name: str) -> str:
        return f"cast({self.read.value(name)} as timestamptz)"

    def _bound(self, comparison: str, time: datetime) -> str:
        return self.read.bound(self.columns.event, comparison, time)
