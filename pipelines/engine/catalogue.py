"""A table of Spark's catalogue as Parquet files, with what is new of it only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformations.errors import InputError, RunFailedError
from transformations.sources.marks import Mark

TIMES = "spark.sql.parquet.outputTimestampType"
ORDERED = {"tinyint", "smallint", "int", "bigint", "float", "double", "date", "string"}
ORDERED |= {"timestamp", "timestamp_ntz"}
"""Types of a column that a mark can be of; beside decimal(…)."""


def unload(
    session: Any,
    table: str,
    wanted: Mapping[str, str | None],
    incremental: str | None,
    mark: Mark | None,
    folder: Path,
    state: Path,
) -> Mark | None:
    """Write the new rows of a table; as `transformations.sources.catalogue.ReadsCatalogue`."""
    from pyspark.sql import functions

    frame = _found(session, table)
    _require(frame, table, {**wanted, "events.incremental_column": incremental})
    names = dict.fromkeys(name for name in wanted.values() if name is not None)
    newest = mark
    # Read twice, and only once looked up: a table of snapshots (Iceberg, Delta) gives one of them.
    new = frame
    if incremental is not None:
        where, newest = _since(frame, table, incremental, mark, state)
        new = frame if where is None else frame.where(where)
    # Spark's own default, INT96, has no type that says whether it is in UTC.
    session.conf.set(TIMES, "TIMESTAMP_MICROS")
    columns = [functions.col(_quoted(name)) for name in names]
    new.select(*columns).write.parquet(folder.absolute().as_uri())
    return newest


def _found(session: Any, table: str) -> Any:
    from pyspark.errors import AnalysisException, ParseException

    try:
        if session.catalog.tableExists(table):
            return session.table(table)
    except ParseException:
        pass  # no name of a table, so it names none
    database = table.rpartition(".")[0] or None
    try:
        there = sorted(one.name for one in session.catalog.listTables(database))
    except (AnalysisException, ParseException):
        there = []
    raise InputError(
        f"events.table: expected a table of Spark's catalogue, got {table!r}; the tables "
        f"{f'of {database}' if database else 'there'} are: {', '.join(there) or 'none'}. "
        "Catalogues are set by engine.conf (spark.sql.catalog.…)"
    ) from None


def _require(frame: Any, table: str, wanted: Mapping[str, str | None]) -> None:
    for key, name in wanted.items():
        if name is not None and name not in frame.columns:
            raise InputError(
                f"{key}: expected a column {name!r} in {table}, which has: "
                f"{', '.join(frame.columns)}"
            )


def _since(
    frame: Any, table: str, name: str, mark: Mark | None, state: Path
) -> tuple[Any, Mark | None]:
    """Return the condition of what is new, None for all, and the next mark; as marks.since."""
    from pyspark.sql import functions

    column = functions.col(_quoted(name))
    kind = frame.schema[name].dataType.simpleString()
    if kind not in ORDERED and not kind.startswith("decimal"):
        raise InputError(
            f"events.incremental_column: expected numbers, times or texts in {name!r} of {table}, "
            f"got {kind}"
        )
    proper = frame
    if kind in ("float", "double"):  # infinity and NaN, which is larger, are no marks
        proper = frame.where(column < functions.lit(float("inf")))
    largest = functions.max(column)
    if kind == "timestamp":  # as text it would be in the session's time zone
        largest = functions.unix_micros(largest)
    text = proper.select(largest.cast("string")).first()[0]
    newest = None if text is None else Mark(kind, text)
    if mark is None or newest is None or mark.kind != newest.kind:
        return None, newest or mark
    value = functions.lit(mark.value)
    if kind == "timestamp":
        least = functions.timestamp_micros(value.cast("bigint"))
    else:
        least = value.cast(kind)
    if proper.where(column >= least).isEmpty():
        raise RunFailedError(
            f"events.incremental_column: rows of {table} were read up to {name} = {mark.value}, "
            f"but its largest value is now {newest.value}: the table was made again, or lost rows. "
            "Nothing was read, since what is new could not be told. To read the whole table again "
            f"(rows that are staged already count once), remove {state}"
        )
    return (column >= least) | column.isNull(), newest


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
