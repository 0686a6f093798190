"""What a read needs to know, resolved once from the registry: views, fields, keys, dimensions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np
from feast import FeatureService, FeatureStore, FeatureView, Field, OnDemandFeatureView, utils
from feast.feature_view import DUMMY_ENTITY_ID
from feast.value_type import ValueType
from numpy.typing import NDArray


class ReadError(ValueError):
    """A read that cannot be answered as asked: what was expected, what it got, what to do."""


@dataclass(frozen=True)
class Feature:
    """One stored feature: its name in the view, its name in the result, its declared type."""

    name: str
    result: str
    type: ValueType
    dim: int  # numbers in each vector; 0 where not declared or not a vector
    missing: float | str | None = None  # what stands for null in its lists; None where nothing does


@dataclass(frozen=True)
class View:
    """One feature view of the online store, and the features that are read from it."""

    table: FeatureView
    label: str  # name or alias in the results
    features: tuple[Feature, ...]
    max_age: timedelta | None  # None: rows of any age count
    timed: bool  # whether to fetch the event timestamps


@dataclass(frozen=True)
class JoinKey:
    """One column of an entity key: its name in the store, the column that the caller gives."""

    name: str
    column: str
    type: ValueType


@dataclass(frozen=True)
class KeyGroup:
    """The views that share their entity keys, so that each key is encoded once."""

    keys: tuple[JoinKey, ...]
    views: tuple[View, ...]


class Fetched(NamedTuple):
    """One view's stored rows, one per requested key."""

    columns: Sequence[Sequence[bytes | None]]  # per feature of the view, then per key
    event_timestamps: NDArray[np.datetime64] | None  # [keys], NaT where there is no row


@dataclass(frozen=True)
class OnDemand:
    """An on-demand view, its requested features, and the columns its function must not see."""

    view: OnDemandFeatureView
    features: tuple[Feature, ...]
    hidden: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """What all reads of one feature service share."""

    groups: tuple[KeyGroup, ...]
    on_demand: tuple[OnDemand, ...]
    request_data: frozenset[str]  # columns that on-demand views take from the caller
    results: tuple[str, ...]  # in the order of the service

    @cached_property
    def keys(self) -> tuple[JoinKey, ...]:
        """The join keys that a caller gives, one per column."""
        keys = [key for group in self.groups for key in group.keys]
        by_column = {key.column: key for key in keys if key.column != DUMMY_ENTITY_ID}
        return tuple(by_column.values())

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that a caller gives: join keys first, then request data."""
        keys = dict.fromkeys(key.column for key in self.keys)
        return tuple(keys | dict.fromkeys(sorted(self.request_data)))


def resolve(
    store: FeatureStore,
    features: FeatureService | Sequence[str],
    full_feature_names: bool,
    on_demand: bool,
    dims: Mapping[str, int],
    enforce_ttl: bool,
    event_timestamps: bool,
) -> Plan:
    """Look up the service (or list of `view:feature`) in the registry; arguments as Reader's.

    Raises:
        ReadError: an on-demand view that cannot be computed from the features read.
        feast.errors.FeastObjectNotFoundException: a name that the registry does not hold.
    """
    wanted = features if isinstance(features, FeatureService) else list(features)
    # The same resolution as get_online_features, so that both answer the same question.
    (references, transforms, _, types, _, grouped, _, request_data, _) = (
        utils._get_online_request_context(store.registry, store.project, wanted, full_feature_names)
    )
    asked = []
    for view, version, feature in map(utils._parse_feature_ref, references):
        asked.append((view if version is None else f"{view}@v{version}", feature))
    computed = {_label(transform) for transform in transforms}

    def result(label: str, feature: str) -> str:
        return f"{label}__{feature}" if full_feature_names else feature

    groups: dict[tuple[JoinKey, ...], list[View]] = {}
    for table, names in grouped:
        if isinstance(table, OnDemandFeatureView):
            raise ReadError(
                f"on-demand view {table.name!r} is written to the online store, which this reader "
                "does not support: take it out of the service, or use get_online_features"
            )
        label = table.projection.name_to_use()
        # Without on-demand views, skip the features that only they read.
        chosen = [
            field
            for field in table.features
            if field.name in names and (on_demand or (label, field.name) in asked)
        ]
        if chosen:
            features_ = tuple(_feature(field, result(label, field.name), dims) for field in chosen)
            max_age = (table.ttl or None) if enforce_ttl else None
            timed = event_timestamps or max_age is not None
            view_ = View(table, label, features_, max_age, timed)
            groups.setdefault(_join_keys(table, types), []).append(view_)

    return Plan(
        groups=tuple(KeyGroup(keys, tuple(views)) for keys, views in groups.items()),
        on_demand=tuple(
            _on_demand(transform, transforms, asked, result, dims)
            for transform in transforms
            if on_demand
        ),
        request_data=frozenset(request_data if on_demand else ()),
        results=tuple(
            result(label, name) for label, name in asked if on_demand or label not in computed
        ),
    )


def _feature(field: Field, result: str, dims: Mapping[str, int]) -> Feature:
    dim = dims.get(result) or field.vector_length
    value_type = field.dtype.to_value_type()
    return Feature(field.name, result, value_type, dim, _missing(field, value_type, dim))


def _missing(field: Field, value_type: ValueType, dim: int) -> float | str | None:
    """Return what the tag `missing` says: nan in a list of numbers, a text in one of texts."""
    tag = field.tags.get("missing")
    if value_type in (ValueType.FLOAT_LIST, ValueType.DOUBLE_LIST):
        return float("nan") if tag == "nan" and not dim else None
    return tag if value_type == ValueType.STRING_LIST else None


def _join_keys(table: FeatureView, types: Mapping[str, ValueType]) -> tuple[JoinKey, ...]:
    aliases = table.projection.join_key_map
    columns = [(name, aliases.get(name, name)) for name in table.join_keys]
    return tuple(JoinKey(name, column, types[column]) for name, column in columns)


def _label(transform: OnDemandFeatureView) -> str:
    return transform.projection.name_alias or transform.name


def _on_demand(
    transform: OnDemandFeatureView,
    transforms: Sequence[OnDemandFeatureView],
    asked: Sequence[tuple[str, str]],
    result: Callable[[str, str], str],
    dims: Mapping[str, int],
) -> OnDemand:
    if transform.aggregations:
        raise ReadError(
            f"on-demand view {transform.name!r} aggregates rows, which this reader does not do: "
            "read the service with on_demand=False, or use get_online_features"
        )
    label = _label(transform)
    fields = [field for field in transform.features if (label, field.name) in asked]
    # A function sees its own sources only: the rule, and its way of comparing bare names, are
    # those of feast.utils._augment_response_with_on_demand_transforms.
    sources = {source.name for source in transform.source_feature_view_projections.values()}
    foreign = set(asked) | {
        (source.name, field.name)
        for other in transforms
        for source in other.source_feature_view_projections.values()
        for field in source.features
    }
    computed = {_label(other) for other in transforms}
    foreign = {(of, name) for of, name in foreign if of not in sources and of not in computed}
    return OnDemand(
        transform,
        tuple(_feature(field, result(label, field.name), dims) for field in fields),
        frozenset({name for _, name in foreign} | {f"{of}__{name}" for of, name in foreign}),
    )
