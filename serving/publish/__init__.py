"""Publish a snapshot: apply the declarations, materialize, read back."""

from serving.publish.feast_store import apply, open_store
from serving.publish.items import ItemsOnline
from serving.publish.read_back import read_back
from serving.publish.snapshots import publish, restamp

__all__ = ["ItemsOnline", "apply", "open_store", "publish", "read_back", "restamp"]
