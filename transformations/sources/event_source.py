"""The events source as rows that are not judged yet: read for the first time, or of the archive."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection

from transformations import archive, clock
from transformations.config import Config
from transformations.errors import InputError
from transformations.ids import SPELLED
from transformations.places import version_of
from transformations.quoting import identifier, quoted
from transformations.read_so_far import ReadSoFar
from transformations.secrets import without_user
from transformations.sources import sql_source
from transformations.sources.catalogue import unloaded
from transformations.sources.files import Files, describe, find, together
from transformations.sources.marks import Mark
from transformations.sources.raw_events import attribute_columns, where_configured
from transformations.sources.table_ranges import joined, read_table
from transformations.tasks import Engine

EVENT_TIMES = ("events.columns.event_timestamp", "events.columns.ingested_at")
NEEDED = ("member_id", "item_id", "action", "event_timestamp")


@dataclass(frozen=True)
class Given:
    """Rows as a source gave them.

    Attributes:
        groups: What holds them.
        label: SQL for what quarantine calls the source of a row of a group.
        read: What counts as read once they are staged.
        note: Notes in the archive that they were read; called once all refused rows are kept.
    """

    groups: list[Files]
    label: Callable[[Files], str]
    read: ReadSoFar = field(default_factory=ReadSoFar)
    note: Callable[[], object] = lambda: None


def event_columns(config: Config) -> dict[str, str | None]:
    """Return the columns of an event, attributes included → their names in the source."""
    return config.events.columns.model_dump() | attribute_columns(config)


def read_source(
    config: Config, as_of: datetime, before: ReadSoFar, folder: Path, engine: Engine
) -> Given:
    """Read what is new in the configured source; rows of a table go into the archive.

    Args:
        before: What earlier runs have read.
        folder: For what is read, until it is staged.
        engine: Who looks at the files, or reads the table.

    Raises:
        InputError: the source or one of its columns is missing, or has a wrong type.
        RunFailedError: the database failed.
    """
    wanted = _wanted(config)
    if config.events.is_in_catalogue:
        return _read_catalogue(config, before, folder, wanted, engine)
    if config.events.is_sql:
        return _read_table(config, as_of, before, folder, wanted, engine)
    source = config.source("events.source", config.events.source)
    read, new = ReadSoFar(), []
    # Taken before the files are read, so the next run reads what is appended meanwhile.
    for file in find("events.source", source):
        read.files[str(file)] = version_of(file)
        if before.files.get(str(file)) != read.files[str(file)]:
            new.append(file)
    base = source if source.is_dir() else source.parent
    return Given(
        _grouped(config, new, wanted, source, folder, engine),
        lambda files: f"{identifier(files.file_column)}[{len(str(base)) + 2}:]",
        read,
    )


@dataclass(frozen=True)
class LookTask:
    """Some files of a source; the rest as `transformations.sources.files.describe` takes it."""

    files: tuple[Path, ...]
    wanted: Mapping[str, str | None]
    source: Path
    folder: Path


def look_at(config: Config, con: Connection, task: LookTask) -> list[Files]:  # noqa: ARG001
    """Look at files, one by one; the function of an engine's tasks."""
    return [describe(con, file, task.wanted, task.source, task.folder) for file in task.files]


def _grouped(
    config: Config,
    files: list[Path],
    wanted: Mapping[str, str | None],
    source: Path,
    folder: Path,
    engine: Engine,
) -> list[Files]:
    number = min(len(files), engine.slots)
    tasks = [
        LookTask(tuple(files[first::number]), wanted, source, folder) for first in range(number)
    ]
    found = [one for _, some in engine.run(config, look_at, tasks) for one in some]
    return together(sorted(found, key=lambda one: one.files))


def _read_catalogue(
    config: Config,
    before: ReadSoFar,
    folder: Path,
    wanted: Mapping[str, str | None],
    engine: Engine,
) -> Given:
    """Have Spark write what is new in a table of its catalogue; it is not archived."""
    mark = None if before.mark is None else Mark(**before.mark)
    files, newest = unloaded(config, wanted, mark, folder, engine)
    read = ReadSoFar(mark=None if newest is None else asdict(newest))
    place = files[0].parent if files else folder
    groups = _grouped(config, files, wanted, place, folder, engine)
    label = quoted(config.events.table)
    return Given(groups, lambda _: label, read)


def _read_table(
    config: Config,
    as_of: datetime,
    before: ReadSoFar,
    folder: Path,
    wanted: Mapping[str, str | None],
    engine: Engine,
) -> Given:
    events = config.events
    table = sql_source.TableSource(
        key="events",
        url=events.source,
        table=events.table or "",
        columns=wanted,
        times=dict.fromkeys(EVENT_TIMES, events.time_unit),
        incremental=events.incremental_column,
    )
    mark = None if before.mark is None else Mark(**before.mark)
    member = f"{events.columns.member_id}{SPELLED}"
    label = quoted(events.table)
    if not config.archive.sql:
        spooled = read_table(config, table, folder, mark, engine, sql_source.plain_writer)
        read = ReadSoFar(mark=None if spooled.mark is None else asdict(spooled.mark))
        return Given(spooled.groups, lambda _: label, read)
    began = archive.Read(
        read_at=clock.now(),
        as_of=as_of,
        source=table_name(config),
        kind=archive.TABLE,
        label=events.table or "",
        member=member,
    )
    spooled = read_table(config, table, folder, mark, engine, archive.writer, member)
    read = ReadSoFar(mark=None if spooled.mark is None else asdict(spooled.mark))
    parts = [file for group in spooled.groups for file in group.files]
    whole = folder / sql_source.FILE
    in_tasks = not whole.exists()
    if in_tasks:
        joined(parts, table.header, whole, archive.writer)
    done = archive.held(config, began, whole)
    groups = [_of_object(config, done)] if done.sha256 else []
    note = partial(archive.note, config, done)
    # Tasks judge the parts that tasks wrote; one file would be one task's.
    return Given(spooled.groups if in_tasks else groups, lambda _: label, read, note)


def read_again(config: Config, read: archive.Read) -> Given:
    """Return what a table gave once, of the archive.

    A column that it was not asked for then (an attribute, a text, ingested_at) is null.

    Raises:
        InputError: a column that every event needs was called otherwise then.
    """
    label = quoted(read.label)
    return Given([_of_object(config, read)] if read.sha256 else [], lambda _: label)


def table_name(config: Config) -> str:
    """Name the configured table of events, as the archive does."""
    return f"{without_user(config.events.source)} {config.events.table}"


def _of_object(config: Config, read: archive.Read) -> Files:
    file = config.layout.archived(str(read.sha256))
    header = pq.read_schema(file).names
    wanted = _wanted(config)
    for key in NEEDED:
        name = wanted[f"events.columns.{key}"]
        if name not in header:
            raise InputError(
                f"events.columns.{key}: expected a column {name!r} in what was read of "
                f"{read.source} at {read.read_at:%Y-%m-%d %H:%M} UTC ({file}), which has: "
                f"{', '.join(name for name in header if not name.endswith(SPELLED))}. Replay it "
                "with the configuration that it was read by"
            )
    names = dict.fromkeys(name for name in wanted.values() if name is not None)
    there = [name for name in header if name in names or name.endswith(SPELLED)]
    return Files(
        (file,),
        tuple(header),
        dict.fromkeys([*there, *names], "VARCHAR"),
        folders={name: (None,) for name in names if name not in header},
    )


def _wanted(config: Config) -> dict[str, str | None]:
    """Return configuration keys → the columns that are read of the source."""
    columns = event_columns(config)
    wanted = {where_configured(config, key): name for key, name in columns.items()}
    texts = config.rules.texts
    return wanted | {f"actions.{action}.text": name for action, name in texts.items()}
