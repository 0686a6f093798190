"""The scalar columns of a member row, each declared once.

Table, checks, stream, request time, Feast views and the match follow from the declaration: adding a
column is one `MemberColumn` in MORE_COLUMNS (CONTRIBUTING.md shows one).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transformations import names
from transformations.rules import Rules
from transformations.timestamps import NO_TIME

UTC_US = pa.timestamp("us", tz="UTC")
ARROW = {"int64": pa.int64(), "float64": pa.float64(), "timestamp": UTC_US}


@dataclass(frozen=True)
class MemberRows:
    """What columns are made from: the sequences of some member rows, oldest first.

    Attributes:
        lengths: Actions of each row, int64 [rows].
        counts: How often each row has each configured action, in their order: int64 [rows] each.
        as_of: int64 [rows], microseconds since 1970.
        last: int64 [rows], the newest action, also one that has left the window; NO_TIME for none.
        actions: Returns the actions of all rows, flat, as `transformations.stream.Actions`;
            `member` is the row.
    """

    lengths: NDArray[np.int64]
    counts: list[NDArray[np.int64]]
    as_of: NDArray[np.int64]
    last: NDArray[np.int64]
    actions: Callable[[], Any]


@dataclass(frozen=True)
class MemberColumn:
    """One scalar column of a member row.

    Attributes:
        name: In tables and views.
        kind: The type of its values. A timestamp is in microseconds since 1970, NO_TIME where there
            is none; a float that is NaN is null in the table.
        absent: What a ranker gets of a member without a row: 0 or null. A column with 0 is an
            output of the match, and lies in the view as `stored_<name>`.
        about: One sentence for the view.
        of: Its values [rows].
        check: SQL over the columns of a member_sequences row (and as_of) that gives the same value;
            every snapshot is checked with it. None where checks/member_sequences.sql has the rule.
    """

    name: str
    kind: Literal["int64", "float64", "timestamp"]
    absent: Literal["zero", "null"]
    about: str
    of: Callable[[MemberRows], NDArray[Any]]
    check: str | None = None

    @property
    def field(self) -> pa.Field:
        """The column in Arrow."""
        return pa.field(self.name, ARROW[self.kind])

    def array(self, rows: MemberRows) -> pa.Array:
        """Return its values as Arrow [rows]."""
        values = self.of(rows)
        if self.kind == "float64":
            return pa.array(values, pa.float64(), from_pandas=True)
        array = pa.array(values, pa.int64())
        if self.kind == "int64":
            return array
        missing = values == NO_TIME
        return (pa.array(values, mask=missing) if missing.any() else array).view(UTC_US)


def _count(position: int, action: str) -> MemberColumn:
    return MemberColumn(
        names.count_column(action),
        "int64",
        "zero",
        f"How many {action} actions the sequence holds.",
        lambda rows: rows.counts[position],
    )


N_ACTIONS = MemberColumn(
    "n_actions", "int64", "zero", "How many actions the sequence holds.", lambda rows: rows.lengths
)
LAST_ACTION_AT = MemberColumn(
    "last_action_at",
    "timestamp",
    "null",
    "The newest action; online in whole seconds.",
    lambda rows: rows.last,
)
MORE_COLUMNS: tuple[MemberColumn, ...] = ()
"""Further columns, after the counts and the newest action."""


def member_columns(rules: Rules) -> tuple[MemberColumn, ...]:
    """Return the scalar columns of a member row, in order."""
    counts = (_count(position, action) for position, action in enumerate(rules.actions))
    return (N_ACTIONS, *counts, LAST_ACTION_AT, *MORE_COLUMNS)
