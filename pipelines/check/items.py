"""The values of the items source that no item can be made of."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from transformations.config import Config
from transformations.ids import id_column
from transformations.quoting import identifier
from transformations.readers import (
    blank,
    id_expression,
    timestamp_expression,
    vector_expression,
)
from transformations.sources import sql_source
from transformations.sources.files import Files, find, group

Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True)
class Bad:
    """What one reason refuses, blank values apart.

    Attributes:
        rows: How many.
        samples: Some distinct values, sorted.
        lengths: Of vectors: the lengths that occur.
    """

    rows: int = 0
    samples: tuple[str, ...] = ()
    lengths: frozenset[int] = frozenset()


def bad_values(config: Config, con: Connection, samples: int) -> dict[str, Bad]:
    """Return reason → the values that are refused for it."""
    found: dict[str, Bad] = {}
    with TemporaryDirectory() as folder:
        for files in _groups(config, con, Path(folder)):
            for reason, (column, typed, length) in _expressions(config, files).items():
                raw = identifier(column)
                is_bad = f"not ({blank(column, files.columns[column])}) and not ({typed})"
                row = con.execute(
                    f"select count(*), list(distinct left({raw}::varchar, 60)), "
                    f"list(distinct {length}) from "
                    f"(from ({files.query}) where coalesce({is_bad}, true))"
                ).fetchone()
                for name in ("malformed_lines", "malformed_scans"):
                    con.execute(f"drop table if exists {name}")
                n_rows, values, lengths = row or (0, None, None)
                if n_rows:
                    before = found.get(reason, Bad())
                    found[reason] = Bad(
                        before.rows + n_rows,
                        tuple(sorted({*before.samples, *values})[:samples]),
                        before.lengths | {*(lengths or [])},
                    )
    return found


def _groups(config: Config, con: Connection, folder: Path) -> list[Files]:
    items = config.items
    wanted = {
        "items.item_id": items.item_id,
        **{f"items.embedding.{number}": name for number, name in enumerate(items.embedding)},
        "items.available_at": items.available_at,
        "items.available_until": items.available_until,
    }
    if not items.is_sql:
        source = config.source("items.source", items.source)
        return group(con, find("items.source", source), wanted, source, folder)
    table = sql_source.TableSource("items", items.source, items.table or "", wanted, {})
    return sql_source.spool(config, table, folder).groups


def _expressions(config: Config, files: Files) -> dict[str, tuple[str, str, str]]:
    """Return reason → the column, SQL of whether a value is usable, SQL of a vector's length."""
    items, kinds = config.items, files.columns
    typed = id_expression(
        "items.item_id",
        id_column(items.item_id, kinds),
        kinds[items.item_id],
        config.item_id_type,
    )
    found = {
        "item_id is not of the id type": (items.item_id, f"({typed}) is not null", "null::bigint")
    }
    times = {
        "available_at is null or cannot be read": items.available_at,
        "available_until cannot be read": items.available_until,
    }
    for reason, name in times.items():
        if name is not None:
            typed = timestamp_expression("items", name, kinds[name], "timestamp")
            found[reason] = name, f"({typed}) is not null", "null::bigint"
    if not items.has_text:  # else a row is kept for its text
        name = items.embedding[0]
        vector = vector_expression("items.embedding.0", name, kinds[name])
        reason = "embedding is no list of dim finite numbers"
        found[reason] = name, f"len({vector}) = {config.dim}", f"len({vector})"
    return found
