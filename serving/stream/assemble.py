"""What a stream worker is made of, opened from a configuration."""

from collections.abc import Callable, Sequence
from datetime import datetime

from feast import FeatureStore

from models.spec import Aggregator
from serving.stream.offline_log import OfflineLog
from serving.stream.online_views import OnlineViews
from serving.stream.states.open import open_states
from serving.stream.updater import Fresh, utc_now
from serving.stream.vectors import Vectors
from transformations.config import Config


def assemble(
    config: Config,
    store: FeatureStore,
    aggregators: Sequence[Aggregator],
    worker: str,
    clock: Callable[[], datetime] = utc_now,
) -> Fresh:
    """Open states, views, models and the offline log of one worker.

    Args:
        aggregators: Those whose vectors the stream keeps fresh.
        worker: Its name, for its spool.
        clock: Returns now.
    """
    return Fresh(
        config,
        open_states(config, store),
        OnlineViews(config, store),
        Vectors(config, aggregators, clock()),
        OfflineLog(config, worker),
        clock,
    )
