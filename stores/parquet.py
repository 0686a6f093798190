"""The Parquet files of a source, their columns over all files, and one query that reads them.

`Scan.sql` gives each column a name of its own (`column_0`, …), so that no column of a file ever
meets one of DuckDB's (`filename`, `file_row_number`), whatever its name and letter case. A file
that lacks a column gives null, or what the folders below the source say (`day=2026-02-01`): a
folder never overrules a file. DuckDB gets each file's name escaped, and matches nothing itself.

A column's type is the one that all files have. Where they differ, it is the declared one, else the
widest. Times are cut to the microsecond (`cut_sql`), as everywhere: rounded, a row would lie after
a label that has the row's own time.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import duckdb
import pyarrow as pa

from stores.ids import COMPARED, WIDE
from stores.objects import find_objects, is_url, let_read
from stores.quoting import literal

NANOSECONDS = {"TIMESTAMP_NS": "TIMESTAMP", "TIMESTAMPTZ_NS": "TIMESTAMP WITH TIME ZONE"}
# What nanoseconds in 64 bits hold.
FIRST_NS, LAST_NS = datetime(1677, 9, 22), datetime(2262, 4, 11)
ZONED = {"TIMESTAMPTZ_NS", "TIMESTAMP WITH TIME ZONE"}
FLOATS = {"FLOAT", "DOUBLE"}
MISSING_FOLDER = "__HIVE_DEFAULT_PARTITION__"

logger = logging.getLogger(__name__)


class Column(NamedTuple):
    """A column over all files.

    Attributes:
        read_as: The DuckDB type that every file's values take; its own where all have the same.
        kind: The type of the values that `Scan.value` gives.
    """

    read_as: str
    kind: str


@dataclass(frozen=True)
class Scan:
    """Columns of a source's files, and the SQL that reads them.

    Attributes:
        root: The source: a folder, or the folder of a file or pattern up to its first wildcard.
        columns: Name in the source → its types.
        folders: Those that some file lacks and a folder below the source gives.
    """

    root: Path
    columns: Mapping[str, Column]
    folders: tuple[str, ...] = ()

    def sql(self, files: Sequence[str]) -> str:
        """Return a relation over files: columns, `filename`, `file_index`, `file_row_number`."""
        fields = ", ".join(
            f"{literal(name)}: {{name: '{self._read(name)}', type: {literal(column.read_as)}, "
            "default_value: null}"
            for name, column in self.columns.items()
        )
        return f"read_parquet([{listed(files)}], schema = map {{{fields}}})"

    def with_folders(self, con: duckdb.DuckDBPyConnection, files: Sequence[str]) -> str:
        """Return `sql` as `read`, and what `value` needs besides."""
        read = f"{self.sql(files)} as read"
        if not self.folders:
            return read
        numbers = {file: number for number, file in enumerate(files)}
        return f"{read} inner join {self.files_sql(con, numbers)} on read.filename = file.filename"

    def kind(self, name: str) -> str:
        """Return the DuckDB type of a column's values."""
        return self.columns[name].kind

    def value(self, name: str) -> str:
        """Return SQL for a column, in a query over `read` (`sql`) and `file` (`files_sql`)."""
        read_as, kind = self.columns[name]
        value = converted_sql(f"read.{self._read(name)}", read_as, kind, name)
        if name in self.folders:
            given = cut_sql(f"file.folder_{self.folders.index(name)}", "VARCHAR", kind)
            return f"coalesce({given}, {value})"
        return value

    def bound(self, name: str, comparison: str, value: datetime) -> str:
        """Return a condition on a time column, by which DuckDB skips row groups where it can.

        Args:
            comparison: `<=` or `>=`.
            value: A naive one is UTC.
        """
        read_as, kind = self.columns[name]
        utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        text = utc.isoformat(sep=" ", timespec="microseconds")
        is_plain = NANOSECONDS.get(read_as, read_as) == kind and name not in self.folders
        if is_plain and (kind == read_as or (read_as in NANOSECONDS and FIRST_NS < utc < LAST_NS)):
            # DuckDB compares only a constant of the column's own type with a file's statistics.
            # The last nanosecond that is cut to this value; equal for the cut column.
            text += "" if kind == read_as else "999" if comparison == "<=" else "000"
            if read_as in ZONED:
                return f"read.{self._read(name)} {comparison} '{text}+00'::{read_as}"
            if read_as in ("TIMESTAMP", "TIMESTAMP_NS"):
                return f"read.{self._read(name)} {comparison} '{text}'::{read_as}"
        return f"cast({self.value(name)} as timestamptz) {comparison} timestamptz '{utc}+00'"

    def files_sql(self, con: duckdb.DuckDBPyConnection, numbers: Mapping[str, int]) -> str:
        """Return the relation `file` of (filename, number, and what each file's folders say).

        A folder says nothing of a column that its file has.
        """
        has = {
            file: {name for name, _ in columns}
            for columns, some in (_layouts(con, list(numbers)) if self.folders else ())
            for file in some
        }
        rows = []
        for file, number in numbers.items():
            row = [literal(file), f"{number}::bigint"]
            for name in self.folders:
                said = None if name in has[file] else folder_keys(self.root, file).get(name)
                row.append("null::varchar" if said is None else literal(said))
            rows.append(f"({', '.join(row)})")
        names = ["filename", "number", *(f"folder_{index}" for index in range(len(self.folders)))]
        return f"(values {', '.join(rows)}) as file({', '.join(names)})"

    def _read(self, name: str) -> str:
        return f"column_{list(self.columns).index(name)}"


def scan(
    con: duckdb.DuckDBPyConnection,
    path: str,
    files: Sequence[str],
    wanted: Mapping[str, pa.DataType | None],
) -> tuple[Scan, list[str]]:
    """Read the footers of all files; return how to read the wanted columns, and all columns' names.

    A wanted column that no file and no folder has is left out.

    Args:
        wanted: Name → the declared type, None where there is none.

    Raises:
        ValueError: a file has two columns of a wanted name but for the letter case.
        duckdb.Error: a file is not Parquet.
    """
    let_read(con, path)
    layouts = _layouts(con, files)
    kinds: dict[str, list[str]] = {}
    lacking: dict[str, list[str]] = {}
    for columns, some in layouts:
        folded: dict[str, list[str]] = {}
        for name, kind in columns:
            kinds.setdefault(name, []).append(kind)
            folded.setdefault(name.lower(), []).append(name)
        for name in wanted:
            same = folded.get(name.lower(), [])
            if len(same) > 1:
                raise ValueError(
                    f"expected one column {name!r} in {some[0]}, got {', '.join(same)}, which "
                    "differ only in letter case. Rename the others"
                )
            if same and same[0] != name:
                kinds.setdefault(name, []).extend(k for n, k in columns if n == same[0])
            if not same:
                lacking.setdefault(name, []).extend(some)
    root = source_root(path)
    found: dict[str, Column] = {}
    folders = []
    for name, declared in wanted.items():
        if any(name in folder_keys(root, file) for file in lacking.get(name, ())):
            folders.append(name)
        if name in kinds:
            found[name] = _column(con, kinds[name], declared)
        elif name in folders:
            found[name] = _column(con, ["VARCHAR"], declared)
            if declared is not None:
                found[name] = Column("VARCHAR", _duckdb_type(con, declared))
    names = list(dict.fromkeys(name for columns, _ in layouts for name, _ in columns))
    names += [name for name in folders if name not in names]
    return Scan(root, found, tuple(folders)), names


def find_files(path: str) -> list[str]:
    """Return the Parquet files at a path: a file, a folder of any depth, a pattern, or a URL.

    A folder's are those that end in .parquet, in any letter case; links are followed. What begins
    with `_` or `.` is not data. Each file is named once, in the order of the names.

    Raises:
        FileNotFoundError: there are none.
    """
    if is_url(path):
        return find_objects(path)
    if Path(path).exists():
        found = [path]
    elif glob.has_magic(path):
        found = glob.glob(path, recursive=True)  # noqa: PTH207 (a pattern may be absolute)
    else:
        raise FileNotFoundError(f"expected a Parquet file or folder at {path}, got nothing")
    files: set[str] = set()
    for one in found:
        files |= set(_below(one)) if Path(one).is_dir() else {str(Path(one))}
    if not files:
        raise FileNotFoundError(f"expected files that end in .parquet at {path}, got none")
    return sorted(files)


def _below(folder: str) -> Iterator[str]:
    seen = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        for name in [*folders, *names]:
            is_data = not name.startswith(("_", "."))
            if name in folders and not is_data:
                folders.remove(name)
            is_parquet = name.lower().endswith(".parquet")
            if name in names and is_data and is_parquet:
                yield str(Path(at, name))
            elif not is_data or name in names:
                logger.info("%s is passed over: it is not a .parquet file of data", Path(at, name))


def source_root(path: str) -> Path:
    """Return the folder whose subfolders may give columns."""
    at = Path(path)
    if at.is_dir() or is_url(path):
        return at
    while glob.has_magic(str(at)) and not at.exists():
        at = at.parent
    return at if at.is_dir() else at.parent


def folder_keys(root: Path, file: str) -> dict[str, str | None]:
    """Return what the folders between the source and a file say.

    >>> folder_keys(Path("/a=1/views"), "/a=1/views/day=2026-02-01/part.parquet")
    {'day': '2026-02-01'}
    """
    parts = Path(os.path.relpath(file, root)).parent.parts
    pairs = [part.partition("=") for part in parts if "=" in part]
    return {
        unquote(key): None if value == MISSING_FOLDER else unquote(value) for key, _, value in pairs
    }


def listed(files: Sequence[str]) -> str:
    """Write file names as the items of a SQL list, escaped, since DuckDB takes them as patterns."""
    return ", ".join(literal(glob.escape(file)) for file in files)


def rows_per_file(con: duckdb.DuckDBPyConnection, files: Sequence[str]) -> dict[str, int]:
    """Return the number of rows of each file, in the order given."""
    counted = con.execute(
        f"select file_name, num_rows from parquet_file_metadata([{listed(files)}])"
    ).fetchall()
    rows = dict(counted)
    return {file: rows[file] for file in files}


def cut_sql(value: str, kind: str, wanted: str) -> str:
    """Return SQL that makes a value of type `kind` one of type `wanted`; times are cut.

    >>> cut_sql("t", "BIGINT", "BIGINT"), cut_sql("t", "DATE", "TIMESTAMP")
    ('t', 'cast(t as TIMESTAMP)')
    """
    if kind in NANOSECONDS and wanted in NANOSECONDS.values():
        made = "make_timestamptz" if wanted.endswith("ZONE") else "make_timestamp"
        # Integer division rounds towards zero: up, before 1970.
        return f"{made}((epoch_ns({value}) - (epoch_ns({value}) % 1000 + 1000) % 1000) // 1000)"
    if kind.endswith("[]") and wanted.endswith("[]") and kind != wanted:
        return f"list_transform({value}, lambda v: {cut_sql('v', kind[:-2], wanted[:-2])})"
    return value if kind == wanted else f"cast({value} as {wanted})"


def converted_sql(value: str, kind: str, wanted: str, name: str) -> str:
    """As `cut_sql`; a number with a fraction in a column of integers is an error that names it."""
    if kind.endswith("[]") and wanted.endswith("[]") and kind != wanted:
        inner = converted_sql("v", kind[:-2], wanted[:-2], name)
        return f"list_transform({value}, lambda v: {inner})"
    if kind != "VARCHAR" or wanted not in COMPARED | WIDE:
        return cut_sql(value, kind, wanted)
    # Of integers and floats together (`_column`): neither loses a digit as text.
    refused = literal(f"expected whole numbers in column {name}, as its view declares; got ")
    return (
        f"case when regexp_full_match({value}, '-?[0-9]+([.]0+)?') "
        f"then cast(split_part({value}, '.', 1) as {wanted}) "
        f"when lower({value}) = 'nan' then null "
        f"when try_cast({value} as double) = trunc(try_cast({value} as double)) "
        f"then cast(cast({value} as double) as {wanted}) "
        f"when {value} is not null then error({refused} || {value}) end"
    )


def _layouts(
    con: duckdb.DuckDBPyConnection, files: Sequence[str]
) -> list[tuple[list[tuple[str, str]], list[str]]]:
    """Return each different list of columns (name, DuckDB type), and the files that have it."""
    rows = con.execute(
        "select footer, list(file_name order by file_name) from ("
        "select file_name, list([name, coalesce(num_children, 0)::varchar, duckdb_type] "
        f"order by column_id) as footer from parquet_schema([{listed(files)}]) "
        "group by file_name) group by footer order by min(file_name)"
    ).fetchall()
    return [(_top_level(footer), some) for footer, some in rows]


def _top_level(footer: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Return the columns of a footer, which lists its tree of fields depth first."""
    columns = []
    at = 1  # after the root
    while at < len(footer):
        name, _, kind = footer[at]
        columns.append((name, kind))
        open_fields = 1
        while open_fields:
            open_fields += int(footer[at][1]) - 1
            at += 1
    return columns


def _column(
    con: duckdb.DuckDBPyConnection, kinds: Sequence[str], declared: pa.DataType | None
) -> Column:
    known = [kind for kind in dict.fromkeys(kinds) if kind != '"NULL"']
    if len(known) == 1:
        return Column(known[0], _cut_kind(known[0]))
    wanted = None if declared is None else _duckdb_type(con, declared)
    if not known:
        return Column(wanted or "INTEGER", wanted or "INTEGER")
    times = [kind.rstrip("[]") for kind in known]
    if all(time.startswith(("TIMESTAMP", "DATE")) for time in times):
        # As text, no digit is lost before it is cut, and no year is out of range.
        zone = any(time in ZONED for time in times)
        depth = "[]" * known[0].count("[]")
        plain = "TIMESTAMP WITH TIME ZONE" if zone else "TIMESTAMP"
        return Column("VARCHAR" + depth, plain + depth)
    if wanted is None:
        union = " union all ".join(f"select null::{kind} as x" for kind in known)
        [(_, widest, *_)] = con.execute(f"describe {union}").fetchall()
        return Column(widest, widest)
    depth = "[]" * wanted.count("[]")
    if wanted.rstrip("[]") in COMPARED | WIDE and FLOATS & {kind.rstrip("[]") for kind in known}:
        return Column("VARCHAR" + depth, wanted)
    return Column(wanted, wanted)


def _cut_kind(kind: str) -> str:
    item = kind.rstrip("[]")
    return NANOSECONDS.get(item, item) + kind[len(item) :]


def _duckdb_type(con: duckdb.DuckDBPyConnection, kind: pa.DataType) -> str:
    con.register("declared", pa.table({"declared": pa.array([], kind)}))
    [(_, found, *_)] = con.execute("describe select * from declared").fetchall()
    con.unregister("declared")
    return str(found)
