"""`release:` of `activity.yaml`: how a new release comes to serve, and what decides about it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ReleaseSettings(BaseModel):
    """What becomes of a release that a run has made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promote: Literal["automatic", "gated", "manual"] = "gated"
    """`gated`: once every gate lets it; `manual`: it waits for `activity release promote N`. The
    first one serves in any case."""
    share: float = 1.0
    """Of the members, whom a run gives a new release to first; 1: all of them at once."""
    metric: str = "positive"
    """What it has to keep or to better while it has a share, as `activity experiment` takes it."""
    guardrails: list[str] = []
    """What it may not make worse by more than a bound. Default: as of other experiments."""
    minimum_effect: float = Field(default=0.05, gt=0)
    """The change of the metric that is worth the cost, of what it was."""
    weeks: int = Field(default=2, ge=1)
    """Whole ones, before which nothing but harm decides."""

    @field_validator("share")
    @classmethod
    def _all_or_at_most_half(cls, given: float) -> float:
        if not 0 < given <= 0.5 and given != 1:
            raise ValueError(
                f"expected a share above 0 and at most 0.5, or 1 for all, got {given:g}"
            )
        return given
