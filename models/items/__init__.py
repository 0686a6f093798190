"""Item encoders, which turn an item's text into a vector, and the table of those vectors."""

from models.items.build import build_items

__all__ = ["build_items"]
