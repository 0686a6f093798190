"""One column of several: by what the user named, by its name, by what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.init.known import ROLES
from pipelines.init.look import Column, Source
from transformations import clock
from transformations.errors import InputError
from transformations.names import plain
from transformations.readers import PER_SECOND

FIRST_YEAR = 1990
FEW_VALUES = 50


@dataclass(frozen=True)
class Choice:
    """A guess, and what it was taken from in a few words."""

    value: Any
    why: str


def named(option: str, source: Source, name: str) -> Choice:
    """Return the column that an option names.

    Raises:
        InputError: the source has none of that name.
    """
    if name not in [column.name for column in source.columns]:
        raise InputError(
            f"{option}: expected a column of {source.name}, got {name!r}; its columns are: "
            f"{source.names}"
        )
    return Choice(name, f"{option} names it")


def by_name(role: str, columns: Sequence[Column]) -> list[Column]:
    """Return the columns that have the surest of a role's names that occur: none, one or more."""
    for names in ROLES[role]:
        found = [column for column in columns if plain(column.name) in names]
        if found:
            return found
    return []


def only(
    role: str,
    option: str,
    source: Source,
    by_their_names: Sequence[Column],
    by_what_they_hold: Sequence[Column],
    holds: str,
) -> Choice:
    """Return the one column by name, else the one by content.

    Args:
        holds: What such a column holds, for the reason and the error.

    Raises:
        InputError: there are several, or none; the message lists the columns and the option.
    """
    if len(by_their_names) == 1:
        return Choice(by_their_names[0].name, "its name")
    found = by_their_names or by_what_they_hold
    if len(found) == 1:
        return Choice(found[0].name, f"the only column of {holds}")
    basis = "by their names" if by_their_names else f"of {holds}"
    got = f"{len(found)} {basis}: {', '.join(c.name for c in found)}" if found else "none"
    raise InputError(
        f"{option}: expected one column for {role} in {source.name}, got {got}; name it with "
        f"{option} COLUMN. The columns are: {source.names}"
    )


def time_unit(column: Column, now: datetime | None = None) -> Choice | None:
    """Return the unit of a column of times, None where it is none.

    Integers since 1970 lie between 1990 and next year, which only one unit makes of them.
    """
    if column.is_list:
        return None
    if column.is_time:
        zone = "with a time zone" if column.zoned >= column.times else "no time zone: taken as UTC"
        return Choice(
            "timestamp", f"{'text that reads as times' if column.is_text else 'timestamps'}, {zone}"
        )
    if column.middle is None or column.whole < 0.9 * column.given:
        return None
    first = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
    last = datetime((now or clock.now()).year + 2, 1, 1, tzinfo=UTC)
    for unit, per_second in PER_SECOND.items():
        seconds = column.middle // per_second
        if first.timestamp() <= seconds < last.timestamp():
            middle = datetime.fromtimestamp(seconds, UTC)
            return Choice(unit, f"whole numbers, in the middle {middle:%Y-%m-%d}; UTC")
    return None
