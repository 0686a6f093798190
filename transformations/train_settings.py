"""`train:` of `activity.yaml`: where a new fit begins, and what training weighs."""

from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from transformations.durations import Duration
from transformations.expressions import Kind, parse

Mode = Literal["full", "incremental"]

WEIGHT_NAMES: dict[str, Kind] = {"member_actions": "number", "action_share": "number"}


class TrainSettings(BaseModel):
    """How item spaces, aggregators and rankers are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "full"
    """`full`: a fit begins from nothing. `incremental`: from the weights of the one before, and
    learns from the newest activity. A text in place of the section is the mode."""
    buffer: Duration = timedelta(days=28)
    """What an incremental fit learns from: the newest actions of this time, and in any case those
    since the fit that it goes on from, so that none is passed over."""
    full_every: int = Field(default=4, ge=1)
    """Every how many-th fit is a full one."""
    lines: dict[str, Mode] = {}
    """An item encoder, aggregator or ranker of the catalogue, as wide_v1 → its own mode."""
    weight: str | None = None
    """A factor of each label's weight, over `member_actions` (of the label's member, in all) and
    `action_share` (of its kind among all actions): `min(1, member_actions / 10)` lets members with
    few actions count less, `1 / action_share` lets rare actions count more."""
    weight_bounds: tuple[float, float] = (0.1, 10.0)
    """Smaller and larger factors are cut to these."""

    @model_validator(mode="before")
    @classmethod
    def _a_mode_alone(cls, raw: Any) -> Any:
        """Let `train: incremental` stand for the mode."""
        return {"mode": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _a_factor(self) -> Self:
        low, high = self.weight_bounds
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"expected bounds above 0, the lower one first, got {low} and {high}")
        if self.weight is not None:
            parse(self.weight, WEIGHT_NAMES, "number")
        return self

    @property
    def weighing(self) -> dict[str, Any]:
        """What the weights of labels depend on, as JSON values."""
        return self.model_dump(include={"weight", "weight_bounds"})

    @property
    def macro(self) -> str:
        """SQL that makes the factor a macro, `weight_of(member_actions, action_share)`.

        It is 1 where the factor is unknown.
        """
        factor = "1.0"
        if self.weight is not None:
            low, high = self.weight_bounds
            given = parse(self.weight, WEIGHT_NAMES, "number").sql
            factor = f"greatest({low}, least({high}, coalesce({given}, 1.0)))"
        return f"create or replace temp macro weight_of({', '.join(WEIGHT_NAMES)}) as {factor}"
