"""What `feast apply` registers: the objects that the configuration and the catalogue call for."""

from feature_repo.views import declare
from transformations.config import load_config

_CONFIG = load_config()

# Feast opens the registry, by default data/registry.db, right after it has imported this module;
# SQLite makes the file but not its folder, and a clean clone has no data yet.
_CONFIG.data.mkdir(parents=True, exist_ok=True)

# Feast registers what it finds as a module's attributes; a list of objects it would not see.
globals().update(
    {f"{type(_object).__name__}_{_object.name}": _object for _object in declare(_CONFIG)}
)
