"""What a source holds: its columns, their values, and how densely members act."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from transformations import clock
from transformations.duck import count, sql
from transformations.quoting import identifier, quoted
from transformations.readers import id_expression, timestamp_expression, vector_expression
from transformations.rules import IdType
from transformations.sources.files import find, group

Connection = duckdb.DuckDBPyConnection
VECTORS_LOOKED_AT = 10_000
WINDOWS = tuple(timedelta(days=days) for days in (28, 90, 365, 730))
"""The windows to choose from; sql/reach.sql counts within each."""
NEEDED = 4
"""How many earlier actions a sequence needs to say something."""


@dataclass(frozen=True)
class Column:
    """What the values of one column look like; counts are of values that are neither null nor ''.

    Attributes:
        kind: DuckDB's type in the source.
        whole: How many are whole numbers inside int64, written without leading zeros.
        middle: The median of those.
        times: How many are timestamps, or text that reads as one.
        zoned: How many of those carry a time zone.
        characters: Characters per value.
        words: Words per value.
        joined: Share of the values that hold a |.
        dim: The length of the lists of numbers, where all have the same.
    """

    name: str
    kind: str
    given: int = 0
    distinct: int = 0
    whole: int = 0
    middle: int | None = None
    times: int = 0
    zoned: int = 0
    characters: float = 0.0
    words: float = 0.0
    joined: float = 0.0
    example: str | None = None
    dim: int | None = None

    @property
    def is_list(self) -> bool:
        """Whether each value is a list."""
        return self.kind.endswith("]")

    @property
    def is_text(self) -> bool:
        """Whether the source holds text."""
        return self.kind in ("VARCHAR", "UUID") or self.kind.startswith("ENUM")

    @property
    def is_float(self) -> bool:
        """Whether the source holds floats, which may be whole numbers with nulls between them."""
        return self.kind in ("DOUBLE", "FLOAT")

    @property
    def is_time(self) -> bool:
        """Whether the source holds timestamps, or nearly only text that reads as one."""
        return self.given > 0 and self.times >= 0.9 * self.given

    @property
    def may_be_id(self) -> bool:
        """Whether the values could name a member or an item: whole numbers, or text of one word."""
        if not self.given or self.is_list or self.is_time:
            return False
        return self.whole == self.given or (self.is_text and self.words < 1.5)


@dataclass(frozen=True)
class Source:
    """What was seen of a source.

    Attributes:
        written: As `activity.yaml` names it: an absolute path or a URL.
        name: As messages name it.
        table: The table, of a database.
        relation: The DuckDB relation that holds its rows, as long as the connection is open.
        rows: How many rows were looked at.
        rows_there: How many it has.
    """

    written: str
    name: str
    table: str | None
    relation: str
    rows: int
    rows_there: int
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def names(self) -> str:
        """The columns' names, for a message."""
        return ", ".join(column.name for column in self.columns)


@dataclass(frozen=True)
class Reach:
    """How densely members act.

    Attributes:
        actions: How many distinct actions there are, positive or negative.
        first, last: When the first and the last of them happened; None where there are none.
        positive: How many of them are positive.
        within: Per window of WINDOWS, how many of the positive ones have NEEDED earlier actions
            of their member in it.
    """

    actions: int
    first: datetime | None
    last: datetime | None
    positive: int
    within: tuple[int, ...]


@contextmanager
def looking() -> Iterator[Connection]:
    """Open a DuckDB in memory; what does not fit spills to a folder that is removed at the end."""
    with TemporaryDirectory() as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": "2GB",
            "temp_directory": folder,
        }
        with duckdb.connect(config=settings) as con:
            con.execute("set TimeZone = 'UTC'")
            con.execute("set enable_progress_bar = false")
            yield con


def open_files(con: Connection, key: str, path: Path) -> str:
    """Make a relation of Parquet or CSV files, read as a run reads them; return its name.

    Raises:
        InputError: there are no files, or one cannot be read.
    """
    relation = f"{key}_source"
    parts: list[str] = []
    with TemporaryDirectory() as folder:
        for files in group(con, find(f"--{key}", path), {}, path, Path(folder)):
            part = f"{relation}_{len(parts)}"
            kind = "view" if files.layout is None else "table"
            con.execute(
                f"create temp {kind} {part} as "
                f"select * exclude ({identifier(files.file_column)}) from ({files.query})"
            )
            con.execute("drop table if exists malformed_lines")
            con.execute("drop table if exists malformed_scans")
            parts.append(f"from {part}")
    con.execute(f"create temp view {relation} as {' union all by name '.join(parts)}")
    return relation


def profile(con: Connection, relation: str) -> tuple[int, tuple[Column, ...]]:
    """Return how many rows a relation has, and what its columns hold."""
    described = con.execute(f"describe {relation}").fetchall()
    columns = tuple(_column(con, relation, name, kind) for name, kind, *_ in described)
    return count(con, f"select count(*) from {relation}"), columns


def _column(con: Connection, relation: str, name: str, kind: str) -> Column:
    column = Column(name, kind)
    if not column.is_list:
        con.execute(
            f"create or replace temp view column_values as "
            f"select {identifier(name)}::varchar as value from {relation}"
        )
        row = con.execute(sql("column", __file__)).fetchone()
        column = Column(name, kind, *(row or ()))
    if column.is_list or (column.is_text and (column.example or "").startswith("[")):
        given, dim = _lists(con, relation, column)
        column = Column(name, kind, given, example=column.example, dim=dim)
    return column


def _lists(con: Connection, relation: str, column: Column) -> tuple[int, int | None]:
    """Return how many values are given, and the length of the lists if all are numbers of one."""
    name = identifier(column.name)
    vector = vector_expression(column.name, column.name, column.kind)
    row = con.execute(
        f"select count(*), count(vector), min(len(vector)), max(len(vector)) from "
        f"(select {vector} as vector from {relation} where {name} is not null "
        f"limit {VECTORS_LOOKED_AT})"
    ).fetchone()
    given, usable, shortest, longest = row or (0, 0, None, None)
    return given, shortest if given and usable == given and shortest == longest else None


def actions_of(con: Connection, source: Source, column: str) -> dict[str, int]:
    """Return how many rows each action has, the most frequent first; '' where it is missing."""
    return dict(
        con.execute(
            f"select coalesce({identifier(column)}::varchar, '') as action, count(*) as n_rows "
            f"from {source.relation} group by all order by 2 desc, 1"
        ).fetchall()
    )


def overlaps(con: Connection, events: Source, items: Source) -> dict[tuple[str, str], float]:
    """Return (events column, items column) → the share of its distinct values that are there."""
    for view, source in (("event_values", events), ("item_values", items)):
        parts = [
            f"select distinct {quoted(column.name)} as column_name, "
            f"regexp_replace(trim({identifier(column.name)}::varchar), '^(\\d+)\\.0*$', '\\1') "
            f"as value from {source.relation} where {identifier(column.name)} is not null"
            for column in source.columns
            if column.may_be_id
        ]
        nothing = "select '' as column_name, '' as value where false"
        con.execute(f"create or replace temp view {view} as {' union all '.join(parts) or nothing}")
    rows = con.execute(sql("overlaps", __file__)).fetchall()
    return {(event, item): share for event, item, share in rows}


def reach(
    con: Connection,
    events: Source,
    columns: dict[str, str],
    id_types: tuple[IdType, IdType],
    time_unit: str,
    positive: list[str],
    negative: list[str],
) -> Reach:
    """Count how many positive actions have earlier ones of their member, as a run reads them.

    Args:
        columns: member_id, item_id, action and event_timestamp → their names in the source.
        id_types: Of member and item.
    """
    kinds = {column.name: column.kind for column in events.columns}
    member, item, at = (columns[key] for key in ("member_id", "item_id", "event_timestamp"))
    con.execute(
        f"create or replace temp view actions as select "
        f"{id_expression('--member', member, kinds[member], id_types[0])} as member_id, "
        f"{id_expression('--item', item, kinds[item], id_types[1])} as item_id, "
        f"{identifier(columns['action'])}::varchar as action, "
        f"{timestamp_expression('--timestamp', at, kinds[at], time_unit)} as event_timestamp "
        f"from {events.relation}"
    )
    return count_reach(con, positive, negative, clock.now())


def count_reach(con: Connection, positive: list[str], negative: list[str], now: datetime) -> Reach:
    """Count on the relation `actions`: member_id, item_id, action, event_timestamp."""
    row = con.execute(
        sql("reach", __file__),
        {"positive": positive, "actions": positive + negative, "now": now, "needed": NEEDED},
    ).fetchone()
    n_actions, first, last, n_positive, *within = row or (0, None, None, 0)
    return Reach(n_actions, first, last, n_positive, tuple(within))
