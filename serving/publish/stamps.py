"""Record since when a snapshot's rows can be read online: their created_timestamp.

A row that is published again unchanged keeps its stamp: it could be read since then. So a rerun
puts the published partitions aside before it builds them again, and compares afterwards.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from models.spec import Aggregator
from operations.fits import chosen
from serving.publish.snapshots import Table, tables_beside, views
from transformations.config import Config
from transformations.duck import connect, copy
from transformations.layout import as_of_name, partition, rows_of, snapshot_files
from transformations.quoting import identifier, one_file
from transformations.seals import sealing

STAMP = "created_timestamp"


def set_aside(config: Config, as_of: datetime, aggregators: Sequence[Aggregator]) -> None:
    """Keep the published partitions of a snapshot that is about to be built again.

    What a killed rerun set aside is kept: it was published, and the partitions since were not.
    """
    folder = _aside(config, as_of)
    tables = {view: config.layout.table(view) for view in views(aggregators)}
    tables |= {table.view: table.folder for table in tables_beside(config)}
    for view, table in tables.items():
        if _kept(config, as_of, view):
            continue
        for number, file in enumerate(snapshot_files(table, as_of)):
            folder.mkdir(parents=True, exist_ok=True)
            # No copy: a partition is replaced, never changed.
            os.link(file, folder / f"{view}.{number}.parquet")


def restamp(
    config: Config,
    as_of: datetime,
    created_timestamp: datetime,
    aggregators: Sequence[Aggregator] | None = None,
    with_sequences: bool = True,
) -> int:
    """Set the created_timestamp of a snapshot's rows: since when they can be read online.

    A row that equals the one that was set aside keeps that one's. Each file is replaced in one
    step. Returns the number of rows.
    """
    aggregators = chosen(config, aggregators)
    rows = 0
    with connect(config) as con:
        for view in views(aggregators, with_sequences):
            files = snapshot_files(config.layout.table(view), as_of)
            rows += _restamp(config, con, as_of, view, files, created_timestamp, "member_id")
    with suppress(OSError):  # not there, or it holds the views of a later step
        _aside(config, as_of).rmdir()
    return rows


def restamp_tables(
    config: Config, as_of: datetime, created_timestamp: datetime, tables: Iterable[Table]
) -> int:
    """As `restamp`, of tables that stand beside those of the members."""
    with connect(config) as con:
        rows = sum(
            _restamp(config, con, as_of, view, [partition(folder, as_of)], created_timestamp, key)
            for view, key, folder in tables
        )
    with suppress(OSError):
        _aside(config, as_of).rmdir()
    return rows


def _restamp(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    view: str,
    files: Sequence[Path],
    created_timestamp: datetime,
    key: str,
) -> int:
    kept = _kept(config, as_of, view)
    for file in files:
        parameters: dict[str, object] = {"created": created_timestamp, "file": one_file(file)}
        query = STAMPED
        columns = [name for name in pq.read_schema(file).names if name != STAMP]
        if kept and {*columns, STAMP} == set(pq.read_schema(kept[0]).names):
            query = KEPT_WHERE_EQUAL.format(
                ours=_struct("new", columns), theirs=_struct("old", columns), key=identifier(key)
            )
            parameters["kept"] = [one_file(each) for each in kept]
        with sealing(file, view) as temporary:
            copy(con, query, temporary, parameters)
    for each in kept:
        each.unlink(missing_ok=True)
    return rows_of(files)


STAMPED = """
select * replace ($created::timestamptz as created_timestamp)
from read_parquet($file, hive_partitioning = false)
"""
KEPT_WHERE_EQUAL = """
select new.* replace (
    case
        when {ours} is not distinct from {theirs}
            then least(old.created_timestamp, $created::timestamptz)
        else $created::timestamptz
    end as created_timestamp
)
from read_parquet($file, hive_partitioning = false) as new
left join read_parquet($kept, hive_partitioning = false) as old on new.{key} = old.{key}
order by new.{key}
"""


def _struct(table: str, columns: Sequence[str]) -> str:
    return f"row({', '.join(f'{table}.{identifier(name)}' for name in columns)})"


def _kept(config: Config, as_of: datetime, view: str) -> list[Path]:
    """Return the files of a view that were set aside, one per bucket that it had."""
    folder = _aside(config, as_of)
    # Of a version before buckets: one file, without a number.
    old = [file for file in [folder / f"{view}.parquet"] if file.exists()]
    return old + [f for f in sorted(folder.glob("*.parquet")) if f.stem.rpartition(".")[0] == view]


def _aside(config: Config, as_of: datetime) -> Path:
    return config.layout.state / "aside" / as_of_name(as_of)
