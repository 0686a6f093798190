"""A table of a Spark catalogue by its name: Spark writes what is new to Parquet files.

Which are then described, judged and merged as files of events are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from transformations.config import Config
from transformations.errors import InputError
from transformations.read_so_far import mark_file
from transformations.sources.marks import Mark
from transformations.tasks import Engine


@runtime_checkable
class ReadsCatalogue(Protocol):
    """An engine that knows tables by their names."""

    def unload(
        self,
        table: str,
        wanted: Mapping[str, str | None],
        incremental: str | None,
        mark: Mark | None,
        folder: Path,
        state: Path,
    ) -> Mark | None:
        """Write the new rows of a table to Parquet files in a folder; return the next mark.

        Args:
            table: `table`, `database.table` or `catalog.database.table`.
            wanted: Configuration key → column; what is None is not read.
            incremental: A column that only grows; None: all rows are new.
            mark: Where the last run stopped.
            folder: Is not there yet.
            state: The file that holds the mark, for messages.

        Raises:
            InputError: there is no such table or column, or the column has no order.
            RunFailedError: the table was made again, or Spark gave up.
        """
        ...


def unloaded(
    config: Config,
    wanted: Mapping[str, str | None],
    mark: Mark | None,
    folder: Path,
    engine: Engine,
) -> tuple[list[Path], Mark | None]:
    """Have the engine write the configured table's new rows; return the files and the next mark.

    Raises:
        InputError, RunFailedError: as `ReadsCatalogue.unload`; or the engine is not Spark's.
    """
    events = config.events
    if not isinstance(engine, ReadsCatalogue):
        raise InputError(
            f"events.source: expected engine.kind: spark, which reads {events.table} of its "
            f"catalogue, got {config.engine.kind}. Write it into {config.file.name}, or give the "
            "run --engine spark"
        )
    place = folder / "catalogue"
    column, state = events.incremental_column, mark_file(config)
    newest = engine.unload(str(events.table), wanted, column, mark, place, state)
    return sorted(place.glob("*.parquet")), newest
