"""The rules of a sequence: which actions count, for how long, how many."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from transformations import names
from transformations.expressions import Expression

IdType = Literal["int64", "string"]
Sign = Literal["positive", "negative", "neutral"]
SIGNS: Mapping[Sign, int] = {"positive": 1, "negative": -1, "neutral": 0}


@dataclass(frozen=True)
class Attribute:
    """What an action carries beside member, item, name and time.

    Attributes:
        kind: A number (float64), one of a few categories, or a text.
        minimum, maximum: Bounds of a number, both included; None for none.
        max_length: Of a category or a text, in characters.
    """

    kind: Literal["number", "category", "text"]
    minimum: float | None = None
    maximum: float | None = None
    max_length: int = 200


@dataclass(frozen=True)
class Action:
    """What one kind of action says.

    Attributes:
        sign: Whether the member likes the item, where no condition below holds.
        positive_if, negative_if: Conditions on the attributes; the first that holds decides.
        text: What holds the text that it carries instead of an item, as a search does: a column of
            the source, a key of a message; None where it has an item.
        item_kind: The kind of its items; None for any.
    """

    sign: Sign
    positive_if: Expression | None = None
    negative_if: Expression | None = None
    text: str | None = None
    item_kind: str | None = None

    @property
    def can_be_positive(self) -> bool:
        """Whether some such action may be positive."""
        return self.sign == "positive" or self.positive_if is not None


SEARCH = "search"
"""The kind of the items that stand for a text."""

MISSING = "\x1a"
"""A missing category or text inside a list, which in Feast's stores holds no null; a number is NaN
there. It is the character SUBSTITUTE, which no value may hold."""

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Before most logs, and after every time in seconds that is taken for milliseconds."""
LATEST = timedelta(days=365)
"""How far ahead a time may lie; one in milliseconds that is taken for seconds lies further."""


@dataclass(frozen=True)
class Rules:
    """What decides how events become sequences and vectors; no path, no source.

    Attributes:
        member_id_type: The type of member_id.
        item_id_type: The type of item_id.
        actions: Each action's name → what it says, in the order of the aggregators' codes.
        window: How long an action counts: as_of - window <= event_timestamp < as_of.
        length: A sequence holds at most this many of the newest actions.
        dim: Dimension of the item vectors.
        attributes: What each action carries, by name.
        earliest: A time before it is not one that can be meant: its unit is another.
        latest: So is a time that lies further ahead.
    """

    member_id_type: IdType
    item_id_type: IdType
    actions: Mapping[str, Action]
    window: timedelta
    length: int
    dim: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    earliest: datetime = EARLIEST
    latest: timedelta = LATEST

    @property
    def id_types(self) -> dict[str, IdType]:
        """The type of each id, by its column."""
        return {"member_id": self.member_id_type, "item_id": self.item_id_type}

    @property
    def id_key(self) -> str:
        """Both types in digests; one word where they agree, as in the digests made before."""
        return "/".join(dict.fromkeys(self.id_types.values()))

    @property
    def texts(self) -> dict[str, str]:
        """Each action that carries a text instead of an item → what holds the text."""
        return {name: one.text for name, one in self.actions.items() if one.text is not None}

    def action_code(self, action: str) -> int:
        """Return the aggregators' number of an action: 1 for the first; 0 is PAD."""
        return list(self.actions).index(action) + 1

    @property
    def count_columns(self) -> list[str]:
        """The counts of a member row: n_actions, then n_<action> in the configured order."""
        return ["n_actions", *map(names.count_column, self.actions)]
