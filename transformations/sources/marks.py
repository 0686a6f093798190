"""Where reading a table stopped: the largest value of a column that only grows, exact and typed.

A value that ends all reading is no mark: infinity and NaN are larger than whatever comes, and a
text in SQLite is larger than each number. A table whose largest value lies before the mark was
made again or lost rows; reading on would skip what is new, so it fails.
"""

import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from transformations.errors import InputError, RunFailedError

ENDLESS = {"infinity", "nan", "inf"}
RAW = sa.types.NullType()
"""Values as the driver gives and takes them."""


@dataclass(frozen=True)
class Mark:
    """A value of the incremental column.

    Attributes:
        kind: Its type: what SQLite calls a value's (a number is a number), elsewhere the column's.
        value: It as text; of SQLite's numbers and bytes as Python writes them.
    """

    kind: str
    value: str


@dataclass(frozen=True)
class Since:
    """What a run reads of a table.

    Attributes:
        mark: Where the next run goes on; None if there is no value yet.
        where: Which rows are new; None for all.
        low: From which value on rows are new; None for all.
        endless: The smallest value that ends all reading and is therefore no mark, if there is one.
    """

    mark: Mark | None
    where: sa.ColumnElement[bool] | None = None
    low: Mark | None = None
    endless: Mark | None = None


def since(
    connection: sa.Connection, column: sa.Column[Any], mark: Mark | None, shown: str, state: object
) -> Since:
    """Return which rows of a table are new, and the mark for the next run.

    New are the rows from the mark on, itself included since later rows may share it, and those
    without a value. If the column's type is another than the mark's, all rows are read.

    Args:
        shown: The table, for messages.
        state: The file that holds the mark, for messages.

    Raises:
        InputError: SQLite holds numbers and texts in the column, so it has no order.
        RunFailedError: all values lie before the mark.
    """
    newest, endless = _newest(connection, column, shown)
    value = compared(connection, column)
    if mark is None or newest is None or mark.kind != newest.kind:
        return Since(newest or mark, endless=endless)
    least = bound(connection, column, mark)
    proper = [] if endless is None else [value < bound(connection, column, endless)]
    found = sa.select(sa.literal(1)).where(value >= least, *proper).limit(1)
    if connection.scalar(found) is None:
        raise RunFailedError(
            f"events.incremental_column: rows of {shown} were read up to {column.name} = "
            f"{mark.value}, but its largest value is now {newest.value}: the table was made again, "
            "or lost rows. Nothing was read, since what is new could not be told. To read the "
            f"whole table again (rows that are staged already count once), remove {state}"
        )
    return Since(newest, sa.or_(value >= least, column.is_(None)), mark, endless)


def _newest(
    connection: sa.Connection, column: sa.Column[Any], shown: str
) -> tuple[Mark | None, Mark | None]:
    """Return the largest value that is not endless, and the smallest that is."""
    if connection.dialect.name == "sqlite":
        _refuse_mixed(connection, column, shown)
    endless: Mark | None = None
    while True:
        largest = sa.select(as_mark(connection, sa.func.max(column)))
        if endless is not None:
            limit = bound(connection, column, endless)
            largest = largest.where(compared(connection, column) < limit)
        mark = mark_of(connection, column, connection.scalar(largest))
        is_text = mark and (mark.kind == "text" or isinstance(column.type, sa.String))
        if mark is None or is_text or mark.value.lower() not in ENDLESS:
            return mark, endless
        endless = mark


def as_mark(connection: sa.Connection, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Select a value so that `mark_of` makes a mark of it, exact: as text, in SQLite as it is."""
    if connection.dialect.name != "sqlite":
        return sa.cast(value, sa.Text)
    return sa.type_coerce(value, RAW)


def mark_of(connection: sa.Connection, column: sa.Column[Any], value: Any) -> Mark | None:
    """Return what was selected by `as_mark` as a mark; None where there was no value."""
    if value is None:
        return None
    if connection.dialect.name != "sqlite":
        return Mark(str(column.type), value)
    if isinstance(value, bytes):
        return Mark("blob", value.hex())
    return Mark("text", value) if isinstance(value, str) else Mark("number", repr(value))


def compared(connection: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a column that takes bounds as they are: SQLite's declared types say little."""
    return sa.type_coerce(column, RAW) if connection.dialect.name == "sqlite" else column


def bound(connection: sa.Connection, column: sa.Column[Any], mark: Mark) -> sa.ColumnElement[Any]:
    """Return a mark as a value that `compared` is compared with."""
    if connection.dialect.name != "sqlite":
        return sa.cast(sa.literal(mark.value, sa.Text), column.type)
    value: Any = mark.value
    if mark.kind == "number":
        value = int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    elif mark.kind == "blob":
        value = bytes.fromhex(value)
    return sa.bindparam(None, value, type_=RAW, unique=True)


def _refuse_mixed(connection: sa.Connection, column: sa.Column[Any], shown: str) -> None:
    """Refuse a column of numbers and texts: to SQLite each number is smaller than any text."""
    ends = [
        connection.execute(
            sa.select(sa.func.typeof(column), sa.cast(column, sa.Text))
            .where(column.is_not(None))
            .order_by(order)
            .limit(1)
        ).one_or_none()
        for order in (column.asc(), column.desc())
    ]
    kinds = {"number" if end[0] in ("integer", "real") else end[0] for end in ends if end}
    if len(kinds) > 1:
        (_, least), (_, most) = (tuple(end) for end in ends if end)
        raise InputError(
            f"events.incremental_column: expected values of one type in {column.name!r} of "
            f"{shown}, got {least!r} and {most!r}, a number and a text. SQLite orders each number "
            "before any text, so new rows could not be told. Correct the column, or leave "
            "incremental_column out"
        )
