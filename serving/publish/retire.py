"""Take a fit out of service: its rows online, its views and its service in the registry."""

from collections.abc import Collection

from feast import FeatureStore, FeatureView

from serving.publish.feast_store import apply
from serving.publish.online_rows import count_online, delete_online
from transformations.config import Config


def what_retires(store: FeatureStore, views: Collection[str]) -> dict[str, int]:
    """Return how many rows each of these views has online; change nothing."""
    return count_online(store, _registered(store, views))


def retire_views(config: Config, store: FeatureStore, views: Collection[str]) -> dict[str, int]:
    """Remove these views' rows online, and all in the registry that no served fit declares.

    Call it when the ledger knows that they are retired. Killed at any point, it can be run again.
    Returns the number of rows per view.
    """
    removed = delete_online(store, _registered(store, views))
    apply(config, store)
    return removed


def _registered(store: FeatureStore, views: Collection[str]) -> list[FeatureView]:
    found = store.registry.list_feature_views(store.project)
    return [view for view in found if view.name in views]
