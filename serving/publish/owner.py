"""Whose a Feast project is: a workspace writes to its own projects only.

Two workspaces may share a registry and an online store. What they must not share is a project: its
views would be replaced, and two item spaces would lie in one online store. So every project has an
owner's mark, in the registry and in the online store (serving/publish/marks.py), which the first
`apply` sets.
"""

from typing import Any

from feast import Entity, FeatureStore, FeatureView
from feast.feature_view import DUMMY_ENTITY_NAME

from feature_repo.views import declare
from operations.workspace import Workspace, workspace_of
from serving.publish.marks import marks_of
from transformations.config import Config
from transformations.errors import InputError


def claim(config: Config, store: FeatureStore) -> None:
    """Make the configured workspace the owner of its Feast project, or refuse; write nothing then.

    A project without a mark and without objects is new. One without a mark but with objects was
    made by an older version or by hand: it is taken over where its ids and item vectors fit.

    Raises:
        InputError: the project is another workspace's, or it holds what this one would replace.
    """
    ours = workspace_of(config)
    marks = marks_of(store)
    found = {where: mark.read() for where, mark in marks.items()}
    refuse_others(config, store, ours, found)
    if not any(found.values()):
        refuse_unfit(config, store)
    for where, mark in marks.items():
        if found[where] is None:
            mark.write(ours)
            # Another workspace may have been faster.
            refuse_others(config, store, ours, {where: mark.read()})


def refuse_others(
    config: Config, store: FeatureStore, ours: Workspace, found: dict[str, Workspace | None]
) -> None:
    """Raise InputError where a mark names another workspace."""
    others = {where: owner for where, owner in found.items() if owner and owner.id != ours.id}
    if others:
        named = " and ".join(f"{owner} in the {where}" for where, owner in others.items())
        folders = " and ".join(sorted({owner.name for owner in others.values()}))
        raise InputError(
            f"the Feast project {store.project!r} is another workspace's: expected the mark of "
            f"{ours}, got that of {named}. Nothing was changed. Either write another `project:` "
            f"into {config.path(config.feature_store)}, or run `activity reset` in {folders} first"
        )


def refuse_unfit(config: Config, store: FeatureStore) -> None:
    """Raise InputError where a project without a mark holds what is not this workspace's kind."""
    registered = {entity.name: entity for entity in store.registry.list_entities(store.project)}
    registered.pop(DUMMY_ENTITY_NAME, None)
    views = {view.name: view for view in store.registry.list_feature_views(store.project)}
    declared = declare(config, ())
    entities = {o.name: o for o in declared if isinstance(o, Entity)}
    differences = [
        f"the entity {name}: expected {_type(entities.get(name))}, got {_type(entity)}"
        for name, entity in sorted(registered.items())
        if _type(entities.get(name)) != _type(entity)
    ]
    for view in declared:
        if isinstance(view, FeatureView) and view.name == config.item_view and view.name in views:
            wanted, got = _dim(view), _dim(views[view.name])
            if got not in (wanted, 0):
                differences.append(f"{view.name}: expected vectors of {wanted}, got {got} numbers")
    if differences:
        raise InputError(
            f"the Feast project {store.project!r} has no owner's mark and holds other objects than "
            f"this workspace's: {'; '.join(differences)}. Nothing was changed. Write another "
            f"`project:` into {config.path(config.feature_store)}, or remove that project first"
        )


def _type(entity: Any) -> str:
    if entity is None:
        return "no such entity"
    return f"{entity.join_key} of type {entity.value_type.name}"


def _dim(view: FeatureView) -> int:
    return next((field.vector_length for field in view.features if field.name == "embedding"), 0)
