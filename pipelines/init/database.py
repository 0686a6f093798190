"""A table of a database as a DuckDB relation, to look at: its first rows, as text."""

import re
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipelines.init.look import Connection
from transformations.errors import InputError, RunFailedError
from transformations.quoting import identifier
from transformations.secrets import has_literal
from transformations.sources.sql_source import (
    as_text,
    chunks,
    find_table,
    open_engine,
    reason_of,
    shown_url,
)

ROWS_LOOKED_AT = 1_000_000


def written(key: str, source: str) -> str:
    """Return the URL as `activity.yaml` may hold it: no password, and SQLite's file absolute.

    Raises:
        InputError: it holds a password, which would stand in the file.
    """
    if has_literal(source):
        raise InputError(
            f"--{key}: expected the password as ${{NAME}}, the name of an environment variable, "
            "got the password itself; it would be written into activity.yaml"
        )
    file = re.match(r"(sqlite[^:]*:///)([^/$?:][^?]*)", source)
    if file is None:
        return source
    return file[1] + str(Path(file[2]).expanduser().resolve()) + source[file.end() :]


def open_table(con: Connection, key: str, url: str, table: str | None) -> tuple[str, int]:
    """Copy the first ROWS_LOOKED_AT rows of a table; return the relation and the table's rows.

    Raises:
        InputError: the URL is invalid, or there is no such table; the message names those there.
        RunFailedError: the database failed. No message holds the password.
    """
    engine = open_engine(key, url, lambda file: Path(file).expanduser().resolve())
    shown = shown_url(engine)
    relation = f"{key}_source"
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("set datestyle = 'ISO, YMD'")
            if table is None:
                there = ", ".join(sorted(sa.inspect(connection).get_table_names()))
                raise InputError(
                    f"--{key}: a database needs --{key}-table TABLE; those in {shown} are: "
                    f"{there or 'none'}"
                )
            found = find_table(connection, key, table, shown)
            rows = connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0
            columns = [as_text(column).label(column.name) for column in found.columns]
            names = [column.name for column in found.columns]
            schema = pa.schema([(name, pa.string()) for name in names])
            typed = ", ".join(f"{identifier(name)} varchar" for name in names)
            con.execute(f"create temp table {relation} ({typed})")
            for part in chunks(connection, sa.select(*columns).limit(ROWS_LOOKED_AT)):
                values = zip(*part, strict=True)
                con.register(
                    "chunk",
                    pa.table([pa.array(value, pa.string()) for value in values], schema=schema),
                )
                con.execute(f"insert into {relation} from chunk")
                con.unregister("chunk")
    except SQLAlchemyError as error:
        reason = reason_of(error)
        raise RunFailedError(f"reading {table} in {shown} failed: {reason}") from None
    finally:
        engine.dispose()
    return relation, int(rows)
