"""Makes the Feast project, with the workspace that it belongs to in its tags."""

from typing import Any

import yaml
from feast import Project

from operations.workspace import Workspace, workspace_of
from transformations.config import Config
from transformations.errors import InputError
from transformations.secrets import expanded

WORKSPACE_TAG = "activity_workspace"
WORKSPACE_NAME_TAG = "activity_workspace_name"


def declare_project(config: Config) -> Project:
    """Return the project that the configured feature_store.yaml names.

    Without this object `feast apply` would register the project without tags, and `feast plan`
    would report those that `activity run` sets.

    Raises:
        InputError: the settings file is missing or names no project.
    """
    file = config.path(config.feature_store)
    try:
        settings = expanded(yaml.safe_load(file.read_text()))
        name = settings["project"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: expected Feast's settings with the key 'project', got "
            f"{type(error).__name__}: {error}"
        ) from None
    return marked_project(workspace_of(config), name, settings.get("project_description"))


def marked_project(workspace: Workspace, name: str, description: str | None = None) -> Project:
    """Return a project that is marked as a workspace's."""
    return Project(name=name, description=description or "", tags=tags_of(workspace))


def tags_of(workspace: Workspace) -> dict[str, str]:
    """Return the tags that mark a project as a workspace's."""
    return {WORKSPACE_TAG: workspace.id, WORKSPACE_NAME_TAG: workspace.name}


def workspace_in(tags: dict[str, Any]) -> Workspace | None:
    """Return the workspace that a project's tags name; None where they name none."""
    if WORKSPACE_TAG not in tags:
        return None
    return Workspace(tags[WORKSPACE_TAG], tags.get(WORKSPACE_NAME_TAG, "unnamed"))
