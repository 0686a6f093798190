"""The views of lists: which items are near to an item, popular, or recommended to a member."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from feast import Entity, FeatureView, Field
from feast.types import Array, Float32, Int64, String
from feast.value_type import ValueType

from feature_repo.source import OWNER, snapshots_in
from models.lines import CandidateSource, candidate_lines
from transformations.config import Config
from transformations.names import RECOMMENDATIONS_VIEW

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
                *_list_of(own),
            ],
            source=snapshots_in(view, own.layout.lists(view)),
            description=f"Items by the candidate source {source.name}, version {source.version}"
            + (f": the nearest in {own.space}." if of_items else "."),
            tags={"candidate_source": source.name, "kind": source.kind}
            | ({"item_space": str(own.space)} if of_items else {}),
            owner=OWNER,
        )


def recommendations_view(config: Config, member: Entity) -> Iterator[FeatureView]:
    """Yield the view of the lists that a run makes for members, where it makes some.

    Args:
        member: The entity of members.
    """
    if config.recommend.precompute and candidate_lines(config):
        yield FeatureView(
            name=RECOMMENDATIONS_VIEW,
            entities=[member],
            ttl=timedelta(0),  # a list is replaced by the next one
            schema=[
                *_list_of(config),
                Field(
                    name="ranker",
                    dtype=String,
                    description="The fit that scored; `votes` where the sources alone did.",
                ),
                Field(
                    name="release",
                    dtype=String,
                    description="The release that made it; null before there were releases.",
                ),
            ],
            source=snapshots_in(RECOMMENDATIONS_VIEW, config.layout.recommendations),
            description="What a member may like, made by a run for when ranking fails or is late.",
            tags={"source": "candidates and rankers"},
            owner=OWNER,
        )


def _list_of(config: Config) -> list[Field]:
    return [
        Field(
            name="item_ids",
            dtype=Array(Int64 if config.item_id_type == "int64" else String),
            description="The items, the best first.",
        ),
        # With a tag for missing ones, lists may have any length (stores/read.py).
        Field(
            name="scores",
            dtype=Array(Float32),
            description="The score of each.",
            tags={"missing": "nan"},
        ),
    ]
