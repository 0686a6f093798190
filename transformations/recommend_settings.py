"""`recommend:` of `activity.yaml`: how long an answer may take, and the rules of a list."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from transformations.durations import Delay, Duration

MOST_ITEMS = 1_000
"""Of one answer."""


def _context_key(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"expected a key of lower-case letters, digits and _, got {name!r}; it becomes the "
            "name of a feature"
        )
    return name


def _several(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


ContextKey = Annotated[str, AfterValidator(_context_key)]
Values = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Boost(_Strict):
    """Items whose column has a value count more, or less."""

    column: str
    value: str = Field(alias="is")
    by: float = Field(gt=0, le=1_000)
    """A factor of the score: above 1 for more, below 1 for less."""


class Pinned(_Strict):
    """An item that stands at a position of every list."""

    item: StrictInt | StrictStr
    position: int = Field(ge=1, le=MOST_ITEMS)
    """From 1 on."""


class RecommendRules(_Strict):
    """What a list holds beside what scores best (serving/recommend/rules.py has the order)."""

    leave_out_acted: Duration | None = None
    """Items that the member acted on within this time stay out."""
    leave_out_actions: list[str] = []
    """Only these actions keep an item out. Default: any."""
    leave_out: dict[str, Values] = {}
    """Column of an item → values; items that have one of them stay out."""
    only: dict[str, Values] = {}
    """Column of an item → values; items that have none of them stay out."""
    boosts: list[Boost] = []
    caps: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Column of an item → how many items of one value a list may hold."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """0: by score alone; 1: each item as unlike those before it as can be."""
    pinned: list[Pinned] = []
    explore: float = Field(default=0.0, ge=0, lt=1)
    """The probability with which a place of a list is given to a drawn candidate."""

    @property
    def columns(self) -> set[str]:
        """The columns of items that the rules read."""
        boosted = {boost.column for boost in self.boosts}
        return {*self.leave_out, *self.only, *self.caps} | boosted

    @field_validator("pinned")
    @classmethod
    def _each_once(cls, pinned: list[Pinned]) -> list[Pinned]:
        for what in ("item", "position"):
            given = [getattr(pin, what) for pin in pinned]
            if len(set(given)) < len(given):
                raise ValueError(f"expected each {what} once, got {given}")
        return pinned

    @model_validator(mode="after")
    def _actions_of_a_time(self) -> Self:
        if self.leave_out_actions and self.leave_out_acted is None:
            raise ValueError("`leave_out_actions` needs `leave_out_acted`: within which time")
        return self


class ImpressionSettings(_Strict):
    """How what was shown is written down."""

    keep: bool = True
    spool: int = Field(default=1_000, ge=1, le=1_000_000)
    """Answers that may wait for the disk in a process's memory: a killed one loses no more. What
    comes beyond is not written, and counted."""
    every: Duration = timedelta(seconds=5)
    """Time between two writes."""
    topic: str | None = None
    """The URL of a bus that gets each answer too; it may name ${VARIABLES} of the environment."""


class Recommend(_Strict):
    """What the service of recommendations does."""

    deadline: Duration = timedelta(milliseconds=100)
    """Within it there is an answer, from what is ready by then."""
    n: int = Field(default=20, ge=1, le=MOST_ITEMS)
    """Items of an answer that does not ask for another number."""
    keep: Delay = timedelta(seconds=30)
    """How long a process answers the same question from memory; 0s: never. A new action of the
    member makes another question."""
    context: dict[ContextKey, Literal["category", "number"]] = {}
    """What a request may say beside the member: where the list is shown, the device."""
    precompute: int = Field(default=5_000, ge=0, le=10_000_000)
    """For how many members, the ones that acted last, a run makes lists; 0: none."""
    rules: RecommendRules = RecommendRules()
    impressions: ImpressionSettings = ImpressionSettings()
    log_features: float = Field(default=0.01, ge=0, le=1)
    """Of how many answers that are ranked the features are written down, for `activity skew`."""
    attribution: Duration = timedelta(days=1)
    """How long after an item was shown an action on it counts as what came of it."""
