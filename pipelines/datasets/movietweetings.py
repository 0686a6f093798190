"""MovieTweetings as events.parquet and items.parquet, for `activity init`."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from transformations.duck import sql
from transformations.errors import InputError
from transformations.files import replacing
from transformations.quoting import one_file, quoted


@dataclass(frozen=True)
class ImportReport:
    """What an import read and wrote."""

    events: int
    items: int
    refused: int
    folder: Path


def import_movietweetings(source: Path, destination: Path) -> ImportReport:
    """Read MovieTweetings' `ratings.dat[.gz]` and `movies.dat[.gz]` (MIT licence).

    Rating 8 and above is APPLY, 6 and 7 SAVE, 5 and below DISMISS. A film is available from its
    first rating (the data does not say when it was added); an unrated one from the last rating of
    the data. A rating outside 0 to 10 stays in the events under its own action, so the daily run
    refuses it visibly. A line with a wrong number of fields goes to `refused.txt` in the
    destination, with file and line number.

    Raises:
        InputError: a file is missing, or no line has the expected form.
    """
    ratings = _file(source, "ratings.dat", "user::movie::rating::unix seconds")
    movies = _file(source, "movies.dat", "id::title (year)::genre|genre")
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        try:
            con.execute(f"create table all_events as {_sql('events')}", {"path": one_file(ratings)})
            con.execute("create view events as select * from all_events where whole")
            con.execute(f"create table all_items as {_sql('items')}", {"path": one_file(movies)})
        except duckdb.Error as error:
            raise InputError(f"{source} could not be read as MovieTweetings: {error}") from error
        con.execute("create view items as select * from all_items where whole")
        counts = {name: _count(con, name) for name in ("events", "items")}
        for name, file in (("events", ratings), ("items", movies)):
            if counts[name] == 0:
                raise InputError(f"{file}: expected lines of fields separated by '::', found none")
        for name in counts:
            with replacing(destination / f"{name}.parquet") as path:
                con.execute(
                    f"copy (select * exclude (whole, line, line_number) from {name}) "
                    f"to {quoted(path)} (format parquet, compression zstd)"
                )
        broken = con.execute(
            "select 'ratings.dat', line_number, line from all_events where not whole union all "
            "select 'movies.dat', line_number, line from all_items where not whole order by 1, 2"
        ).fetchall()
    refused = destination / "refused.txt"
    if broken:
        refused.write_text("".join(f"{file}:{number}: {line}\n" for file, number, line in broken))
    else:
        refused.unlink(missing_ok=True)
    return ImportReport(counts["events"], counts["items"], len(broken), destination)


def _sql(table: str) -> str:
    return sql(f"movietweetings_{table}", __file__)


def _count(con: duckdb.DuckDBPyConnection, name: str) -> int:
    row = con.execute(f"select count(*) from {name}").fetchone()
    return int(row[0]) if row else 0


def _file(folder: Path, name: str, form: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InputError(f"expected {name} or {name}.gz ({form}) in {folder}, found neither")
