"""`drift:` and `alerts:` of `activity.yaml`: which measures may stop, and who is told."""

import shlex
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Drift(_Strict):
    """What is measured after a run has staged its sources, and what may come of it."""

    days: int = Field(default=28, ge=14, le=365)
    """How many days before are the baseline."""
    only_warn: list[str] = []
    """Names of measures that never stop, as `activity drift` shows them."""


class Alerts(_Strict):
    """Who is told of a new stop, as JSON."""

    command: list[str] = []
    """A command line that gets it as its input; a text is split as a shell would."""
    webhook: str = ""
    """A URL that it is posted to; it may name `${VARIABLES}` of the environment."""

    @field_validator("command", mode="before")
    @classmethod
    def _as_a_shell_splits(cls, given: Any) -> Any:
        return shlex.split(given) if isinstance(given, str) else given

    @field_validator("webhook")
    @classmethod
    def _over_http(cls, given: str) -> str:
        if given and not given.startswith(("http://", "https://", "$")):
            raise ValueError(f"expected a URL that begins with http:// or https://, got {given!r}")
        return given
