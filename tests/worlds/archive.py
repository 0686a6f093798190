"""A table of events in SQLite that runs read, and what they staged of it."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow.parquet as pq

from tests.worlds.events import configure
from transformations.config import Config
from transformations.duck import TableReport, connect
from transformations.sources import stage_activity

COLUMNS = "seq integer, who, job, action, event_timestamp, ingested_at"
Row = Sequence[Any]


class Table:
    """A table `events` with other names than ours, and a workspace that reads it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = folder / "events.db"
        folder.mkdir(exist_ok=True, parents=True)
        self.execute(f"create table events ({COLUMNS})")
        self.settings: dict[str, Any] = {
            "events": {
                "source": f"sqlite:///{self.file}",
                "table": "events",
                "incremental_column": "seq",
                "columns": {"member_id": "who", "item_id": "job", "ingested_at": "ingested_at"},
                "max_refused_share": 1,
            }
        } | settings
        self.config = configure(folder / "first", **self.settings)

    def execute(self, statement: str, rows: Iterable[Row] = ((),)) -> None:
        with closing(sqlite3.connect(self.file)) as con, con:
            con.executemany(statement, rows)

    def insert(self, *rows: Row) -> None:
        self.execute("insert into events values (?, ?, ?, ?, ?, ?)", rows)

    def elsewhere(self, name: str, config: Config | None = None) -> Config:
        """Another workspace with nothing but the archive of this one."""
        other = configure(self.file.parent / name, **self.settings)
        copytree((config or self.config).layout.archive, other.layout.archive)
        return other


def stage(config: Config, as_of: datetime) -> TableReport:
    with connect(config) as con:
        return stage_activity(config, con, as_of)


def tables(config: Config) -> dict[str, Any]:
    """Return every row of activity, quarantine and searches, file by file, and their periods."""
    found: dict[str, Any] = {}
    for folder in (config.layout.activity, config.layout.quarantine, config.layout.searches.parent):
        for file in sorted(folder.rglob("*")):
            name = str(file.relative_to(config.data))
            if file.suffix == ".parquet":
                found[name] = pq.ParquetFile(file).read().to_pylist()
            elif file.name == "_layout.json":
                found[name] = json.loads(file.read_text())
    return found
