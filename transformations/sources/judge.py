"""Rows of the events source as `stg_activity`: each typed, or with the reason why it is refused.

Files are judged by tasks, some of a group's files each, into parts of the spool. A part is ordered
by bucket, so that whoever merges a bucket reads its row groups only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import copy, parquet, sql
from transformations.places import let_read
from transformations.quoting import identifier, quoted
from transformations.searches import add_search_function
from transformations.snapshots import attempts
from transformations.sources.event_source import Given, event_columns
from transformations.sources.files import Files
from transformations.sources.quarantine import quarantine_query
from transformations.sources.raw_events import raw_events
from transformations.sources.spool import collect_malformed, rows_read, spool_rows
from transformations.tasks import Engine
from transformations.tombstones import without_forgotten

FUTURE = ("event_timestamp is in the future", "event_timestamp is after events.latest")
TASKS_PER_SLOT = 4
"""So that few wait for the one that has a large file."""
ROWS_PER_GROUP = 8_192
"""Of a part, where there are buckets: whoever reads one bucket reads few rows of others."""


@dataclass(frozen=True)
class JudgeTask:
    """Some files of a group.

    Attributes:
        label: SQL for what quarantine calls the source of a row.
        judged, malformed: The parts that it writes, each under a name of its attempt.
    """

    files: Files
    label: str
    as_of: datetime
    judged: Path
    malformed: Path


@dataclass(frozen=True)
class Judged:
    """The parts that a task wrote: rows, and lines that are no CSV."""

    rows: Path
    malformed: Path


def judge(
    config: Config, con: Connection, as_of: datetime, given: Given, folder: Path, engine: Engine
) -> tuple[int, list[Path]]:
    """Judge rows into files of the spool; make the views `stg_activity` (accepted) and `refused`.

    Args:
        folder: The spool.

    Returns:
        How many rows the source had, and the files with the accepted rows, among others.
    """
    tasks = [
        JudgeTask(
            files,
            given.label(files),
            as_of,
            folder / f"judged-{number}.parquet",
            folder / f"malformed-{number}.parquet",
        )
        for number, files in enumerate(_dealt(given, engine.slots))
    ]
    judged = [done for _, done in engine.run(config, judge_files, tasks)]
    parts = sorted(done.rows for done in judged)
    again = folder / "again.parquet"
    _judge_again(config, con, again, as_of)
    every = parquet([*parts, again])
    con.execute(
        f"create or replace temp view stg_activity as from {every} as judged where reason is null"
    )
    new = f"from {parquet(parts)}" if parts else f"from {every} limit 0"
    con.execute(f"create or replace temp view judged as {new}")
    _make_malformed(con, [done.malformed for done in judged])
    con.execute(f"create or replace temp view refused as {sql('refused')}")
    return rows_read(con), [*parts, again]


def judge_files(config: Config, con: Connection, task: JudgeTask) -> Judged:
    """Judge the rows of files; the function of an engine's tasks."""
    for file in task.files.files:
        let_read(con, file)
    texts = config.rules.texts
    if texts:
        add_search_function(config.rules, con)
    _make_malformed(con, [])
    raw = raw_events(
        config, task.files.query, event_columns(config), task.files.columns, task.label, texts
    )
    con.execute(f"create or replace temp view raw_events as {raw}")
    with attempts([task.judged, task.malformed]) as (rows, malformed):
        spool_rows(
            con,
            "stg_activity",
            rows,
            _parameters(config, task.as_of),
            task.files,
            ROWS_PER_GROUP if config.layout.buckets > 1 else None,
        )
        if task.files.layout is not None:
            collect_malformed(con, task.files, task.label)
        _forget(config, con, rows)
        copy(con, "from malformed", malformed)
        return Judged(rows, malformed)


def _dealt(given: Given, slots: int) -> Iterator[Files]:
    """Deal the files of each group out, so that tasks have about as many bytes each."""
    for group in given.groups:
        if slots == 1:
            yield group
            continue
        sizes = [file.stat().st_size for file in group.files]
        order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
        hands = min(len(sizes), TASKS_PER_SLOT * slots)
        yield from (group.some(sorted(order[first::hands])) for first in range(hands))


def _parameters(config: Config, as_of: datetime) -> dict[str, object]:
    return {
        "as_of": as_of,
        "actions": list(config.actions),
        "earliest": config.events.earliest,
        "latest": as_of + config.events.latest,
        "buckets": config.layout.buckets,
    }


def _make_malformed(con: Connection, files: list[Path]) -> None:
    con.execute("create or replace temp table malformed (line varchar, source varchar)")
    if files:
        con.execute(f"insert into malformed from {parquet(files)}")


def _forget(config: Config, con: Connection, part: Path) -> None:
    """Take rows and lines of forgotten members out of a part."""
    remembered = without_forgotten(config, con, parquet([part]))
    if remembered:
        kept = part.with_suffix(".kept")
        query = f"select judged.* from {parquet([part])} as judged{remembered} order by bucket, day"
        copy(con, query, kept, compression="lz4")
        kept.replace(part)


def _judge_again(config: Config, con: Connection, file: Path, as_of: datetime) -> None:
    """Judge rows refused as lying ahead once more, and keep those that no longer do."""
    quarantine = quarantine_query(config)
    columns = {key: key for key in config.events.columns.model_dump()}
    columns |= {name: name for name in config.rules.attributes}
    again = "".join(
        f", json_extract_string(attributes, {quoted(name)}) as {identifier(name)}"
        for name in config.rules.attributes
    )
    reasons = ", ".join(map(quoted, FUTURE))
    query = f"select *{again} from ({quarantine}) where reason in ({reasons})"
    kinds = dict.fromkeys([*columns, "text"], "VARCHAR")
    texts = dict.fromkeys(config.rules.texts, "text")
    if texts:
        add_search_function(config.rules, con)
    raw = raw_events(config, query, columns, kinds, "source", texts)
    con.execute(f"create or replace temp view raw_events as {raw}")
    accepted = f"select * from ({sql('stg_activity')}) where reason is null"
    copy(con, accepted, file, _parameters(config, as_of))
    _make_malformed(con, [])
    _forget(config, con, file)
