"""Takes members out of the files below a data folder: every Parquet file with a `member_id`.

A file is written again beside its place, by the library that wrote it first, and renamed. It keeps
its time of change: what is left in it is what was there. The user's sources are not touched.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import connect, copy, count, parquet
from transformations.files import locked, replacing
from transformations.seals import made_by, seal
from transformations.tombstones import Id, values_of

MEMBER = "member_id"


@dataclass
class Forgotten:
    """What was removed, and what could not be.

    Attributes:
        rows: Where → how many rows.
        left: Sentences: what may still hold the members, why, and what to do.
    """

    rows: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def add(self, where: str, rows: int) -> None:
        """Count rows that were removed."""
        if rows:
            self.rows[where] = self.rows.get(where, 0) + rows


def forget_files(
    config: Config,
    members: Sequence[Id],
    into: Forgotten,
    files: Sequence[Path] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Take members out of the Parquet files of a data folder.

    Args:
        members: Ids of the configured type.
        files: Only of these; default: all but those of the sources and the archive.
        advance: Is told of each file.
    """
    with connect(config) as con:
        ids = pa.int64() if config.member_id_type == "int64" else pa.string()
        con.register("leaving", pa.table({MEMBER: pa.array(list(dict.fromkeys(members)), ids)}))
        # Whoever was writing there as the tombstones were written has ended when this lock is free.
        for shared in _written_by_services(config):
            with locked(shared):
                pass
        for file in member_files(config) if files is None else files:
            _forget_in(config, con, file, members, into)
            advance(1)


def member_files(config: Config) -> list[Path]:
    """Return the Parquet files below the data folder, but those of the sources and the archive."""
    sources = [*sources_inside(config), config.layout.archive]
    return [
        file
        for file in sorted(config.data.rglob("*.parquet"))
        if not any(file.is_relative_to(source) for source in sources)
    ]


def sources_inside(config: Config) -> list[Path]:
    """Return the sources that lie below the data folder: the user's, and what was simulated."""
    given = (config.events, config.items, config.members)
    sources = [config.path(one.source) for one in given if one.source and "://" not in one.source]
    inside = [source for source in sources if source.is_relative_to(config.data)]
    return [*inside, config.layout.simulated]


def _forget_in(
    config: Config, con: Connection, file: Path, members: Sequence[Id], into: Forgotten
) -> None:
    table = _table_of(config, file)
    try:
        opened = pq.ParquetFile(file)
    except FileNotFoundError:
        return  # a worker or a service has just replaced it
    except (pa.ArrowInvalid, OSError) as error:
        if config.layout.state / "damaged" in file.parents:
            file.unlink()
            into.add(f"{table} (damaged files)", 1)
        else:
            into.left.append(
                f"{file} cannot be read ({error}): activity rebuild --damaged, then forget again"
            )
        return
    with opened:
        schema, writer = opened.schema_arrow, opened.metadata.created_by or ""
    if MEMBER not in schema.names:
        return
    shared = [each for each in _written_by_services(config) if each in file.parents]
    with locked(shared[0]) if shared else nullcontext():
        is_theirs = _is_theirs(config, con, file, schema, members)
        rows = count(con, f"select count(*) from {parquet([file])} where {is_theirs}")
        if not rows:
            return
        found, by = file.stat(), made_by(file)
        with replacing(file) as temporary:
            if writer.startswith("DuckDB"):
                kept = f"select * from {parquet([file])} where not ({is_theirs})"
                copy(con, kept, temporary)
            else:
                _copy_rest(file, temporary, members)
            os.utime(temporary, ns=(found.st_atime_ns, found.st_mtime_ns))
            if by is not None:
                seal(file, by, temporary)
    into.add(table, rows)


def _is_theirs(
    config: Config, con: Connection, file: Path, schema: pa.Schema, members: Sequence[Id]
) -> str:
    """Return SQL of whether a row is of one of the members `leaving`; never null.

    Quarantine holds ids as texts, as the source spelled them, and lines that are no CSV.
    """
    own = MEMBER
    if config.member_id_type == "int64" and not pa.types.is_integer(schema.field(MEMBER).type):
        own = f"try_cast(trim({MEMBER}) as bigint)"
    is_theirs = f"coalesce({own} in (select {MEMBER} from leaving), false)"
    if "line" in schema.names:
        lines = con.execute(
            f"select distinct line from {parquet([file])} where line is not null"
        ).fetchall()
        texts = {str(member) for member in members}
        theirs = [line for (line,) in lines if not texts.isdisjoint(values_of(line))]
        con.register("lines_leaving", pa.table({"line": pa.array(theirs, pa.string())}))
        is_theirs += " or coalesce(line in (select line from lines_leaving), false)"
    return is_theirs


def _written_by_services(config: Config) -> list[Path]:
    """Return the tables that services write, which exist; they hold these folders' locks."""
    folders = (config.layout.impressions, config.layout.logged_features)
    return [folder for folder in folders if folder.exists()]


def _copy_rest(file: Path, temporary: Path, members: Sequence[Id]) -> None:
    """Copy the rows of the others, group by group, as Arrow wrote them."""
    with pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        groups = opened.metadata.num_row_groups
        first = opened.metadata.row_group(0).column(0).compression if groups else "ZSTD"
        leaving = pa.array(list(members)).cast(schema.field(MEMBER).type)
        compression = "none" if first == "UNCOMPRESSED" else first.lower()
        with pq.ParquetWriter(
            temporary, schema, compression=compression, write_page_checksum=True
        ) as writer:
            for group in range(groups):
                rows = opened.read_row_group(group)
                rest = rows.filter(pc.invert(pc.is_in(rows[MEMBER], leaving)))
                if len(rest) or groups == 1:
                    writer.write_table(rest)


def _table_of(config: Config, file: Path) -> str:
    """Name a file's table for people: `activity`, `member_embeddings/<view>`."""
    parts = file.relative_to(config.data).parts[:-1]
    return "/".join(part for part in parts if "=" not in part) or file.name
