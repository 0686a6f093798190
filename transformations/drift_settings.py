"""`drift:` and `alerts:` of `activity.yaml`: which measures may stop, and who is told."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


@dataclass(frozen=True)
class Limits:
    """What of a measure is a fault.

    Attributes:
        low, high: Whether less, whether more than usual is one.
        stops: Whether it may pause fitting.
        effect: The least difference that is a warning, and a stop, on the scale of its kind
            (operations/drift_rule.py); None: those of the kind.
    """

    low: bool = True
    high: bool = True
    stops: bool = True
    effect: tuple[float, float] | None = None


_MORE = Limits(low=False)
MEASURES: Mapping[str, Limits] = {
    # Of a day's actions.
    "rows": Limits(),
    "members": Limits(),
    "items": Limits(),
    "busiest member": _MORE,
    "repeats": _MORE,
    "session actions": Limits(),
    "session minutes": Limits(),
    "action": Limits(),
    "new members": _MORE,
    "new items": _MORE,
    "unknown items": _MORE,
    "clock": Limits(),
    # Of a column's values.
    "missing": Limits(),
    "value": Limits(),
    "unseen values": _MORE,
    "mean": Limits(),
    "stability": _MORE,
    "chi-square": Limits(low=False, effect=(0.3, 0.5)),
    "ks distance": Limits(low=False, effect=(0.1, 0.2)),
    # Of the items.
    "known items": Limits(),
    "empty texts": _MORE,
    # They move more than other shares on an ordinary day.
    "changed items": Limits(low=False, effect=(0.5, 1.0)),
    # Of the rows that a run read: those did not come in, so what is staged is none the worse.
    "duplicates": Limits(low=False, stops=False),
    "refused": Limits(low=False, stops=False),
    # Of vectors.
    "norm": Limits(),
    "empty": Limits(),
    "centroid shift": _MORE,
    "kept neighbours": Limits(high=False),
    "told apart": _MORE,
    # Of what a ranker scored.
    "calibration": Limits(),
    # Of a release that has a share of the members, by its experiment.
    "harm": Limits(),
    "void": Limits(),
}
"""Each measure, by the name that people see without its part."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Drift(_Strict):
    """What is measured after a run has staged its sources, and what may come of it."""

    days: int = Field(default=28, ge=14, le=365)
    """How many days before are the baseline."""
    only_warn: list[str] = []
    """Names of measures that never stop, as `activity drift` shows them."""

    @field_validator("only_warn")
    @classmethod
    def _are_measures(cls, given: list[str]) -> list[str]:
        unknown = [name for name in given if name not in MEASURES]
        if unknown:
            raise ValueError(f"expected some of {', '.join(MEASURES)}; got {', '.join(unknown)}")
        return given


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
