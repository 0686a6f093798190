"""What a ranker reads of pairs: columns of the member, of the item, and of the two together.

Training and serving make them by the same functions, from the same Feast features. A column's name
begins with where it comes from:

    member.<column>        member_activity_stats, member_profile, context: numbers and categories
    member.<aggregator>    a vector of the member, as "member.learned_decay_v2" (or with its field:
                           "member.decay_v1.apply_embedding")
    item.<column>          item_stats, and "item.category"
    member.id, item.id     the ids as categories, for a ranker that reads "ids"
    item.<space>           the item's vector in an aggregator's space
    pair.<column>          match in a space, history with the item's category, ranks in the sources

Missing stays missing: NaN in a number, None in a category, zeros in a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
IDS = ("member.id", "item.id")
"""The columns of the group "ids"."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of equal length.

    Attributes:
        numbers: float32 [rows] each, NaN where missing.
        categories: Objects [rows] each: a text, or None where missing.
        vectors: float32 [rows, dim] each, zeros where missing.
    """

    numbers: Mapping[str, Floats] = field(default_factory=dict)
    categories: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    vectors: Mapping[str, Floats] = field(default_factory=dict)

    def take(self, rows: Rows) -> "Columns":
        """Return some of the rows."""
        return Columns(*({n: v[rows] for n, v in some.items()} for some in self._kinds()))

    @property
    def rows(self) -> int:
        """How many; 0 without a column."""
        return max((len(v) for some in self._kinds() for v in some.values()), default=0)

    @classmethod
    def concatenated(cls, parts: Sequence["Columns"]) -> "Columns":
        """Return the rows of all parts, which have the same columns."""
        kinds = (part._kinds() for part in parts)
        return cls(
            *(
                {name: np.concatenate([own[name] for own in some]) for name in some[0]}
                for some in zip(*kinds, strict=True)
            )
        )

    def __or__(self, other: "Columns") -> "Columns":
        """Return the columns of both."""
        pairs = zip(self._kinds(), other._kinds(), strict=True)
        return Columns(*({**mine, **others} for mine, others in pairs))

    def _kinds(self) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
        return self.numbers, self.categories, self.vectors


@dataclass(frozen=True, eq=False)
class Inputs:
    """n pairs of a member and an item. What is said of a member or an item is held once.

    Attributes:
        members: A row per member and time.
        items: A row per item and time.
        pairs: n rows.
        member_rows: The row of `members` of each pair, int64 [n].
        item_rows: The row of `items` of each pair, int64 [n].
        spaces: A member's vector → the item's vector that it is compared with.
    """

    members: Columns
    items: Columns
    pairs: Columns
    member_rows: Rows
    item_rows: Rows
    spaces: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.member_rows)

    def take(self, rows: Rows) -> "Inputs":
        """Return some of the pairs; the tables of members and items stay whole."""
        return Inputs(
            self.members,
            self.items,
            self.pairs.take(rows),
            self.member_rows[rows],
            self.item_rows[rows],
            self.spaces,
        )

    def compact(self) -> "Inputs":
        """Return the same pairs with only the members and items that they name."""
        members, member_rows = np.unique(self.member_rows, return_inverse=True)
        items, item_rows = np.unique(self.item_rows, return_inverse=True)
        return Inputs(
            self.members.take(members),
            self.items.take(items),
            self.pairs,
            member_rows.astype(np.int64),
            item_rows.astype(np.int64),
            self.spaces,
        )

    @classmethod
    def concatenated(cls, parts: Sequence["Inputs"]) -> "Inputs":
        """Return the pairs of all parts, which have the same columns."""
        members = np.cumsum([0, *(part.members.rows for part in parts)])
        items = np.cumsum([0, *(part.items.rows for part in parts)])
        return cls(
            Columns.concatenated([part.members for part in parts]),
            Columns.concatenated([part.items for part in parts]),
            Columns.concatenated([part.pairs for part in parts]),
            np.concatenate([p.member_rows + n for p, n in zip(parts, members, strict=False)]),
            np.concatenate([p.item_rows + n for p, n in zip(parts, items, strict=False)]),
            parts[0].spaces,
        )

    def number(self, name: str) -> Floats:
        """Return a number of every pair, float32 [n]."""
        return self._of(name, "numbers")

    def category(self, name: str) -> NDArray[Any]:
        """Return a category of every pair, objects [n]."""
        return self._of(name, "categories")

    def vector(self, name: str) -> Floats:
        """Return a vector of every pair, float32 [n, dim]."""
        return self._of(name, "vectors")

    def names(self, kind: str) -> list[str]:
        """Name all columns of a kind: numbers, categories, vectors."""
        return [n for side in (self.members, self.items, self.pairs) for n in getattr(side, kind)]

    def _of(self, name: str, kind: str) -> Any:
        side, rows = {
            "member": (self.members, self.member_rows),
            "item": (self.items, self.item_rows),
            "pair": (self.pairs, slice(None)),
        }[name.partition(".")[0]]
        return getattr(side, kind)[name][rows]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pairs with what came of them.

    Attributes:
        inputs: n pairs.
        targets: Whether each head's action came of it, float32 [n, heads].
        weights: Of each pair in training, float32 [n].
        groups: Pairs of one number were to choose from at one moment, int64 [n] ascending: an
            action and the negatives drawn for it, or what one answer showed.
        positions: At which each was shown, from 0; -1 where it was not shown, int64 [n].
    """

    inputs: Inputs
    targets: Floats
    weights: Floats
    groups: Rows
    positions: Rows

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Rows) -> "Labelled":
        """Return some of the pairs."""
        return Labelled(
            self.inputs.take(rows),
            self.targets[rows],
            self.weights[rows],
            self.groups[rows],
            self.positions[rows],
        )
