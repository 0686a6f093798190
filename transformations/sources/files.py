"""Which files a source has, and Parquet and CSV files as DuckDB queries."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote
from uuid import uuid4

import duckdb
import pyarrow.parquet as pq

from transformations.config import Config
from transformations.errors import InputError
from transformations.places import cannot_list, is_object, let_read
from transformations.quoting import identifier, one_file, quoted
from transformations.sources import csv_files

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst")
MISSING_FOLDER = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Files:
    """Files with the same columns and layout, which one query reads.

    Attributes:
        files: Their names.
        header: Their columns in order, as they are called; `""` for one without a name.
        columns: Name → DuckDB type of the columns that `query` gives.
        layout: Of CSV.
        folders: Columns that no file has, and what the folders of each file say.
        read_from: File → the copy that is read in its stead.
    """

    files: tuple[Path, ...]
    header: tuple[str, ...]
    columns: dict[str, str]
    layout: csv_files.Layout | None = None
    folders: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    read_from: Mapping[Path, Path] = field(default_factory=dict)

    @property
    def file_column(self) -> str:
        """The column of `query` with the name of a row's file."""
        name = "__source_file"
        while name in map(str.lower, self.columns):
            name += "_"
        return name

    @property
    def query(self) -> str:
        """Rows with the columns of the files, and `file_column`.

        Columns are bound by position, so no name of the files meets one of DuckDB's. Lines that are
        not valid CSV go to the temporary tables `malformed_lines` and `malformed_scans`.
        """
        names = [f"column_{index}" for index in range(len(self.header))]
        paths = ", ".join(quoted(one_file(self._path(file))) for file in self.files)
        if self.layout is None:
            read = f"read_parquet([{paths}], hive_partitioning = false) as read({', '.join(names)})"
        else:
            kinds = ", ".join(f"{name}: 'varchar'" for name in names)
            read = (
                f"read_csv([{paths}], filename = 'filename', header = true, auto_detect = false, "
                f"skip = {self.layout.before}, delim = {quoted(self.layout.delimiter)}, "
                f"quote = '\"', escape = '\"', compression = {quoted(self._compression)}, "
                f"columns = {{{kinds}}}, hive_partitioning = false, store_rejects = true, "
                "rejects_table = 'malformed_lines', rejects_scan = 'malformed_scans') as read"
            )
        selected = [
            f"read.column_{self.header.index(name)} as {identifier(name)}"
            if name in self.header
            else f"file.folder_{list(self.folders).index(name)} as {identifier(name)}"
            for name in self.columns
        ]
        if not (self.folders or self.read_from):
            selected.append(f"read.filename as {identifier(self.file_column)}")
            return f"select {', '.join(selected)} from {read}"
        selected.append(f"file.name as {identifier(self.file_column)}")
        return (
            f"select {', '.join(selected)} from {read} "
            f"inner join {self.names} on read.filename = file.path"
        )

    @property
    def names(self) -> str:
        """The relation `file`: path as it is read, the file's own name, what its folders say."""
        rows = []
        for index, file in enumerate(self.files):
            said = [values[index] for values in self.folders.values()]
            row = [quoted(self._path(file)), quoted(file)]
            row += ["null::varchar" if value is None else quoted(value) for value in said]
            rows.append(f"({', '.join(row)})")
        columns = ["path", "name", *(f"folder_{index}" for index in range(len(self.folders)))]
        return f"(values {', '.join(rows)}) as file({', '.join(columns)})"

    @property
    def _compression(self) -> str:
        return "none" if self.read_from or self.layout is None else self.layout.compression

    def _path(self, file: Path) -> Path:
        return self.read_from.get(file, file)

    def some(self, chosen: Sequence[int]) -> "Files":
        """Return those of the files that have these indices."""
        files = tuple(self.files[index] for index in chosen)
        return replace(
            self,
            files=files,
            folders={
                name: tuple(of[index] for index in chosen) for name, of in self.folders.items()
            },
            read_from={file: self.read_from[file] for file in files if file in self.read_from},
        )

    def require(self, wanted: Mapping[str, str | None], where: Path) -> None:
        """Raise InputError where a column is missing; `wanted` maps configuration keys to names."""
        for key, name in wanted.items():
            if name is None:
                continue
            if name not in self.columns:
                raise InputError(
                    f"{key}: expected a column {name!r} in {where}, "
                    f"which has: {', '.join(filter(None, self.header))}"
                )
            if self.header.count(name) > 1:
                raise InputError(
                    f"{key}: expected one column {name!r} in {where}, got the header "
                    f"{','.join(self.header)!r}"
                )


@dataclass(frozen=True)
class Found:
    """The files of a source, in the order of their names, and what was passed over, with why."""

    files: list[Path]
    passed_over: dict[Path, str]


def look_for(source: Path) -> Found:
    """Return the files at `source`, a file or a folder of any depth; links are followed.

    In an object store, a folder is what the names of objects have before a `/`.
    """
    if source.is_file():
        return Found([source], {}) if _ends_well(source) else Found([], {source: _ENDS})
    files: list[Path] = []
    passed_over: dict[Path, str] = {}
    for path, why in _objects(source) if is_object(source) else _walk(source):
        if why is None:
            files.append(path)
        else:
            passed_over[path] = why
    return Found(sorted(files), dict(sorted(passed_over.items())))


def find(key: str, source: Path) -> list[Path]:
    """Return the files at `source`, as `look_for` does.

    Raises:
        InputError: there are none; the message names `key`, a key of the configuration.
    """
    try:
        is_there, found = source.exists(), look_for(source)
    except Exception as error:  # each store has errors of its own
        if is_object(source):
            raise cannot_list(key, source, error) from error
        raise
    if not is_there:
        raise InputError(f"{key}: expected a file or a folder, found nothing at {source}")
    if not found.files:
        raise InputError(
            f"{key}: expected files that end in {', '.join(SUFFIXES)} at {source}"
            + "".join(f"; {said}" for said in _reasons(source, found.passed_over))
        )
    return found.files


def say_passed_over(config: Config, sections: Sequence[str] = ("events", "items")) -> list[str]:
    """Return one sentence per section of the configuration and reason, with a few of its files."""
    said = []
    for section in sections:
        settings = getattr(config, section)
        source = config.source(f"{section}.source", settings.source)
        if not settings.is_sql and source.is_dir():
            found = _reasons(source, look_for(source).passed_over)
            said += [f"{section}.source: {reason}" for reason in found]
    return said


def _reasons(source: Path, passed_over: Mapping[Path, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for path, why in passed_over.items():
        shown = path.name if path == source else str(path.relative_to(source))
        reasons.setdefault(why, []).append(shown)
    return [
        f"passed over, because {why}: {', '.join(paths[:3])}"
        + (f" and {len(paths) - 3:,} more" if len(paths) > 3 else "")
        for why, paths in reasons.items()
    ]


def _objects(source: Path) -> Iterator[tuple[Path, str | None]]:
    for path in source.rglob("*"):
        if path.is_dir():
            continue
        below = path.relative_to(source).parts
        if any(name.startswith((".", "_")) for name in below):
            yield path, "the name begins with . or _"
        elif not _ends_well(path):
            yield path, _ENDS
        else:
            yield path, None if path.stat().st_size else "the file is empty"


_ENDS = "the name has another end than " + ", ".join(SUFFIXES)


def _ends_well(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _walk(source: Path) -> Iterator[tuple[Path, str | None]]:
    seen: set[str] = set()
    for at, folders, names in os.walk(source, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            yield Path(at), "the link leads to a folder that is read already"
            continue
        seen.add(real)
        each = [(name, False) for name in folders] + [(name, True) for name in names]
        for name, is_file in each:
            path = Path(at, name)
            if name.startswith((".", "_")):
                yield path, "the name begins with . or _"
            elif not path.exists():
                yield path, "the link leads nowhere"
            elif is_file and not _ends_well(path):
                yield path, _ENDS
            elif is_file:
                yield path, None if path.stat().st_size else "the file is empty"
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))


def group(
    con: duckdb.DuckDBPyConnection,
    files: list[Path],
    wanted: Mapping[str, str | None],
    source: Path,
    folder: Path,
) -> list[Files]:
    """Group files by their columns; one query reads a group.

    Args:
        wanted: Configuration key → column name; None for a column that is not configured. Only
            these are read; all, if there are none.
        source: What the files were found in; only folders below it may give columns.
        folder: For copies of files that cannot be read as they are.

    Raises:
        InputError: a file cannot be read, or lacks a wanted column.
    """
    return together([describe(con, file, wanted, source, folder) for file in files])


def describe(
    con: duckdb.DuckDBPyConnection,
    file: Path,
    wanted: Mapping[str, str | None],
    source: Path,
    folder: Path,
) -> Files:
    """Look at one file, as `group` does at several."""
    let_read(con, file)
    one = _describe(con, file, [name for name in wanted.values() if name is not None], source)
    one.require(wanted, file)
    if one.layout is not None and csv_files.has_mixed_line_ends(file):
        copy = folder / f"lines-{uuid4().hex}.csv"
        csv_files.with_one_line_end(file, one.layout, copy)
        return replace(one, read_from={file: copy})
    return one


def together(each: Iterable[Files]) -> list[Files]:
    """Put files with the same columns and layout together."""
    groups: dict[tuple[object, ...], list[Files]] = {}
    for one in each:
        key = (one.layout, one.header, *one.columns.items(), *one.folders, bool(one.read_from))
        groups.setdefault(key, []).append(one)
    return [_together(same) for same in groups.values()]


def _together(same: list[Files]) -> Files:
    first = same[0]
    return Files(
        tuple(one.files[0] for one in same),
        first.header,
        first.columns,
        first.layout,
        {name: tuple(one.folders[name][0] for one in same) for name in first.folders},
        {file: copy for one in same for file, copy in one.read_from.items()},
    )


def _describe(con: duckdb.DuckDBPyConnection, file: Path, wanted: list[str], source: Path) -> Files:
    layout = None
    if file.name.lower().endswith(".parquet"):
        try:
            with file.open("rb") as opened:
                header = tuple(pq.read_schema(opened).names)
            rows = con.execute(
                f"describe select * from read_parquet({quoted(one_file(file))}, "
                "hive_partitioning = false)"
            ).fetchall()
        except (duckdb.Error, OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read as Parquet: {error}") from error
        kinds = [kind for _, kind, *_ in rows]
    else:
        layout, header = csv_files.header(file, {*wanted})
        kinds = ["VARCHAR"] * len(header)
    folders = {
        name: (value,) for name, value in _folder_keys(source, file).items() if name not in header
    }
    given = dict(zip(header, kinds, strict=True)) | dict.fromkeys(folders, "VARCHAR")
    columns: dict[str, str] = {}
    for name in wanted or given:
        is_taken = name.lower() in map(str.lower, columns) and name not in columns
        if is_taken and wanted:
            raise InputError(
                f"{file}: expected columns whose names differ in more than letter case, got "
                f"{name!r} and another; rename one of them"
            )
        if name in given and name != "" and not is_taken:
            columns[name] = given[name]
    used = {name: value for name, value in folders.items() if name in columns}
    return Files((file,), header, columns, layout, used)


def _folder_keys(source: Path, file: Path) -> dict[str, str | None]:
    """Return what the folders below the source say: `day=2026-02-01` of a file in it.

    >>> _folder_keys(Path("/a=1/events"), Path("/a=1/events/day=2026-02-01/part.parquet"))
    {'day': '2026-02-01'}
    """
    if file == source or not file.is_relative_to(source):
        return {}
    pairs = [part.partition("=") for part in file.relative_to(source).parent.parts if "=" in part]
    return {
        unquote(key): None if value == MISSING_FOLDER else unquote(value) for key, _, value in pairs
    }
