"""The online side of a day: apply the declarations, materialize a snapshot, read it back."""

from serving.publish.ask import ask
from serving.publish.feast_store import apply, open_store
from serving.publish.items import ItemsOnline
from serving.publish.read_back import read_back, read_back_profiles, read_back_tables
from serving.publish.reset import remove_online, what_online
from serving.publish.retire import retire_views, what_retires
from serving.publish.snapshots import (
    Table,
    publish,
    publish_items,
    publish_lapsed,
    publish_profiles,
    publish_tables,
    tables_beside,
    views,
)
from serving.publish.stamps import restamp, restamp_tables, set_aside

__all__ = [
    "ItemsOnline",
    "Table",
    "apply",
    "ask",
    "open_store",
    "publish",
    "publish_items",
    "publish_lapsed",
    "publish_profiles",
    "publish_tables",
    "read_back",
    "read_back_profiles",
    "read_back_tables",
    "remove_online",
    "restamp",
    "restamp_tables",
    "retire_views",
    "set_aside",
    "tables_beside",
    "views",
    "what_online",
    "what_retires",
]
