"""What mends a refused row: the line of the configuration, where one would, and a few words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from pipelines.init.choose import time_unit
from pipelines.init.known import sign_of
from pipelines.init.look import Column
from transformations.config import ActionName, Config
from transformations.ids import LONGEST

NAMES_SHOWN = 10


@dataclass(frozen=True)
class Mend:
    """What to do about a reason.

    Attributes:
        words: In one sentence.
        lines: What to put into the configuration; empty where nothing there would help.
    """

    words: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """The values of the rows that one reason refused.

    Attributes:
        samples: Distinct values, the most frequent first.
        column: What the values look like, where they are times or vectors.
        config, now: By which they were refused.
    """

    reason: str
    samples: Sequence[str]
    column: Column
    config: Config
    now: datetime


def mend_of(refused: Refused) -> Mend:
    """Say what mends the rows that a reason refused."""
    if refused.reason.startswith("attribute "):
        _, name, problem = refused.reason.split(" ", 2)
        return Mend(ATTRIBUTE_MENDS[problem].format(f"events.attributes.{name}"))
    mend = MENDS.get(refused.reason, OTHERWISE)
    return mend if isinstance(mend, Mend) else mend(refused)


def _id_type(key: str) -> Callable[[Refused], Mend]:
    def mend(refused: Refused) -> Mend:
        if getattr(refused.config, key) == "string":
            return Mend(
                "correct the source: an id is a whole number, or a text of at most "
                f"{LONGEST} characters without NUL"
            )
        return Mend("ids that are not whole numbers need the type string", (f"{key}: string",))

    return mend


def _actions(refused: Refused) -> Mend:
    known = {name.lower(): name for name in refused.config.actions}
    lines, others = [], []
    for name in refused.samples[:NAMES_SHOWN]:
        if name.lower() in known:
            others.append(f"{name!r} is {known[name.lower()]} in another case")
            continue
        try:
            TypeAdapter(ActionName).validate_python(name)
        except ValidationError:
            others.append(f"{name!r} cannot be an action's name")
            continue
        known[name.lower()] = name
        sign = sign_of(name)
        lines.append(f"  {name}: {sign or 'positive  # or negative'}")
    more = len(refused.samples) - NAMES_SHOWN
    if more > 0:
        others.append("there are more names")
    if not refused.samples:
        others.append("the rows name no action")
    asked = "add those that shall count" if lines else "correct the source, or events.columns"
    return Mend("; ".join([asked, *others]), ("actions:", *lines) if lines else ())


def _dim(refused: Refused) -> Mend:
    dim = refused.column.dim
    if dim is None or dim == refused.config.dim:
        return Mend("correct the source: dim is the length of every vector")
    return Mend(f"all of these have {dim} numbers", (f"dim: {dim}",))


def _time(words: str) -> Callable[[Refused], Mend]:
    def mend(refused: Refused) -> Mend:
        unit = time_unit(refused.column, refused.now)
        if unit is None or unit.value == refused.config.events.time_unit:
            return Mend(words)
        return Mend(unit.why, ("events:", f"  time_unit: {unit.value}"))

    return mend


MENDS: dict[str, Mend | Callable[[Refused], Mend]] = {
    "member_id is null": Mend("correct the source, or events.columns.member_id"),
    "member_id is not of the id type": _id_type("member_id_type"),
    "item_id is null": Mend("correct the source, or the column that the configuration names"),
    "item_id is not of the id type": _id_type("item_id_type"),
    "item_id is reserved for texts": Mend(
        "other ids in the source; or leave out the `text` of the actions that have one"
    ),
    "kind is search, which is that of texts": Mend("another name for that kind of items"),
    "action is unknown": _actions,
    "event_timestamp cannot be read": _time("write times as 2026-01-31 06:30:00+00"),
    "event_timestamp is before events.earliest": _time(
        "correct the source, or set events.earliest to an earlier day"
    ),
    "ingested_at is before events.earliest": Mend(
        "correct the source: its unit is another than that of event_timestamp"
    ),
    "event_timestamp is after events.latest": _time(
        "correct the source, or set events.latest to a longer time"
    ),
    "ingested_at is after events.latest": Mend(
        "correct the source: its unit is another than that of event_timestamp"
    ),
    "event_timestamp is in the future": _time("such rows are read once their time has come"),
    "ingested_at cannot be read": Mend(
        "correct the source, or leave out events.columns.ingested_at"
    ),
    "line is malformed": Mend("correct the source: the line does not split into its columns"),
    "available_at is null or cannot be read": Mend(
        "correct the source, or leave out items.available_at: all items then count as known"
    ),
    "available_until cannot be read": Mend("correct the source, or leave out the key"),
    "embedding is no list of dim finite numbers": _dim,
}
"""Reason → what mends it; the reasons of stg_activity.sql and judged_items.sql."""

ATTRIBUTE_MENDS = {
    "is not a number": "correct the source, or the type of {}: category or text",
    "is out of range": "correct the source, or min and max of {}",
    "is too long": "correct the source, or raise max_length of {}",
    "holds U+001A": "correct the source: this character stands for a missing value",
}
"""What is wrong with an attribute's value → what mends it, for the key of the attribute."""
OTHERWISE = Mend("correct the source, or what the configuration says of that value")
"""For reasons that name an attribute, or the action whose text is refused."""
