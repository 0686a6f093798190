"""The rules of a sequence: which actions count, for how long, how many."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from transformations import names

IdType = Literal["int64", "string"]
Sign = Literal["positive", "negative"]


@dataclass(frozen=True)
class Rules:
    """What decides how events become sequences and vectors; no path, no source.

    Attributes:
        id_type: The type of member_id and item_id.
        actions: Each action's name → its sign, in the order of the aggregators' codes.
        window: How long an action counts: as_of - window <= event_timestamp < as_of.
        length: A sequence holds at most this many of the newest actions.
        dim: Dimension of the item vectors.
    """

    id_type: IdType
    actions: Mapping[str, Sign]
    window: timedelta
    length: int
    dim: int

    def action_code(self, action: str) -> int:
        """Return the aggregators' number of an action: 1 for the first; 0 is PAD."""
        return list(self.actions).index(action) + 1

    @property
    def count_columns(self) -> list[str]:
        """The counts of a member row: n_actions, then n_<action> in the configured order."""
        return ["n_actions", *map(names.count_column, self.actions)]
