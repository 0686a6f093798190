"""From inputs as they are to numbers that weights can be multiplied with, by the training rows.

A number whose training rows are skewed beyond 2 (counts, ages: a long tail) becomes sign(x)·log(1 +
|x|). Then each is centred, divided by its deviation and cut to ±10. A missing one is 0 after that
(the mean), or the mode, and a column says that it was missing, if any training row was.

A category becomes a code, 0 for one that is missing or that too few training rows had. Each vector
is divided by its mean length over the training rows that have one, so that a short vector counts as
much as a long one at first. Of each pair of vectors in one space the entries of member ∘ item are
columns too.

Columns that say nothing in training (all missing, or all equal) are left out.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.rankers.inputs import IDS, Columns, Floats, Inputs, Rows
from models.rankers.lines import Impute
from transformations.errors import InputError

MOST = 10.0
"""Scaled values are cut to ± this, so that no outlier decides alone."""
SKEWED = 2.0
"""Skewness from which a number is taken as its logarithm."""
SIDES = ("members", "items", "pairs")


@dataclass(frozen=True)
class Number:
    """How a number is scaled.

    Attributes:
        log: Whether it is sign(x)·log(1 + |x|) first.
        mean, deviation: Of the training rows, after that.
        fill: What stands for a missing one, scaled.
        tells: Whether a column says that it is missing.
    """

    name: str
    log: bool
    mean: float
    deviation: float
    fill: float
    tells: bool


@dataclass(frozen=True)
class Category:
    """The codes of a category's values: of each one that is known, or by their hash."""

    name: str
    known: tuple[str, ...]
    hashed: int | None = None

    @property
    def size(self) -> int:
        """Codes that there are; 0 is the unknown one."""
        return 1 + (self.hashed or len(self.known))

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self.known, start=1)}

    def codes(self, values: NDArray[Any]) -> NDArray[np.int32]:
        """Return the codes of values, int32 [rows]."""
        if self.hashed is None:
            of = self._codes.get
            # A text is looked up as it is; what it is not found by, None and NaN, has no code.
            found = (of(v if type(v) is str else as_text(v), 0) for v in values.tolist())
        else:
            found = (self._hash(as_text(v)) for v in values.tolist())
        return np.fromiter(found, np.int32, len(values))

    def _hash(self, text: str | None) -> int:
        if text is None or self.hashed is None:
            return 0
        return 1 + zlib.crc32(text.encode("utf-8", "replace")) % self.hashed


@dataclass(frozen=True)
class Vector:
    """A vector and its mean length in training."""

    name: str
    dim: int
    length: float

    def scaled(self, vectors: Floats) -> Floats:
        """Return vectors divided by the mean length, float32 [rows, dim]."""
        with np.errstate(over="ignore"):  # cut right after
            found = _finite(vectors) * np.float32(1 / self.length)
        return np.clip(found, -MOST, MOST)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a member, an item or a pair, ready for weights.

    Attributes:
        dense: float32 [rows, width].
        codes: int32 [rows, fields].
    """

    dense: Floats
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class Side:
    """What is read of one of the three tables. Its columns: numbers, what is missing, vectors."""

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    vectors: tuple[Vector, ...]

    @cached_property
    def columns(self) -> list[str]:
        """The input that each dense column comes from."""
        numbers = [number.name for number in self.numbers]
        told = [number.name for number in self.numbers if number.tells]
        return [*numbers, *told, *(v.name for v in self.vectors for _ in range(v.dim))]

    def place(self, vector: str) -> slice:
        """Return where a vector stands among the dense columns."""
        start = self.columns.index(vector)
        return slice(start, start + next(v.dim for v in self.vectors if v.name == vector))

    def table(self, columns: Columns, rows: int) -> Table:
        """Make the table of a side that has so many rows."""
        numbers, told = self._scaled(columns, rows)
        vectors = [vector.scaled(columns.vectors[vector.name]) for vector in self.vectors]
        codes = [c.codes(columns.categories[c.name]) for c in self.categories]
        return Table(
            np.concatenate([numbers, told, *vectors], axis=1).astype(np.float32),
            np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int32),
        )

    def raw(self, columns: Columns, rows: int) -> Floats:
        """Return the numbers as they are, float32 [rows, numbers]; NaN where missing."""
        found = [columns.numbers[number.name] for number in self.numbers]
        raw = np.stack(found, axis=1) if found else np.zeros((rows, 0))
        return np.where(np.isfinite(raw), raw, np.nan).astype(np.float32)

    @cached_property
    def _settings(self) -> tuple[NDArray[Any], ...]:
        of = self.numbers
        return (
            np.flatnonzero([number.log for number in of]),
            np.array([number.mean for number in of]),
            np.array([number.deviation for number in of]),
            np.array([number.fill for number in of]),
            np.flatnonzero([number.tells for number in of]),
        )

    def _scaled(self, columns: Columns, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
        if not self.numbers:
            return np.zeros((rows, 0)), np.zeros((rows, 0))
        log, mean, deviation, fill, tells = self._settings
        raw = np.stack([columns.numbers[n.name] for n in self.numbers], axis=1).astype(np.float64)
        missing = ~np.isfinite(raw)
        raw[missing] = 0.0
        raw[:, log] = _log(raw[:, log])
        scaled = np.clip((raw - mean) / deviation, -MOST, MOST)
        return np.where(missing, fill, scaled), missing[:, tells].astype(np.float64)


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
            sides.append(_fit_side(columns, weights, impute, min_count, hashed_ids))
        members, items, pairs = sides
        made = cls(members, items, pairs, tuple(_matched(inputs.spaces, sides)))
        if not made.columns and not made.categories:
            raise InputError(
                "expected a column that differs between pairs, got "
                f"{', '.join(_all_names(inputs)) or 'none'}; all are missing or equal"
            )
        return made

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


def as_text(value: Any) -> str | None:
    """Return a category's value as a text; None where it is missing.

    >>> as_text("remote"), as_text(7), as_text(None), as_text(float("nan"))
    ('remote', '7', None, None)
    """
    if value is None or value != value:  # NaN alone differs from itself
        return None
    return value if type(value) is str else str(value)


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


def _fit_side(
    columns: Columns,
    weights: NDArray[np.float64],
    impute: Impute,
    min_count: int,
    hashed_ids: int | None,
) -> Side:
    """Fit a side; a row of its table counts as often as `weights` says."""
    size = len(weights)
    numbers = [_number(n, v[:size], weights, impute) for n, v in columns.numbers.items()]
    categories = [
        _category(n, v[:size], weights, min_count, hashed_ids if n in IDS else None)
        for n, v in columns.categories.items()
    ]
    vectors = [_vector(n, v[:size], weights) for n, v in columns.vectors.items()]
    return Side(
        tuple(number for number in numbers if number is not None),
        tuple(category for category in categories if category.size > 1),
        tuple(vector for vector in vectors if vector is not None),
    )


def _number(
    name: str, column: Floats, weights: NDArray[np.float64], impute: Impute
) -> Number | None:
    values = column.astype(np.float64)
    there = np.isfinite(values)
    missing = bool(weights[~there].any())
    used = there & (weights > 0)
    values, weights = values[used], weights[used]
    if not len(values) or (values.min() == values.max() and not missing):
        return None
    mean, deviation = _moments(values, weights)
    cubes = np.average(((values - mean) / deviation) ** 3, weights=weights)
    log = abs(float(cubes)) > SKEWED
    if log:
        values = _log(values)
        mean, deviation = _moments(values, weights)
    fill = 0.0
    if impute == "mode":
        each, place = np.unique(values, return_inverse=True)
        most = each[np.bincount(place, weights).argmax()]
        fill = float(np.clip((most - mean) / deviation, -MOST, MOST))
    return Number(name, log, mean, deviation, fill, missing or impute == "token")


def _moments(values: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float]:
    mean = float(np.average(values, weights=weights))
    deviation = float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    # Of equal values rounding alone may leave a deviation.
    return mean, deviation if deviation > 1e-9 * max(abs(mean), 1e-30) else 1.0


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _category(
    name: str,
    column: NDArray[Any],
    weights: NDArray[np.float64],
    min_count: int,
    hashed: int | None,
) -> Category:
    if hashed is not None:
        return Category(name, (), hashed)
    counts: dict[str, float] = {}
    for value, weight in zip(map(as_text, column), weights, strict=True):
        if value is not None:
            counts[value] = counts.get(value, 0.0) + weight
    return Category(name, tuple(sorted(v for v, count in counts.items() if count >= min_count)))


def _vector(name: str, column: Floats, weights: NDArray[np.float64]) -> Vector | None:
    lengths = np.linalg.norm(_finite(column).astype(np.float64), axis=1)
    there = weights * (lengths > np.finfo(np.float32).tiny)
    if not there.any():
        return None
    return Vector(name, column.shape[1], float(np.average(lengths, weights=there)))


def _finite(vectors: Floats) -> Floats:
    finite = np.isfinite(vectors)
    return vectors if finite.all() else np.where(finite, vectors, np.float32(0))


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
