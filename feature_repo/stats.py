"""The views of plain numbers beside the vectors: what members did, of a member and of an item."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from feast import Entity, FeatureView, Field
from feast.data_format import ParquetFormat
from feast.types import Float64, PrimitiveFeastType, String, UnixTimestamp

from feature_repo.source import OWNER, ages, declared_source, snapshots_in
from transformations.config import Config
from transformations.names import ITEM_STATS_VIEW, MEMBER_STATS_VIEW, PROFILE_VIEW
from transformations.stats.columns import (
    Kind,
    item_stats_columns,
    member_stats_columns,
    profile_columns,
)

TYPES: Mapping[Kind, PrimitiveFeastType] = {
    "number": Float64,
    "category": String,
    "timestamp": UnixTimestamp,
}


def stats_views(config: Config, member: Entity, item: Entity) -> Iterator[FeatureView]:
    """Yield the views of statistics, of these entities."""
    yield FeatureView(
        name=MEMBER_STATS_VIEW,
        entities=[member],
        ttl=timedelta(0),
        schema=_fields(member_stats_columns(config)),
        source=snapshots_in(MEMBER_STATS_VIEW, config.layout.member_stats),
        description="When, how often and for how long a member acts, from its sequence.",
        tags=ages(config),
        owner=OWNER,
    )
    yield FeatureView(
        name=ITEM_STATS_VIEW,
        entities=[item],
        ttl=timedelta(0),  # a row is replaced by the next one
        schema=_fields(item_stats_columns(config)),
        source=snapshots_in(ITEM_STATS_VIEW, config.layout.item_stats),
        description="What members did with an item in the last days, and how it compares.",
        tags=ages(config),
        owner=OWNER,
    )


def profile_view(config: Config, member: Entity) -> Iterator[FeatureView]:
    """Yield the view of members' profiles, where the configuration names a source of them."""
    columns = profile_columns(config)
    if columns:
        yield FeatureView(
            name=PROFILE_VIEW,
            entities=[member],
            ttl=timedelta(0),
            schema=_fields(columns),
            source=declared_source(
                name=PROFILE_VIEW,
                path=str(config.layout.members.parent),
                file_format=ParquetFormat(),
                timestamp_field="available_at",
                owner=OWNER,
            ),
            description="What is known of a member besides what it did.",
            tags={"source": "members"},
            owner=OWNER,
        )


def _fields(columns: Mapping[str, Kind]) -> list[Field]:
    """Return the fields of columns; what each holds is told in docs/architecture.md."""
    return [Field(name=name, dtype=TYPES[kind]) for name, kind in columns.items()]
