"""The columns of a member, an item or a pair, made ready: how each is scaled or coded.

models/rankers/preprocessing.py says by what rules.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.rankers.inputs import IDS, Columns, Floats
from models.rankers.lines import Impute

MOST = 10.0
"""Scaled values are cut to ± this, so that no outlier decides alone."""
SKEWED = 2.0
"""Skewness from which a number is taken as its logarithm."""


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
    def _codes(self) -> dict[Any, int]:
        return {value: code for code, value in enumerate(self.known, start=1)}

    def grown(
        self, column: NDArray[Any], weights: NDArray[np.float64], min_count: int
    ) -> "Category":
        """Return it with the values that are frequent enough by now; each old one keeps its code.

        >>> color = Category("color", ("blue", "red"))
        >>> color.grown(np.array(["red", "green", "amber", None]), np.array([9, 2, 5, 7.0]), 5)
        Category(name='color', known=('blue', 'red', 'amber'), hashed=None)
        """
        if self.hashed is not None:
            return self
        known = {*self.known}
        found = _category(self.name, column, weights, min_count, None).known
        return replace(self, known=(*self.known, *(value for value in found if value not in known)))

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

    def grown(self, columns: Columns, weights: NDArray[np.float64], min_count: int) -> "Side":
        """Return it with the categories' new values; how numbers are scaled stays.

        Args:
            weights: How often a row of the table counts.
        """
        size = len(weights)
        grown = (
            category.grown(columns.categories[category.name][:size], weights, min_count)
            for category in self.categories
        )
        return replace(self, categories=tuple(grown))

    def place(self, vector: str) -> slice:
        """Return where a vector stands among the dense columns."""
        start = self.columns.index(vector)
        return slice(start, start + next(v.dim for v in self.vectors if v.name == vector))

    def table(self, columns: Columns, rows: int) -> Table:
        """Make the table of a side with this number of rows."""
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


def as_text(value: Any) -> str | None:
    """Return a category's value as a text; None where it is missing.

    >>> as_text("remote"), as_text(7), as_text(None), as_text(float("nan"))
    ('remote', '7', None, None)
    """
    if value is None or value != value:  # NaN alone differs from itself
        return None
    return value if type(value) is str else str(value)


def fit_side(
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
    log = abs(float(cubes)) > SKEWED or is_rank(name)
    if log:
        values = _log(values)
        mean, deviation = _moments(values, weights)
    fill = 0.0
    if impute == "mode":
        each, place = np.unique(values, return_inverse=True)
        most = each[np.bincount(place, weights).argmax()]
        fill = float(np.clip((most - mean) / deviation, -MOST, MOST))
    return Number(name, log, mean, deviation, fill, missing or impute == "token")


def is_rank(name: str) -> bool:
    """Whether a number is a rank: among the first a place says more than among the last.

    >>> is_rank("pair.rank_popular_v1"), is_rank("item.popularity_rank"), is_rank("member.ranking")
    (True, True, False)
    """
    own = name.rpartition(".")[2]
    return own.startswith("rank_") or own.endswith("_rank")


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
