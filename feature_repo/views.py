"""Makes the Feast objects of a configuration and a catalogue; binds none of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from feature_repo.lists import list_views, recommendations_view
from feature_repo.match import match_of
from feature_repo.rankers import ranker_services
from feature_repo.source import OWNER, ages, declared_source, snapshots_in
from feature_repo.stats import profile_view, stats_views
from models.lines import Aggregator, similarity_of
from operations.composition import published_lists
from operations.fits import Fits, chosen
from transformations import names
from transformations.config import Config
from transformations.item_kinds import predicted_kinds
from transformations.member_columns import MemberColumn, member_columns
from transformations.rules import MISSING, Action

TYPES = {"int64": Int64, "float64": Float64, "timestamp": UnixTimestamp}
"""Kind of a member column → its Feast type."""
SAID: dict[names.Similarity, str] = {"cosine": "cosine and dot product", "dot": "dot product"}
"""Similarity of an item space → what the match says in it."""

# A view's row is valid until the member's next one, and a member whose last action leaves the
# window gets a next one (zeros). A ttl would later turn that row into nulls in the training join,
# but not online, where Feast ignores ttl.
FOREVER = timedelta(0)


def declare(config: Config, aggregators: Sequence[Aggregator] | None = None) -> list[Any]:
    """Return every Feast object: entities, views, on-demand views and services.

    Args:
        aggregators: As the fits that they are; default: all that the workspace serves.
    """
    aggregators = chosen(config, aggregators)
    member = _entity(config, "member", "Who acted.")
    item = _entity(config, "item", "What was acted on: a job, a course, a film.")
    item_views = {
        own.space: _item_view(own, item, lines[0].item_dim(own) if lines else own.dim)
        for own, lines in Fits(config).all_spaces(aggregators)
    }
    objects: list[Any] = [member, item, *item_views.values(), _sequence_view(config, member)]
    objects += [*stats_views(config, member, item), *profile_view(config, member)]
    objects += list_views(published_lists(config), item)
    objects += recommendations_view(config, member)
    for aggregator in aggregators:
        item_view = item_views[aggregator.config_of(config).space]
        tags = aggregator.identity(config)
        view = _aggregator_view(config, member, aggregator, tags)
        match = _match_view(config, aggregator, view, item_view)
        service = FeatureService(
            name=aggregator.service,
            features=[
                view[_beside(config, aggregator)],
                match,
                item_view,
            ],
            description=f"For a ranker: the {aggregator.name} vectors of a member, its counts (0 "
            "where there is no such member), an item's vector, and how well they match.",
            tags=tags,
            owner=OWNER,
        )
        objects += [view, match, service]
    declared = {one.name: one for one in objects if isinstance(one, FeatureView)}
    objects += ranker_services(config, declared)
    return objects


def _entity(config: Config, name: str, description: str) -> Entity:
    id_type = config.rules.id_types[f"{name}_id"]
    return Entity(
        name=name,
        join_keys=[f"{name}_id"],
        value_type=ValueType.INT64 if id_type == "int64" else ValueType.STRING,
        description=description,
        owner=OWNER,
    )


def _item_view(config: Config, item: Entity, dim: int) -> FeatureView:
    space, name = config.space, config.item_view
    return FeatureView(
        name=name,
        entities=[item],
        ttl=FOREVER,
        schema=[
            _vector("embedding", dim, f"The item's vector by {space.encoder}."),
            *[_field("kind", String, "What kind of item it is.")][: config.knows_kinds],
        ],
        source=declared_source(
            name=name,
            path=str(config.items_dir),
            file_format=ParquetFormat(),
            timestamp_field="available_at",
            owner=OWNER,
        ),
        description=f"Item vectors by {space.encoder}, version {space.version}, fit {space.fit}.",
        tags={
            "item_encoder": space.encoder,
            "item_encoder_version": str(space.version),
            "item_encoder_fit": str(space.fit),
        },
        owner=OWNER,
    )


def _sequence_view(config: Config, member: Entity) -> FeatureView:
    ids = Int64 if config.item_id_type == "int64" else String
    return FeatureView(
        name=names.SEQUENCE_VIEW,
        entities=[member],
        ttl=FOREVER,
        schema=[
            _field("item_ids", Array(ids), "What the member acted on, oldest first."),
            _field("actions", Array(String), "The action on each item."),
            _field("event_timestamps", Array(UnixTimestamp), "When; online in whole seconds."),
            *_attributes(config),
            *(_field(c.name, TYPES[c.kind], c.about) for c in member_columns(config.rules)),
        ],
        source=snapshots_in(names.SEQUENCE_VIEW, config.layout.sequences),
        description=f"A member's last {config.length} actions in {config.window.days} days.",
        tags=ages(config),
        owner=OWNER,
    )


def _aggregator_view(
    config: Config, member: Entity, aggregator: Aggregator, tags: dict[str, str]
) -> FeatureView:
    # Feast's historical join returns an on-demand view's inputs beside its outputs, so they cannot
    # share a name. n_actions is the output, which is 0, not null, for an unknown member.
    columns = _columns(config, aggregator)
    stored = _stored(config, aggregator)
    about = f"Vector of what the member did, by {aggregator.name}."
    absent = "Null where there is no such member."
    return FeatureView(
        name=aggregator.view,
        entities=[member],
        ttl=FOREVER,
        schema=[
            *(
                _field(stored[name], Bytes, f"{about} As int8: the match gives its {dim} numbers.")
                if name in stored
                else _vector(name, dim, about)
                for name, dim in aggregator.vectors(config).items()
            ),
            *(
                _field(
                    stored.get(column.name, column.name),
                    TYPES[column.kind],
                    f"{column.about} {absent}" if column.name in stored else column.about,
                )
                for column in columns
            ),
            _field("model_version", String, "What made this row: the packaged aggregator."),
        ],
        source=snapshots_in(aggregator.view, config.layout.embeddings(aggregator.view), stored),
        description=f"A member's last {config.length} actions in {config.window.days} days as "
        f"vectors, by {aggregator.name} version {aggregator.version}, fit {aggregator.fit}.",
        tags=tags | ages(config),
        owner=OWNER,
    )


def _match_view(
    config: Config,
    aggregator: Aggregator,
    view: FeatureView,
    item_view: FeatureView,
) -> OnDemandFeatureView:
    vectors = aggregator.vectors(config)
    stored = _stored(config, aggregator)
    similarity = similarity_of(config, aggregator)
    kinds = predicted_kinds(config, aggregator.predicted(config))
    match, text = match_of(kinds, similarity)
    item = item_view[["embedding"] if kinds is None else ["embedding", "kind"]]
    return OnDemandFeatureView(
        name=aggregator.match,
        sources=[view[[*(name for name in vectors if name not in stored), *stored.values()]], item],
        # No descriptions: Feast compares these fields with inferred ones, which have none.
        schema=[
            *(_vector(name, dim) for name, dim in vectors.items() if name in stored),
            *(
                Field(name=column.name, dtype=TYPES[column.kind])
                for column in _columns(config, aggregator)
                if column.name in stored
            ),
            *(
                Field(name=field, dtype=Float64)
                for name in vectors
                for field in names.match_fields(name, similarity)
            ),
        ],
        udf=match,
        # Without the text Feast would store a pickle that only this Python version can read.
        udf_string=text,
        mode="python",
        description=f"How an item fits what a member did, by {aggregator.name}: "
        f"{SAID[similarity]} with each of the member's vectors, 0.0 where either is not there; the "
        "member's columns, 0 where there is no such member; and its vectors where they are kept as "
        "int8.",
        # No hash of the weights: Feast does not notice a change of only an on-demand view's tags.
        tags={
            "aggregator": aggregator.name,
            "aggregator_version": str(aggregator.version),
            "aggregator_fit": str(aggregator.fit),
        },
        owner=OWNER,
    )


def _attributes(config: Config) -> Iterator[Field]:
    """Yield the lists of what each action carries; a tag says what stands for a missing value."""
    for name, attribute in config.rules.attributes.items():
        unit = config.events.attributes[name].unit
        is_number = attribute.kind == "number"
        yield Field(
            name=name,
            dtype=Array(Float64 if is_number else String),
            description=f"The {attribute.kind} that each action carries{unit and f', in {unit}'}.",
            tags={"missing": "nan" if is_number else MISSING},
        )


def _columns(config: Config, aggregator: Aggregator) -> tuple[MemberColumn, ...]:
    """Return the member columns of an aggregator's rows; a kept line's have its own actions."""
    actions = dict.fromkeys(aggregator.actions(config), Action("positive"))
    return member_columns(replace(config.rules, actions=actions))


def _stored(config: Config, aggregator: Aggregator) -> dict[str, str]:
    """Return what the columns that the match gives back are called in the view.

    They are the vectors that are kept as int8, and the columns that are 0 for an unknown member.
    """
    vectors = aggregator.vectors(config) if aggregator.stored_as(config) == "int8" else {}
    zeros = (c.name for c in _columns(config, aggregator) if c.absent == "zero")
    return {name: names.stored(name) for name in (*vectors, *zeros)}


def _beside(config: Config, aggregator: Aggregator) -> list[str]:
    """Name what a ranker reads from the view: what is null for an unknown member."""
    stored = _stored(config, aggregator)
    columns = (column.name for column in _columns(config, aggregator))
    return [name for name in (*aggregator.vectors(config), *columns) if name not in stored]


def _field(name: str, dtype: Any, description: str) -> Field:
    return Field(name=name, dtype=dtype, description=description)


def _vector(name: str, dim: int, description: str = "") -> Field:
    return Field(name=name, dtype=Array(Float32), description=description, vector_length=dim)
