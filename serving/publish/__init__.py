"""The online side of a day: apply the declarations, materialize a snapshot, read it back."""

from serving.publish.ask import ask
from serving.publish.feast_store import apply, open_store
from serving.publish.items import ItemsOnline
from serving.publish.read_back import read_back, read_back_lists
from serving.publish.reset import remove_online, what_online
from serving.publish.retire import retire_views, what_retires
from serving.publish.snapshots import publish, publish_items, publish_lists
from serving.publish.stamps import restamp, restamp_lists, set_aside

__all__ = [
    "ItemsOnline",
    "apply",
    "ask",
    "open_store",
    "publish",
    "publish_items",
    "publish_lists",
    "read_back",
    "read_back_lists",
    "remove_online",
    "restamp",
    "restamp_lists",
    "retire_views",
    "set_aside",
    "what_online",
    "what_retires",
]
