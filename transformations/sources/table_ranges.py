"""A table of events read by tasks: each reads a range of the incremental column, to a file.

Borders of ranges are values of the column itself, taken so that ranges hold about equally many
rows (`ntile`). Equal width would need arithmetic in each database's types, and of a shop that
doubles each year most rows would lie in the last range. The database sorts one column for it: of 2
million rows in PostgreSQL that took 5 s with an index and 8 s without, beside 72 s for reading them
by one process (all on a busy machine of two cores). Borders are compared by the database, as the
mark is, so whatever has an order can be divided: numbers, times and texts.

All tasks read up to the largest value that was there before the first began. Rows that come
meanwhile are for the next run, as rows that come during a single statement are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from duckdb import DuckDBPyConnection as Connection

from transformations import archive
from transformations.config import Config
from transformations.errors import InputError
from transformations.snapshots import attempts
from transformations.sources.marks import Mark, Since, as_mark, bound, compared, mark_of
from transformations.sources.sql_source import (
    FILE,
    Opened,
    Opener,
    Spooled,
    TableSource,
    new_rows,
    opened_table,
    text_files,
    write_rows,
)
from transformations.tasks import Engine
from transformations.tombstones import Tombstones

ROWS_PER_RANGE = 50_000
"""At least: fewer are read in the time that a task takes to connect and to look at the table."""


@dataclass(frozen=True)
class Range:
    """Some of the rows that are new.

    Attributes:
        low: The smallest value; None for all that are smaller than `high`.
        high: The value that ends it, itself not included; None in the last range.
        last: In the last range the largest value, itself included.
    """

    low: Mark | None = None
    high: Mark | None = None
    last: Mark | None = None


@dataclass(frozen=True)
class Rest:
    """The rows that lie in no range: without a value, or with one that is no mark.

    Attributes:
        endless: The smallest value that is no mark, as infinity; None where there is none.
    """

    endless: Mark | None = None


@dataclass(frozen=True)
class RangeTask:
    """Some rows of a table; `member` as `read_table` takes it.

    The source names ${VARIABLES}, which the task reads from its own environment.
    """

    source: TableSource
    rows: Range | Rest
    member: str | None
    file: Path


def read_table(
    config: Config,
    source: TableSource,
    folder: Path,
    mark: Mark | None,
    engine: Engine,
    opened: Opener,
    member: str | None = None,
) -> Spooled:
    """Write the new rows of a table to Parquet, by tasks where those are many; as `spool` does.

    Args:
        opened: Opens the file where this process reads all rows: `folder / FILE`.
        engine: Who reads the ranges. Of one slot, or where the source has no incremental column,
            this process reads the table by one statement.
        member: The column of ids in their one spelling, if rows of forgotten members are not
            written.

    Raises:
        InputError, RunFailedError: as `spool`.
    """
    with opened_table(config, source) as opening:
        new = new_rows(config, source, opening, mark)
        ranges = _divided(source, opening, new, engine.slots)
        if len(ranges) < 2:
            kept = _remembered(config, member)
            files = write_rows(source, opening, new.where, folder / FILE, opened, kept)
            return Spooled(source.table, [files] if files else [], new.mark)
    some: list[Range | Rest] = [*ranges, Rest(new.endless)]
    tasks = [
        RangeTask(source, rows, member, folder / f"table-{number}.parquet")
        for number, rows in enumerate(some)
    ]
    written = {task.file: file for task, file in engine.run(config, read_range, tasks)}
    # In the order of the ranges, whoever ended first: equal rows are an equal object then.
    parts = [part for task in tasks if (part := written[task.file]) is not None]
    groups = [text_files(parts, source.header)] if parts else []
    return Spooled(source.table, groups, new.mark)


def read_range(config: Config, con: Connection, task: RangeTask) -> Path | None:  # noqa: ARG001
    """Write the rows of a range; the function of an engine's tasks.

    Returns:
        The file, under a name that no other attempt has; None if there was no row.

    Raises:
        InputError: a variable of the URL is not set where the task runs, or as `spool`.
        RunFailedError: the database failed.
    """
    try:
        with attempts([task.file]) as (file,), opened_table(config, task.source) as opening:
            where = _condition(task.source, opening, task.rows)
            kept = _remembered(config, task.member)
            files = write_rows(task.source, opening, where, file, kept=kept)
    except InputError as error:
        raise InputError(
            f"{error}. That was in a task, which reads the table with the files and the "
            "environment of where it runs: docs/spark.md#a-table-of-a-database"
        ) from None
    if files is None:
        file.unlink()
        return None
    return file


def joined(parts: Sequence[Path], header: Sequence[str], file: Path, opened: Opener) -> None:
    """Write the rows of several files into one, in their order, a row group in memory."""
    with opened(file, pa.schema([(name, pa.string()) for name in header])) as writer:
        for part in parts:
            with pq.ParquetFile(part) as whole:
                for group in range(whole.num_row_groups):
                    writer.write_table(whole.read_row_group(group))


def _divided(source: TableSource, opening: Opened, new: Since, number: int) -> list[Range]:
    """Divide the new rows that have a value into at most `number` ranges; none if they stay whole.

    Neighbours are put together until they hold ROWS_PER_RANGE.
    """
    if number == 1 or source.incremental is None or new.mark is None:
        return []
    lows: list[Mark | None] = [new.low]
    rows = 0  # of the last range so far
    before = None
    for lowest, more in _tiles(opening, opening.table.columns[source.incremental], new, number):
        # One kind has one order. A value that fills several tiles begins one range at most.
        is_border = lowest.kind == new.mark.kind and before not in (None, lowest)
        if rows >= ROWS_PER_RANGE and is_border:
            lows.append(lowest)
            rows = 0
        rows += more
        before = lowest
    if rows < ROWS_PER_RANGE and len(lows) > 1:
        lows.pop()
    ranges = [Range(low, high) for low, high in pairwise(lows)]
    return [*ranges, Range(lows[-1], last=new.mark)]


def _tiles(
    opening: Opened, column: sa.Column[Any], new: Since, number: int
) -> list[tuple[Mark, int]]:
    """Return the smallest value of each tile, in their order, and how many rows it has."""
    connection = opening.connection
    tile = sa.func.ntile(sa.literal_column(str(number))).over(order_by=column)
    where = _between(connection, column, Range(new.low, last=new.mark))
    tiles = sa.select(column.label("value"), tile.label("tile")).where(where).subquery()
    lowest = as_mark(connection, sa.func.min(tiles.c.value))
    query = sa.select(lowest, sa.func.count()).group_by(tiles.c.tile).order_by(tiles.c.tile)
    found = [(mark_of(connection, column, least), n) for least, n in connection.execute(query)]
    return [(mark, rows) for mark, rows in found if mark is not None]


def _condition(source: TableSource, opening: Opened, rows: Range | Rest) -> sa.ColumnElement[bool]:
    column = opening.table.columns[str(source.incremental)]
    if isinstance(rows, Range):
        return _between(opening.connection, column, rows)
    if rows.endless is None:
        return column.is_(None)
    value = compared(opening.connection, column)
    return sa.or_(column.is_(None), value >= bound(opening.connection, column, rows.endless))


def _between(
    connection: sa.Connection, column: sa.Column[Any], rows: Range
) -> sa.ColumnElement[bool]:
    value = compared(connection, column)
    bounds = []
    if rows.low is not None:
        bounds.append(value >= bound(connection, column, rows.low))
    if rows.high is not None:
        bounds.append(value < bound(connection, column, rows.high))
    if rows.last is not None:
        bounds.append(value <= bound(connection, column, rows.last))
    return sa.and_(*bounds)


def _remembered(config: Config, member: str | None) -> Any:
    """Return what leaves out rows of forgotten members, by `member`; None: all are kept."""
    if member is None:
        return None
    return partial(archive.kept, config, Tombstones(config), column=member)
