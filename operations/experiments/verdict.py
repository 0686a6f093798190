"""What an experiment says, in a plain sentence: go on, stop for harm, ship, or no difference.

Harm may stop it at any time. To ship, or to say that nothing is worth the cost, needs the whole
weeks that it was started for, since members of a Sunday are others than those of a Monday.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from operations.experiments.intervals import Effect
from transformations.errors import InputError

Kind = Literal["go on", "stop for harm", "ship", "no difference worth the cost", "void"]


@dataclass(frozen=True)
class Guardrail:
    """A metric that may not get worse by more than a bound.

    Attributes:
        metric: Its text, as `negative per impression`.
        bound: The lift that is still allowed: 0.1 lets it rise by 10 %, -0.1 fall by 10 %.
        is_upper: Whether the bound is above.
    """

    metric: str
    bound: float
    is_upper: bool

    @classmethod
    def read(cls, text: str) -> "Guardrail":
        """Read `negative per impression <= 10%` or `SAVE >= -5%`.

        >>> Guardrail.read("SAVE >= -5%")
        Guardrail(metric='SAVE', bound=-0.05, is_upper=False)

        Raises:
            InputError: it is not like that.
        """
        found = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*([+-]?\d+(?:\.\d+)?)\s*%\s*", text)
        if found is None:
            raise InputError(
                "expected a guardrail such as 'negative per impression <= 10%' (its change, of the "
                f"control's), got {text!r}"
            )
        return cls(found[1], float(found[3]) / 100, found[2] == "<=")

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Guardrail":
        """Read what the ledger keeps."""
        return cls(str(kept["metric"]), float(kept["bound"]), bool(kept["is_upper"]))

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.is_upper else '>='} {100 * self.bound:+g}%"

    def is_broken(self, found: Effect) -> bool:
        """Whether the metric surely got worse than the bound: its whole interval is beyond."""
        if found.low is None or found.high is None:
            return False
        return found.low > self.bound if self.is_upper else found.high < self.bound

    def is_kept(self, found: Effect) -> bool:
        """Whether nothing speaks against the metric: it is within the bound, or by chance beyond.

        That is, where a single look would not tell it from no change at all.
        """
        if found.lift is None:
            return True
        if found.lift <= self.bound if self.is_upper else found.lift >= self.bound:
            return True
        low, high = found.fixed()
        return low <= 0 <= high


@dataclass(frozen=True)
class Verdict:
    """What to do, and why, in a sentence."""

    kind: Kind
    why: str

    @property
    def ends(self) -> bool:
        """Whether it is over: nobody learns more by waiting."""
        return self.kind != "go on"

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}"


def decide(
    metric: str,
    primary: Effect,
    guardrails: Sequence[tuple[Guardrail, Effect]],
    minimum_effect: float,
    days: float,
    weeks: int,
    wants: int = 1,
    faults: Sequence[str] = (),
) -> Verdict:
    """Return the verdict.

    Args:
        metric: The primary metric's text.
        minimum_effect: The lift that is worth the cost, above 0.
        days: Since the start.
        weeks: Whole ones, before which nothing but harm ends it.
        wants: 1 if more of the primary metric is better, -1 if less is.
        faults: What voids it, each a sentence; then no number may be trusted.

    >>> decide("SAVE", Effect(0.1, 0.11, 0.1, 0.02, 0.18, 0.03), [], 0.05, days=14, weeks=2)
    Verdict(kind='ship', why='SAVE is better by 10.0% (at least 2.0%).')
    """
    if faults:
        return Verdict("void", " ".join(faults))
    for guardrail, found in guardrails:
        if guardrail.is_broken(found):
            return Verdict(
                "stop for harm",
                f"{guardrail.metric} changed by {said(found)}; allowed is {guardrail}.",
            )
    low, high = _bounds(primary, wants)
    if high < 0:
        return Verdict(
            "stop for harm", f"{metric} is worse by {abs(primary.lift or 0):.1%} (at least "
            f"{-high:.1%})."
        )  # fmt: skip
    if not primary.is_known:
        return Verdict("go on", f"too few members have {metric} yet to say anything.")
    if days < 7 * weeks:
        until = "1 whole week" if weeks == 1 else f"{weeks} whole weeks"
        so_far = f"{metric} changed by {said(primary)}"
        return Verdict("go on", f"{until} are not over yet (day {int(days)}); {so_far}.")
    if low > 0:
        for guardrail, found in guardrails:
            if not guardrail.is_kept(found):
                return Verdict(
                    "go on",
                    f"{metric} is better by at least {low:.1%}, but {guardrail.metric} changed by "
                    f"{said(found)}, which may be beyond what is allowed ({guardrail}).",
                )
        better = abs(primary.lift or 0)
        return Verdict("ship", f"{metric} is better by {better:.1%} (at least {low:.1%}).")
    if high < minimum_effect:
        return Verdict(
            "no difference worth the cost",
            f"{metric} is better by at most {high:.1%}; worth the cost would be "
            f"{minimum_effect:.1%}.",
        )
    return Verdict(
        "go on",
        f"{metric} changed by {said(primary)}: it may still be worth the cost "
        f"({minimum_effect:.1%}), or harm.",
    )


def said(found: Effect) -> str:
    """Return a lift with its interval, as `+1.2% (-0.4% to +2.8%)`."""
    if found.lift is None:
        return "an unknown part"
    if found.low is None or found.high is None:
        return percent(found.lift)
    return f"{percent(found.lift)} ({percent(found.low)} to {percent(found.high)})"


def percent(lift: float) -> str:
    """Return a lift as people read it, as `+1.2%`."""
    return f"{lift:+.1%}" if math.isfinite(lift) else "any rise"


def _bounds(found: Effect, wants: int) -> tuple[float, float]:
    """Return the interval of the improvement."""
    if found.low is None or found.high is None:
        return -math.inf, math.inf
    return (found.low, found.high) if wants > 0 else (-found.high, -found.low)
