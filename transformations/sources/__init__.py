"""Events, items and members from their sources: typed rows, and quarantine."""

from transformations.sources.activity import stage_activity
from transformations.sources.items import stage_items
from transformations.sources.members import stage_members

__all__ = ["stage_activity", "stage_items", "stage_members"]
