"""`release:` of `activity.yaml`: how a new release comes to serve."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class ReleaseSettings(BaseModel):
    """What becomes of a release that a run has made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promote: Literal["automatic", "gated", "manual"] = "automatic"
    """`gated`: once every gate lets it; `manual`: it waits for `activity release promote N`. The
    first one serves in any case."""
