"""What `feast apply` registers: the objects of the configuration and the catalogue."""

from feature_repo.views import declare
from transformations.config import load_config

_CONFIG = load_config()

# Feast opens the registry (by default data/registry.db) right after importing this module. SQLite
# makes the file but not its folder, and a clean clone has no data folder.
_CONFIG.data.mkdir(parents=True, exist_ok=True)

# Feast registers a module's attributes; it would not see a list of objects.
globals().update(
    {f"{type(_object).__name__}_{_object.name}": _object for _object in declare(_CONFIG)}
)
