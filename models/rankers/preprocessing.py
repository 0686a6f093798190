"""From inputs as they are to numbers that weights can be multiplied with, by the training rows.

A number whose training rows are skewed beyond 2 (counts, ages: a long tail), or that is a rank,
becomes sign(x)·log(1 + |x|). Then each is centred, divided by its deviation and cut to ±10. A
missing one is 0 after that (the mean), or the mode, and a column says that it was missing, if any
training row was. As a token it is 0 and that column is there in any case: what is learned for it
stands for the missing number.

A category becomes a code, 0 for one that is missing or that too few training rows had. Each vector
is divided by its mean length over the training rows that have one, so that a short vector counts as
much as a long one at first. Of each pair of vectors in one space the entries of member ∘ item are
columns too.

Columns that say nothing in training (all missing, or all equal) are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.rankers.inputs import Columns, Floats, Inputs, Rows
from models.rankers.lines import Impute
from models.rankers.sides import Category, Number, Side, Table, Vector, fit_side
from transformations.errors import InputError

SIDES = ("members", "items", "pairs")


@dataclass(frozen=True, eq=False)
class Encoded:
    """n pairs, ready for weights; what is said of a member or an item is held once.

    The codes of all categories are numbered through: members' first, then items', then pairs'.

    Attributes:
        member_rows, item_rows: The row of each pair, int64 [n].
        matched: Where the vectors of each space stand: in the members' and the items' columns.
    """

    members: Table
    items: Table
    pairs: Table
    member_rows: Rows
    item_rows: Rows
    matched: tuple[tuple[slice, slice], ...]

    def __len__(self) -> int:
        return len(self.member_rows)

    @property
    def sides(self) -> list[tuple[Table, Any]]:
        """Return the tables, each with the row of every pair."""
        return [
            (self.members, self.member_rows),
            (self.items, self.item_rows),
            (self.pairs, slice(None)),
        ]

    def products(self, pairs: Any = slice(None)) -> Floats:
        """Return member ∘ item of each space side by side, float32 [pairs, entries]."""
        mine, theirs = self.member_rows[pairs], self.item_rows[pairs]
        made = [
            self.members.dense[:, member][mine] * self.items.dense[:, item][theirs]
            for member, item in self.matched
        ]
        return np.concatenate(made, axis=1) if made else np.zeros((len(mine), 0), np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """How inputs are encoded; fitted on the rows of training alone.

    Attributes:
        matched: Pairs of a member's vector and the item's of one space.
    """

    members: Side
    items: Side
    pairs: Side
    matched: tuple[tuple[str, str], ...]

    @classmethod
    def fit(
        cls,
        inputs: Inputs,
        impute: Impute = "mean",
        min_count: int = 5,
        hashed_ids: int | None = None,
    ) -> "Preprocessing":
        """Fit it on the pairs of training.

        Raises:
            InputError: there is no pair, the vectors of a space differ in dimension, or no column
                says anything.
        """
        if not len(inputs):
            raise InputError("expected pairs to fit a ranker on, got none")
        sides = []
        for columns, rows in _sides(inputs):
            # A row counts as often as pairs have it, so that pairs need not be laid out.
            weights = np.bincount(rows).astype(np.float64)
            sides.append(fit_side(columns, weights, impute, min_count, hashed_ids))
        members, items, pairs = sides
        made = cls(members, items, pairs, tuple(_matched(inputs.spaces, sides)))
        if not made.columns and not made.categories:
            raise InputError(
                "expected a column that differs between pairs, got "
                f"{', '.join(_all_names(inputs)) or 'none'}; all are missing or equal"
            )
        return made

    def reading(self, columns: Mapping[str, str]) -> "Preprocessing":
        """Return it with vectors under other names.

        Args:
            columns: The name of before → the name of now.
        """
        vectors = tuple(replace(v, name=columns.get(v.name, v.name)) for v in self.items.vectors)
        matched = tuple((mine, columns.get(item, item)) for mine, item in self.matched)
        return replace(self, items=replace(self.items, vectors=vectors), matched=matched)

    def grown(self, inputs: Inputs, min_count: int) -> "Preprocessing":
        """Return it with codes for the categories' new values, after those that there are.

        How numbers and vectors are scaled stays, so that weights mean what they meant.

        Raises:
            InputError: a column that it was fitted with is missing.
        """
        self.check(inputs)
        sides = [
            side.grown(columns, np.bincount(rows).astype(np.float64), min_count)
            for side, (columns, rows) in zip(self.sides, _sides(inputs), strict=True)
        ]
        return replace(self, members=sides[0], items=sides[1], pairs=sides[2])

    @cached_property
    def columns(self) -> list[str]:
        """The input of each dense column: members', items', pairs', then those of member ∘ item."""
        dims = {v.name: v.dim for v in self.members.vectors}
        products = [f"{m} * {i}" for m, i in self.matched for _ in range(dims[m])]
        return [*(c for side in self.sides for c in side.columns), *products]

    @cached_property
    def categories(self) -> list[Category]:
        """All of them, in the order of their codes."""
        return [category for side in self.sides for category in side.categories]

    @cached_property
    def offsets(self) -> NDArray[np.int32]:
        """The first code of each category, and at the end how many there are."""
        return np.cumsum([0, *(c.size for c in self.categories)], dtype=np.int32)

    @property
    def sides(self) -> tuple[Side, Side, Side]:
        """The three tables."""
        return self.members, self.items, self.pairs

    @property
    def names(self) -> dict[str, list[str]]:
        """The inputs that it needs: numbers, categories, vectors → their names."""
        kinds = ("numbers", "categories", "vectors")
        return {kind: [c.name for s in self.sides for c in getattr(s, kind)] for kind in kinds}

    @property
    def places(self) -> tuple[tuple[slice, slice], ...]:
        """Where the vectors of each space stand in the members' and the items' dense columns."""
        return tuple((self.members.place(m), self.items.place(i)) for m, i in self.matched)

    def encode(self, inputs: Inputs) -> Encoded:
        """Encode pairs.

        Raises:
            InputError: a column that it was fitted with is missing.
        """
        self.check(inputs)
        tables, first = [], 0
        for side, (columns, rows) in zip(self.sides, _sides(inputs), strict=True):
            table = side.table(columns, _rows(columns, rows))
            last = first + len(side.categories)
            tables.append(Table(table.dense, table.codes + self.offsets[first:last]))
            first = last
        members, items, pairs = tables
        return Encoded(members, items, pairs, inputs.member_rows, inputs.item_rows, self.places)

    def check(self, inputs: Inputs) -> None:
        """Raise InputError unless all columns that it was fitted with are there."""
        for kind, wanted in self.names.items():
            there = set(inputs.names(kind))
            gone = [name for name in wanted if name not in there]
            if gone:
                raise InputError(
                    f"expected the {kind} {', '.join(gone)}, which the ranker was fitted with, got "
                    f"{', '.join(sorted(there)) or 'none'}; give them, or train a new fit without"
                )
        for side, (columns, _) in zip(self.sides, _sides(inputs), strict=True):
            for vector in side.vectors:
                got = columns.vectors[vector.name].shape[1]
                if got != vector.dim:
                    raise InputError(
                        f"expected {vector.name} of {vector.dim} dimensions, which the ranker was "
                        f"fitted with, got {got}; train a new fit"
                    )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Preprocessing":
        """Read what `to_json` returned."""

        def side(of: Mapping[str, Any]) -> Side:
            return Side(
                tuple(Number(**one) for one in of["numbers"]),
                tuple(
                    Category(one["name"], tuple(one["known"]), one["hashed"])
                    for one in of["categories"]
                ),
                tuple(Vector(**one) for one in of["vectors"]),
            )

        members, items, pairs = (side(state[name]) for name in SIDES)
        matched = tuple((member, item) for member, item in state["matched"])
        return cls(members, items, pairs, matched)


def _sides(inputs: Inputs) -> list[tuple[Columns, Rows]]:
    pairs = np.arange(len(inputs))
    return [
        (inputs.members, inputs.member_rows),
        (inputs.items, inputs.item_rows),
        (inputs.pairs, pairs),
    ]


def _rows(columns: Columns, rows: Rows) -> int:
    kinds = (columns.numbers, columns.categories, columns.vectors)
    first = next((len(values) for kind in kinds for values in kind.values()), None)
    return int(rows.max(initial=-1)) + 1 if first is None else first


def _all_names(inputs: Inputs) -> list[str]:
    return [n for kind in ("numbers", "categories", "vectors") for n in inputs.names(kind)]


def _matched(spaces: Mapping[str, str], sides: Sequence[Side]) -> list[tuple[str, str]]:
    """Return the pairs of vectors that are both there."""
    mine, theirs = ({v.name: v.dim for v in side.vectors} for side in sides[:2])
    found = [(m, i) for m, i in spaces.items() if m in mine and i in theirs]
    for member, item in found:
        if mine[member] != theirs[item]:
            raise InputError(
                f"expected {member} and {item} of one dimension, since they are of one space, got "
                f"{mine[member]} and {theirs[item]}"
            )
    return found
