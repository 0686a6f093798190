"""The columns of an events source: who, what, how, when."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.init.choose import FEW_VALUES, Choice, by_name, named, only, time_unit
from pipelines.init.look import Column, Source
from transformations.errors import InputError

OPTIONS = {
    "member_id": "--member",
    "item_id": "--item",
    "action": "--action",
    "event_timestamp": "--timestamp",
}


@dataclass(frozen=True)
class EventsGuess:
    """Where an event's columns are, and the unit of its times."""

    source: Source
    columns: Mapping[str, Choice]
    """Our name of a column → the source's."""
    time_unit: Choice

    def column(self, role: str) -> Column:
        """Return what was seen of the column of a role."""
        return self.source.column(self.columns[role].value)

    @property
    def names(self) -> dict[str, str]:
        """Our name of a column → the source's."""
        return {role: choice.value for role, choice in self.columns.items()}


def guess_events(
    source: Source,
    asked: Mapping[str, str],
    overlaps: Mapping[tuple[str, str], float] | None = None,
) -> EventsGuess:
    """Guess which column is which.

    Args:
        asked: Our name of a column → the one that the user named.
        overlaps: (events column, items column) → the share of its values found there.

    Raises:
        InputError: a column cannot be told; the message lists them and the option that names it.
    """
    found = {role: named(OPTIONS[role], source, name) for role, name in asked.items()}
    if "event_timestamp" not in found:
        found["event_timestamp"] = _timestamp(source, _rest(source, found))
    unit = time_unit(source.column(found["event_timestamp"].value))
    if unit is None:
        column = source.column(found["event_timestamp"].value)
        raise InputError(
            f"--timestamp: expected timestamps, text such as 2026-01-31T06:00:00Z or whole numbers "
            f"since 1970 in column {column.name!r} of {source.name}, got for example "
            f"{column.example!r} ({column.kind})"
        )
    if "action" not in found:
        found["action"] = _action(source, _rest(source, found))
    rest = _rest(source, found)
    if "member_id" not in found and by_name("member_id", rest):
        found["member_id"] = _member(source, rest)
    if "item_id" not in found:
        found["item_id"] = _item(source, _rest(source, found), overlaps or {})
    if "member_id" not in found:
        found["member_id"] = _member(source, _rest(source, found))
    late = _ingested_at(_rest(source, found), unit)
    columns = {role: found[role] for role in OPTIONS} | ({"ingested_at": late} if late else {})
    return EventsGuess(source, columns, unit)


def id_type(what: str, columns: Sequence[Column]) -> Choice:
    """Return int64 if every value of every column is a whole number as int64 would write it."""
    for column in columns:
        if column.whole < column.given:
            example = f", such as {column.example!r}" if column.example else ""
            return Choice("string", f"not all {what} ids are whole numbers{example}")
    return Choice("int64", f"all {what} ids are whole numbers without leading zeros")


def _rest(source: Source, found: Mapping[str, Choice]) -> list[Column]:
    taken = {choice.value for choice in found.values()}
    return [column for column in source.columns if column.name not in taken and column.given]


def _timestamp(source: Source, columns: Sequence[Column]) -> Choice:
    times = [column for column in columns if time_unit(column)]
    late = {column.name for column in by_name("ingested_at", times)}
    others = [column for column in times if column.name not in late]
    # An id can look like seconds since 1970; text and timestamps cannot.
    clear = [column for column in others if column.is_time] or others
    return only(
        "the time", "--timestamp", source, by_name("event_timestamp", times), clear, "times"
    )


def _action(source: Source, columns: Sequence[Column]) -> Choice:
    plausible = [column for column in columns if not column.is_list and not time_unit(column)]
    few = [
        column
        for column in plausible
        if column.is_text
        and column.distinct <= FEW_VALUES
        and column.distinct < column.given
        and not re.fullmatch(r"-?[\d.]+", column.example or "")
        and not _names_an_id(column, columns)
    ]
    by_their_names = by_name("action", [c for c in plausible if c.distinct <= 4 * FEW_VALUES])
    if not by_their_names and not few:
        raise InputError(
            f"--action: expected a column with each event's action (APPLY, click, …) in "
            f"{source.name}, got none. Where all events are one action, add a column that says "
            "which (there is no key for that yet); where a number rates the item, one "
            "that says LIKE or DISLIKE. Then name it with --action "
            f"COLUMN. The columns are: {source.names}"
        )
    return only("the action", "--action", source, by_their_names, few, "text with few values")


def _names_an_id(column: Column, columns: Sequence[Column]) -> bool:
    return any(column in by_name(role, columns) for role in ("member_id", "item_id"))


def _item(
    source: Source, columns: Sequence[Column], overlaps: Mapping[tuple[str, str], float]
) -> Choice:
    ids = [column for column in columns if column.may_be_id]
    best: dict[str, float] = {}
    for (event, _), share in overlaps.items():
        if event in [column.name for column in ids]:
            best[event] = max(share, best.get(event, 0.0))
    by_their_names = by_name("item_id", columns)
    if not by_their_names and best:
        top = max(best.values())
        first = [column for column in ids if best.get(column.name) == top]
        if len(first) == 1:
            return Choice(first[0].name, f"{top:.0%} of its values are ids in the items")
    others = [column for column in ids if column.distinct < column.given]
    return only("the item's id", "--item", source, by_their_names, others, "ids")


def _member(source: Source, columns: Sequence[Column]) -> Choice:
    ids = [column for column in columns if column.may_be_id and column.distinct < column.given]
    return only(
        "the member's id", "--member", source, by_name("member_id", columns), ids, "repeated ids"
    )


def _ingested_at(columns: Sequence[Column], unit: Choice) -> Choice | None:
    """Return the column by its name; events.time_unit holds for it too."""
    for column in by_name("ingested_at", columns):
        own = time_unit(column)
        if own is not None and own.value == unit.value:
            return Choice(column.name, "its name")
    return None
