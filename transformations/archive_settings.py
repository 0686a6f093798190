"""`archive:` of `activity.yaml`: of which sources what they gave is kept as it came."""

from pydantic import BaseModel, ConfigDict


class ArchiveSettings(BaseModel):
    """What is kept; files are the user's, and never are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sql: bool = True
    """The rows that runs read of a table of events."""
    bus: bool = True
    """The messages that stream workers read."""
