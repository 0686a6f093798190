"""Events and items from a database: one table, in chunks, through SQLAlchemy."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError

from transformations.config import Config
from transformations.errors import InputError, RunFailedError
from transformations.ids import SPELLED, spelled
from transformations.read_so_far import mark_file
from transformations.secrets import SECRET_NAME, VARIABLE, redact, remember
from transformations.sources.files import Files
from transformations.sources.marks import Mark, Since, since

ROWS_AT_ONCE = 50_000
FILE = "table.parquet"
"""What the rows are written to, in the folder that the caller names."""
Opener = Callable[[Path, pa.Schema], pq.ParquetWriter]


def plain_writer(file: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a file that is read once and removed."""
    return pq.ParquetWriter(file, schema, compression="lz4")


@dataclass(frozen=True)
class Spooled:
    """A table's rows, written as text to Parquet.

    Attributes:
        name: The table.
        groups: One group with the file; none if the table had no new row.
        mark: The largest value of the incremental column, for the next run.
    """

    name: str
    groups: list[Files]
    mark: Mark | None


@dataclass(frozen=True)
class TableSource:
    """A table of a database, and what is read of it.

    Attributes:
        key: The configuration's section: events or items.
        url: SQLAlchemy URL; ${NAME} is read from the environment.
        table: `table` or `schema.table`.
        columns: Configuration key → column, None where none is configured.
        times: Configuration keys of the columns that hold times, and their unit.
        incremental: A column that only grows.
    """

    key: str
    url: str
    table: str
    columns: Mapping[str, str | None]
    times: Mapping[str, str]
    incremental: str | None = None

    @property
    def ids(self) -> set[str | None]:
        """The columns that hold ids."""
        return {name for key, name in self.columns.items() if key.endswith("_id")}

    @property
    def header(self) -> list[str]:
        """The columns of what is written: those of the table, then ids in their one spelling."""
        names = list(dict.fromkeys(name for name in self.columns.values() if name is not None))
        return names + [f"{name}{SPELLED}" for name in names if name in self.ids]


def spool(config: Config, source: TableSource, folder: Path, mark: Mark | None = None) -> Spooled:
    """Write the table's rows, as text, to a Parquet file in `folder`, ROWS_AT_ONCE in memory.

    Beside a column of ids stands one of the same in their one spelling (transformations/ids.py):
    each database writes numbers as text in a way of its own.

    Args:
        mark: Where the last run stopped (marks.py). None reads the whole table.

    Raises:
        InputError: the URL is invalid, or the table or a column is missing or has a wrong type.
        RunFailedError: the database failed. No message holds the password.
    """
    with opened_table(config, source) as opening:
        # Taken first, so the next run reads rows that are added meanwhile.
        new = new_rows(config, source, opening, mark)
        spooled = write_rows(source, opening, new.where, folder / FILE)
    return Spooled(source.table, [spooled] if spooled else [], new.mark)


@dataclass(frozen=True)
class Opened:
    """A table while a connection to its database is open; `shown` names both, in messages."""

    connection: sa.Connection
    table: sa.Table
    shown: str


@contextmanager
def opened_table(config: Config, source: TableSource) -> Iterator[Opened]:
    """Open a table that has the columns of its source.

    Raises:
        InputError, RunFailedError: as `spool`; also for what fails while it is open.
    """
    engine = open_engine(source.key, source.url, config.path)
    where = shown_url(engine)
    shown = f"{source.table} in {where}"
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                # The session decides how a timestamp is written as text; its zone is in the text.
                connection.exec_driver_sql("set datestyle = 'ISO, YMD'")
            table = find_table(connection, source.key, source.table, where)
            _require(source, connection, table, shown)
            yield Opened(connection, table, shown)
    except SQLAlchemyError as error:
        raise RunFailedError(f"reading {shown} failed: {reason_of(error)}") from None
    finally:
        engine.dispose()


def new_rows(config: Config, source: TableSource, opening: Opened, mark: Mark | None) -> Since:
    """Return which rows are new (marks.py): all of them where there is no incremental column."""
    if source.incremental is None:
        return Since(mark)
    column = opening.table.columns[source.incremental]
    return since(opening.connection, column, mark, opening.shown, mark_file(config))


def write_rows(
    source: TableSource,
    opening: Opened,
    where: sa.ColumnElement[bool] | None,
    file: Path,
    opened: Opener = plain_writer,
    kept: Callable[[pa.Table], pa.Table] | None = None,
) -> Files | None:
    """Write the rows where a condition holds, as `spool` says; None if there was none.

    Args:
        where: None: all rows.
        opened: Opens the file that the rows are written to.
        kept: Which rows of some are written; default: all.
    """
    # As text, so unreadable ids and times are refused as in a CSV.
    query = sa.select(*(_selected(opening.table, name) for name in source.header))
    query = query if where is None else query.where(where)
    schema = pa.schema([(name, pa.string()) for name in source.header])
    with opened(file, schema) as writer:
        rows = _write(chunks(opening.connection, query), writer, kept)
    return text_files([file], source.header) if rows else None


def text_files(files: Sequence[Path], header: Sequence[str]) -> Files:
    """Return Parquet files of texts that have the same columns, as one group."""
    return Files(tuple(files), tuple(header), dict.fromkeys(header, "VARCHAR"))


def reason_of(error: SQLAlchemyError) -> str:
    """Return the driver's message without the password. SQLAlchemy's adds the statement."""
    return redact(str(getattr(error, "orig", None) or error).strip())


def shown_url(engine: sa.Engine) -> str:
    """Return an engine's URL without passwords, wherever they stand in it."""
    return redact(engine.url.render_as_string(hide_password=True))


def chunks(connection: sa.Connection, query: sa.Executable) -> Iterator[list[sa.Row[Any]]]:
    """Yield the rows of a query, ROWS_AT_ONCE at a time, from a server-side cursor.

    (Where the driver has one: PostgreSQL does; SQLite reads its file incrementally.)
    """
    result = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
    for rows in result.partitions():
        yield list(rows)


def open_engine(key: str, source: str, path: Callable[[str], Path]) -> sa.Engine:
    """Open a source's URL, with its ${VARIABLES} from the environment.

    Args:
        key: The configuration's section, for messages.
        path: Makes a relative path of a SQLite file absolute.

    Raises:
        InputError: a variable is not set, the SQLite file is missing, or the URL is invalid.
    """
    try:
        url = read_url(f"{key}.source", source)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            file = path(url.database)
            if not file.is_file():  # SQLite would make an empty one
                raise InputError(f"{key}.source: expected a SQLite file, found none at {file}")
            url = url.set(database=str(file))
        engine = sa.create_engine(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        # Not `from error`, nor its text: both could show the password.
        raise InputError(
            f"{key}.source: expected a SQLAlchemy URL whose driver is installed, such as "
            "postgresql+psycopg://user:${PASSWORD}@host/name or sqlite:///file.db; got one that "
            f"begins with {source.split('://')[0]!r} ({type(error).__name__})"
        ) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _keep_undecodable)
    return engine


def _keep_undecodable(connection: Any, _: Any) -> None:
    """Let a text that is not UTF-8 be bytes: sqlite3 would fail the query for all rows."""

    def decoded(text: bytes) -> str | bytes:
        try:
            return text.decode()
        except UnicodeDecodeError:
            return text

    connection.text_factory = decoded


def read_url(key: str, text: str) -> sa.URL:
    """Parse a database's URL, then put in its ${VARIABLES}; remember its secrets.

    Args:
        key: The configuration's key, for messages.

    Raises:
        InputError: a variable is not set, or a password has an @ that is not quoted.
        sqlalchemy.exc.ArgumentError, ValueError: it is not a URL.
    """

    def value(variable: re.Match[str]) -> str:
        name = variable[1]
        if name not in os.environ:
            raise InputError(f"{key}: expected the environment variable {name}, it is not set")
        return os.environ[name]

    def filled(part: Any) -> Any:
        if isinstance(part, str):
            return VARIABLE.sub(value, part)
        return None if part is None else tuple(map(filled, part))

    # A whole URL in one variable, or all after ://, is as it is written; a port is a number.
    early = r"^\$\{\w+\}$|(?<=://)\$\{\w+\}$|(?<=:)\$\{\w+\}(?=[/?]|$)"
    text = re.sub(early, lambda part: filled(part[0]), text)
    url = sa.make_url(text)
    if url.password is not None and text.partition("?")[0].count("@") > 1:
        for part in text.partition("://")[2].rpartition("@")[0].partition(":")[2].split("@"):
            remember(part)
        raise InputError(
            f"{key}: expected one @ before the host of a URL; write the password as ${{NAME}}, the "
            "name of an environment variable, or its @ as %40"
        )
    query = {name: filled(values) for name, values in url.query.items()}
    for name, one in query.items():
        if SECRET_NAME.fullmatch(name):
            for each in (one,) if isinstance(one, str) else one:
                remember(each)
    password = filled(url.password)
    remember(password)
    return sa.URL.create(
        url.drivername,
        filled(url.username),
        password,
        filled(url.host),
        url.port,
        filled(url.database),
        query,
    )


def find_table(connection: sa.Connection, key: str, name: str, where: str) -> sa.Table:
    """Return a table as the database describes it.

    Raises:
        InputError: there is none of that name; the message names those there.
    """
    schema, _, plain = name.rpartition(".")
    try:
        return sa.Table(
            plain, sa.MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False
        )
    except NoSuchTableError:
        there = sa.inspect(connection).get_table_names(schema=schema or None)
        raise InputError(
            f"{key}.table: expected a table of {where}, got {name!r}; the tables there are: "
            f"{', '.join(sorted(there)) or 'none'}"
        ) from None


def _require(source: TableSource, connection: sa.Connection, table: sa.Table, shown: str) -> None:
    """Refuse a missing column, and a time column whose type contradicts its unit."""
    wanted = {**source.columns, f"{source.key}.incremental_column": source.incremental}
    for key, name in wanted.items():
        if name is not None and name not in table.columns:
            raise InputError(
                f"{key}: expected a column {name!r} in {shown}, "
                f"which has: {', '.join(table.columns.keys())}"
            )
    if connection.dialect.name == "sqlite":
        return  # its column types say little: a timestamp is text or a number
    for key, unit in source.times.items():
        column = source.columns[key]
        if column is None:
            continue
        kind = table.columns[column].type
        is_time = isinstance(kind, sa.DateTime | sa.Date)
        is_number = isinstance(kind, sa.Integer | sa.Numeric)
        if is_number if unit == "timestamp" else is_time:
            expected = "timestamps or text" if unit == "timestamp" else "integers since 1970"
            raise InputError(
                f"{key}: time_unit {unit} expects {expected} in column {column!r} of {shown}, "
                f"got {kind}"
            )


def as_text(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """Return a column as the text that a CSV would hold; an array as [0.1,0.2] or a|b."""
    if isinstance(column.type, sa.ARRAY):
        if isinstance(column.type.item_type, sa.Numeric | sa.Integer):
            return sa.cast(sa.func.array_to_json(column), sa.Text)
        return sa.func.array_to_string(column, "|")
    return sa.cast(column, sa.Text)


def _selected(table: sa.Table, name: str) -> sa.ColumnElement[Any]:
    if name.endswith(SPELLED):  # as the driver gives it, whatever type the column declares
        column = table.columns[name.removesuffix(SPELLED)]
        return sa.type_coerce(column, sa.types.NullType()).label(name)
    return as_text(table.columns[name]).label(name)


def _shown(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _write(
    batches: Iterator[list[sa.Row[Any]]],
    writer: pq.ParquetWriter,
    kept: Callable[[pa.Table], pa.Table] | None,
) -> int:
    n_rows = 0
    for rows in batches:
        values = zip(writer.schema.names, zip(*rows, strict=True), strict=True)
        arrays = [
            pa.array(map(spelled if name.endswith(SPELLED) else _shown, each), pa.string())
            for name, each in values
        ]
        table = pa.table(arrays, schema=writer.schema)
        table = table if kept is None else kept(table)
        writer.write_table(table)
        n_rows += len(table)
    return n_rows
