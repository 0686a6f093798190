"""An entity frame, whatever it is, resolved into labels without reading its rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
from feast.errors import EntityTimestampInferenceException

from stores.asof.frames import table_of
from stores.asof.labels import AsofLabels, scan_labels


def read_labels(
    entity_df: pd.DataFrame | str | os.PathLike[str],
    repo_path: Path,
    con: duckdb.DuckDBPyConnection,
) -> AsofLabels:
    """Resolve an entity frame without reading its rows.

    A string is a path where it ends in .parquet or names a file or folder (relative to the
    repository); else it is SQL for DuckDB, whose own relative paths also start there.

    Raises:
        EntityTimestampInferenceException: no column `event_timestamp` and not exactly one
            timestamp or date column.
        duckdb.Error: the path does not exist, or the SQL does not parse or bind.
    """
    source: pa.Table | Path | str
    if isinstance(entity_df, pd.DataFrame):
        source = table_of(entity_df, con)
    elif is_path(entity_df, repo_path):
        source = repo_path / entity_df
    else:
        source = str(entity_df)
    if isinstance(source, pa.Table):
        return labels_of(source, con)
    if isinstance(source, Path):
        read, names = scan_labels(con, source)
        described = [(name, read.kind(name)) for name in names]
    else:
        described = con.execute(f"describe {source}").fetchall()
        names = [name for name, *_ in described]
    return _labels(source, names, described)


def labels_of(table: pa.Table, con: duckdb.DuckDBPyConnection) -> AsofLabels:
    """Resolve the columns of a table as labels.

    Raises:
        As `read_labels`.
    """
    names = table.column_names
    numbered = table.rename_columns([f"column_{index}" for index in range(len(names))])
    con.register("labels_described", numbered)
    described = con.execute("describe select * from labels_described").fetchall()
    con.unregister("labels_described")
    return _labels(table, names, described)


def _labels(
    source: pa.Table | Path | str, names: Sequence[str], described: Sequence[Sequence[str]]
) -> AsofLabels:
    if len(set(names)) < len(names):
        raise ValueError(
            "expected columns of different names in the entity frame, got " + ", ".join(names)
        )
    columns = {name: kind for name, (_, kind, *_) in zip(names, described, strict=True)}
    return AsofLabels(source, columns, _timestamp(columns))


def is_path(entity_df: str | os.PathLike[str], repo_path: Path) -> bool:
    """Return whether an entity frame that is no DataFrame is a path, not a SQL text."""
    if not isinstance(entity_df, str) or entity_df.endswith(".parquet"):
        return True
    try:
        return (repo_path / entity_df).exists()
    except OSError:  # a long SQL text is not a valid file name
        return False


def _timestamp(columns: Mapping[str, str]) -> str:
    if "event_timestamp" in columns:
        kind = columns["event_timestamp"]
        if not kind.startswith(("TIMESTAMP", "DATE", "VARCHAR")):
            raise ValueError(
                f"expected timestamps or texts in the entity frame's event_timestamp, got {kind}. "
                "Convert the column: pd.to_datetime(..., unit='s', utc=True), or in SQL "
                "to_timestamp(...)"
            )
        return "event_timestamp"
    candidates = [name for name, kind in columns.items() if kind.startswith(("TIMESTAMP", "DATE"))]
    if len(candidates) != 1:
        raise EntityTimestampInferenceException("event_timestamp")
    return candidates[0]
