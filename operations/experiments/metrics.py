"""What an experiment measures, as a person says it: `APPLY`, `HIRE per impression within 30d`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

from transformations.config import Config
from transformations.durations import DURATION_UNITS
from transformations.errors import InputError
from transformations.rules import SIGNS

Per = Literal["member", "impression", "session", "list"]
OF_SIGNS = {"positive": 1, "negative": -1}
SESSION_MINUTES, IMPRESSIONS = "session_minutes", "impressions"
LATENCY, FILLED = "latency", "filled"
"""Of the lists themselves: the seconds that one took; whether it holds an item at all."""


NO_ACTIONS = (SESSION_MINUTES, IMPRESSIONS, LATENCY, FILLED)
PER_ITSELF: Mapping[str, Per] = {SESSION_MINUTES: "session", LATENCY: "list", FILLED: "list"}
"""What these are divided by where nothing is said; all others by members."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        of: An action; an attribute that is a number, which is added up; `positive` or `negative`,
            actions of that sign; `session_minutes`, how long sessions are; `impressions`;
            `latency`, the seconds that lists took; `filled`, those that hold an item.
        per: What it is divided by: members, impressions, sessions, lists.
        within: How long after the impression (per impression) or after the member's first one an
            action counts; None: as long as the reading goes, which late actions need.
    """

    of: str
    per: Per = "member"
    within: timedelta | None = None

    @classmethod
    def read(cls, text: str, config: Config) -> "Metric":
        """Read a metric, `NAME [per member|impression|session|list] [within 30d]`.

        Raises:
            InputError: it is not like that, or nothing is called so.
        """
        form = r"(\S+)(?:\s+per\s+(member|impression|session|list))?(?:\s+within\s+(\d+)(d|h|m|s))?"
        found = re.fullmatch(form, text.strip())
        if found is None:
            raise InputError(
                "expected a metric such as APPLY, 'APPLY per impression' or 'HIRE per impression "
                f"within 30d', got {text!r}"
            )
        of, per, amount, unit = found.groups()
        numbers = [name for name, one in config.rules.attributes.items() if one.kind == "number"]
        known = [
            *config.actions,
            *numbers,
            *OF_SIGNS,
            SESSION_MINUTES,
            IMPRESSIONS,
            LATENCY,
            FILLED,
        ]
        if of not in known:
            raise InputError(f"expected a metric of {', '.join(known)}, got {of!r}")
        within = timedelta(**{DURATION_UNITS[unit]: int(amount)}) if unit else None
        default = PER_ITSELF.get(of, "member")
        metric = cls(of, cast(Per, per) if per else default, within)
        metric._refuse_senseless(config)
        return metric

    def _refuse_senseless(self, config: Config) -> None:
        if self.of == SESSION_MINUTES and self.per == "impression":
            raise InputError(f"expected {self.of} per session or member, got per impression")
        if self.of in (LATENCY, FILLED) and self.per != "list":
            raise InputError(f"expected {self.of} per list, got per {self.per}")
        if self.of == IMPRESSIONS and self.per != "member":
            raise InputError(f"expected {self.of} per member, got per {self.per}")
        if self.of in NO_ACTIONS and self.within is not None:
            raise InputError(f"expected {self.of} without `within`, which is of actions")
        if self.per == "impression" and self.of in config.rules.texts:
            raise InputError(f"{self.of} has a text and no item, so expected it per member")

    def __str__(self) -> str:
        within = f" within {_text(self.within)}" if self.within else ""
        return f"{self.of} per {self.per}{within}"

    def wants(self, config: Config) -> int:
        """Return whether more of it is better (1), or less (-1): the sign of what it counts."""
        if self.of in config.actions:
            return -1 if SIGNS[config.rules.actions[self.of].sign] < 0 else 1
        return -1 if self.of == LATENCY else OF_SIGNS.get(self.of, 1)


def _text(length: timedelta) -> str:
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
