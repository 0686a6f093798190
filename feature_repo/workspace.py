"""The Feast objects of a workspace, for its definitions.py: two lines there, the rest here."""

from pathlib import Path
from typing import Any

from feature_repo.project import declare_project
from feature_repo.views import declare
from transformations.config import Config, load_config


def declared(definitions: str) -> dict[str, Any]:
    """Return the objects of the workspace that a definitions.py lies in, by names for a module.

    Feast registers a module's attributes; it would not see a list of objects. The folder of the
    file decides, not where a process stands nor $ACTIVITY_CONFIG: another workspace's schema
    never replaces this one's.

    Args:
        definitions: The `__file__` of that module.
    """
    return attributes(load_config(Path(definitions).resolve().parent))


def attributes(config: Config) -> dict[str, Any]:
    """Return the objects of a configuration, by names for a module."""
    # Feast opens the registry (by default data/registry.db) right after importing the module.
    # SQLite makes the file but not its folder, and a new workspace has no data folder.
    config.data.mkdir(parents=True, exist_ok=True)
    objects = [declare_project(config), *declare(config)]
    return {f"{type(found).__name__}_{found.name}": found for found in objects}
