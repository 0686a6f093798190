"""Events and items from their sources: typed rows, one partition per period, and quarantine."""

from transformations.sources.activity import stage_activity
from transformations.sources.items import stage_items

__all__ = ["stage_activity", "stage_items"]
