"""The views of candidate sources' lists: which items are near to an item, or popular."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from feast import Entity, FeatureView, Field
from feast.types import Array, Float32, Int64, String
from feast.value_type import ValueType

from feature_repo.source import OWNER, snapshots_in
from models.lines import CandidateSource
from transformations.config import Config

SEGMENT = "segment"


def list_views(
    sources: Sequence[tuple[CandidateSource, Config]], item: Entity
) -> Iterator[Entity | FeatureView]:
    """Yield a view per source that keeps lists, and the entity of segments where one needs it.

    Args:
        sources: Each with the configuration in the space that it reads.
        item: The entity of items.
    """
    segment = Entity(
        name=SEGMENT,
        join_keys=[SEGMENT],
        value_type=ValueType.STRING,
        description="Members that get the same list; `all` is everybody.",
        owner=OWNER,
    )
    if any(source.key == SEGMENT for source, _ in sources):
        yield segment
    for source, own in sources:
        view = source.view(own.space)
        of_items = source.key != SEGMENT
        yield FeatureView(
            name=view,
            entities=[item if of_items else segment],
            ttl=timedelta(0),  # a list is replaced by the next one
            schema=[
                Field(
                    name="item_ids",
                    dtype=Array(Int64 if own.item_id_type == "int64" else String),
                    description="The items, the best first.",
                ),
                # With a tag for missing ones, lists may have any length (stores/read.py).
                Field(
                    name="scores",
                    dtype=Array(Float32),
                    description="The score of each.",
                    tags={"missing": "nan"},
                ),
            ],
            source=snapshots_in(view, own.layout.lists(view)),
            description=f"Items by the candidate source {source.name}, version {source.version}"
            + (f": the nearest in {own.space}." if of_items else "."),
            tags={"candidate_source": source.name, "kind": source.kind}
            | ({"item_space": str(own.space)} if of_items else {}),
            owner=OWNER,
        )
