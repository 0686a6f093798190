"""The online half of `activity reset`: remove what a workspace published, and its marks."""

from collections.abc import Sequence
from contextlib import suppress

from feast import Entity, FeatureStore, FeatureView, Field
from feast.errors import ProjectNotFoundException, ProjectObjectNotFoundException
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.types import from_value_type

from feature_repo.views import declare
from models.lines import Aggregator
from operations.fits import chosen
from operations.workspace import workspace_of
from serving.publish.history import history_rows, remove_history
from serving.publish.marks import ONLINE, REGISTRY, marks_of, online_kind
from serving.publish.online_rows import count_online, delete_online
from serving.publish.owner import refuse_others, refuse_unfit
from serving.stream.states.open import STATES, open_states
from transformations.config import Config

OBJECTS, HISTORY, STREAM = "registry objects", "version history rows", "stream states"


def what_online(
    config: Config, store: FeatureStore, aggregators: Sequence[Aggregator] | None = None
) -> dict[str, int]:
    """Return what `remove_online` would remove; change nothing."""
    online, registry = _ours(config, store)
    found: dict[str, int] = {}
    if online:
        found |= count_online(store, views_of(config, store, aggregators))
        found[STREAM] = int(_has_states(config, store))
    if registry:
        found |= {OBJECTS: _objects(store), HISTORY: history_rows(store)}
    return found


def remove_online(
    config: Config, store: FeatureStore, aggregators: Sequence[Aggregator] | None = None
) -> dict[str, int]:
    """Remove the workspace's rows, stream states, registry objects and, last, its mark.

    What another workspace's mark stands on stays: a registry that its `feast apply` took is left
    alone, while the rows that are ours go. Killed at any point, it can be run again.

    Returns the number of rows per view, of registry objects and of rows of Feast's version history;
    for the stream's states, 1 where there were any.

    Raises:
        InputError: registry and online store both are another workspace's, or the project has no
            mark and holds other objects than this workspace's.
    """
    online, registry = _ours(config, store)
    marks = marks_of(store)
    removed: dict[str, int] = {}
    if online:
        removed |= delete_online(store, views_of(config, store, aggregators))
        removed[STREAM] = int(_has_states(config, store))
        if removed[STREAM]:
            _clear_states(config, store)
    if registry:
        removed |= {OBJECTS: _objects(store), HISTORY: remove_history(store)}
        # It is gone where an earlier reset was killed before it removed the mark.
        with suppress(ProjectNotFoundException, ProjectObjectNotFoundException):
            store.registry.delete_project(store.project)
        store.registry.refresh()
    if online and ONLINE in marks:
        marks[ONLINE].remove()
    return removed


def _ours(config: Config, store: FeatureStore) -> tuple[bool, bool]:
    """Return whether the online store's rows, and the registry's objects, are this workspace's."""
    ours = workspace_of(config)
    found = {where: mark.read() for where, mark in marks_of(store).items()}
    if not any(found.values()):
        refuse_unfit(config, store)
    is_free = all(owner is None or owner.id == ours.id for owner in found.values())
    is_ours = {
        where: is_free or (owner is not None and owner.id == ours.id)
        for where, owner in found.items()
    }
    if not any(is_ours.values()):
        refuse_others(config, store, ours, found)
    # A store of a kind without marks is whose the registry is.
    return is_ours.get(ONLINE, is_ours[REGISTRY]), is_ours[REGISTRY]


def views_of(
    config: Config, store: FeatureStore, aggregators: Sequence[Aggregator] | None = None
) -> list[FeatureView]:
    """Return the registered views, and the declared ones: a registry may be lost."""
    objects = declare(config, chosen(config, aggregators))
    entities = {o.name: o for o in objects if isinstance(o, Entity)}
    declared = [o for o in objects if isinstance(o, FeatureView)]
    for view in declared:
        # Feast fills them in when a view is applied.
        keys = [entities[name] for name in view.entities]
        view.entity_columns = [
            Field(name=key.join_key, dtype=from_value_type(key.value_type)) for key in keys
        ]
    registered = store.registry.list_feature_views(store.project)
    return list({view.name: view for view in [*declared, *registered]}.values())


def _objects(store: FeatureStore) -> int:
    registry, project = store.registry, store.project
    entities = [e for e in registry.list_entities(project) if e.name != DUMMY_ENTITY_NAME]
    lists = (
        registry.list_data_sources,
        registry.list_all_feature_views,
        registry.list_feature_services,
        registry.list_saved_datasets,
        registry.list_validation_references,
        registry.list_permissions,
    )
    return len(entities) + sum(len(objects(project)) for objects in lists)


def _has_states(config: Config, store: FeatureStore) -> bool:
    if online_kind(store) not in STATES:
        return False
    states = open_states(config, store)
    try:
        return states.base() is not None
    finally:
        states.close()


def _clear_states(config: Config, store: FeatureStore) -> None:
    states = open_states(config, store)
    try:
        states.clear()
    finally:
        states.close()
