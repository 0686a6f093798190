"""Who calls the functions that build tables bucket by bucket: this machine's processes, or Spark.

The functions are those of `transformations` and `models`, the same for all; an engine only decides
where they run. docs/spark.md shows how.
"""

import importlib
from functools import lru_cache

from transformations.config import Config
from transformations.engine_settings import EngineSettings
from transformations.tasks import Engine

KINDS = {
    "local": "pipelines.engine.local:LocalEngine",
    "spark": "pipelines.engine.spark:SparkEngine",
}


def engine_of(config: Config) -> Engine:
    """Return the engine that `engine.kind` names; nothing is started before its first task."""
    return _opened(config.engine.model_dump_json())


@lru_cache
def _opened(settings: str) -> Engine:
    """Return the one engine of these settings: processes and sessions live as long as this one."""
    given = EngineSettings.model_validate_json(settings)
    module, _, name = KINDS[given.kind].partition(":")
    made: Engine = getattr(importlib.import_module(module), name)(given)
    return made
