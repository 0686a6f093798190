"""The Parquet source of a view, registered without the time of its declaration."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FileSource
from feast.data_format import ParquetFormat

from transformations.config import Config

OWNER = "member-activity-embeddings"
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def declared_source(**settings: Any) -> FileSource:
    """Return a FileSource that is always registered as of 1970; `settings` are FileSource's.

    A view keeps a copy of its source, with the times at which that was created and updated. Feast
    sets them to now whenever a source is declared, and `feast plan` compares the copies of every
    view that was ever materialized: it would report a change of all of them, always. Leaving the
    times out does not help, since Feast sets them to now where it reads a source without. Nor does
    a subclass, whose name the copy keeps until the view's next materialization.
    """
    source = FileSource(**settings)
    source._set_timestamps_in_proto = _set_to_1970
    return source


def snapshots_in(name: str, folder: Path, renamed: Mapping[str, str] | None = None) -> FileSource:
    """Return the source of a table of snapshots, whose rows say when they could be read."""
    return declared_source(
        name=name,
        path=str(folder),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        field_mapping=dict(renamed or {}),
        owner=OWNER,
    )


def ages(config: Config) -> dict[str, str]:
    """Say from which age on a row is old: a newer snapshot could be read (stores/asof/coverage.py).

    Only a training join counts by it; it changes no row.
    """
    max_age = config.rhythm.step + config.publish_delay
    return {"max_age_seconds": f"{max_age.total_seconds():.0f}"}


def _set_to_1970(proto: Any) -> None:
    proto.meta.created_timestamp.FromDatetime(NEVER)
    proto.meta.last_updated_timestamp.FromDatetime(NEVER)
