"""Names and texts in SQL."""

import glob
from pathlib import Path


def quoted(text: object) -> str:
    """Return a SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def one_file(path: Path) -> str:
    """Return a path for DuckDB's readers, which take one with `[`, `*` or `?` as a pattern.

    >>> one_file(Path("data [v2]/a.parquet"))
    'data [[]v2]/a.parquet'
    """
    return glob.escape(str(path))
