"""The rules of a list, in their order, over arrays.

    1. leave-outs   what is over, what the request leaves out, what the member acted on lately
    2. filters      `only` and `leave_out` over columns of the items
    3. boosts       factors of the scores
    4. order        by score; of equal ones the one that candidates bring first
    5. each place   the best item that the caps allow, with diversity; with the probability
                    `explore` any item that the caps allow, drawn uniformly
    6. pins         items that stand at their positions; all others make room

A pinned item passes 1 to 5, save for what is over and what the request leaves out: these never
stand in a list. It counts for no cap.

**Propensity.** Of each place, the probability that it got its item, given the places before it: `1
- explore` for the item that is best there, and `explore` shared equally by all that the caps allow.
The product over a list is the probability of the list; a pinned item has 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.items.similarity import unit
from transformations.recommend_settings import RecommendRules

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Draw = Callable[[int], int | None]
"""Given how many items a place may get: which one explores, from 0; None: the best one."""


@dataclass(frozen=True)
class Pool:
    """The candidates of a list, in the order in which sources bring them.

    Attributes:
        items: Ids, each once.
        scores: float32 [items].
        columns: Column → the values of each item, [items] tuples of texts; empty where it has none.
        vectors: Of one space, float32 [items, dim], zeros where missing; None: all are missing.
    """

    items: NDArray[Any]
    scores: Floats
    columns: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    vectors: Floats | None = None

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64]) -> "Pool":
        """Return some of the candidates."""
        return Pool(
            self.items[rows],
            self.scores[rows],
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
            None if self.vectors is None else self.vectors[rows],
        )


@dataclass(frozen=True)
class Placed:
    """An item of a list.

    Attributes:
        row: Of the pool; -1 where no candidate source brought the pinned item.
        score: With its boosts; NaN where the row is -1.
        propensity: The probability that this place got this item, given those before it.
        by: What gave it its place: score, explore, pin.
    """

    item: Any
    row: int
    score: float
    propensity: float
    by: str


def listed(
    pool: Pool,
    rules: RecommendRules,
    n: int,
    draw: Draw,
    acted: frozenset[Any] = frozenset(),
    never: Callable[[Any], bool] = lambda _: False,
) -> list[Placed]:
    """Return a list of at most n items, by the rules in their order.

    Args:
        draw: Decides for each place that is not pinned whether it explores (`drawing`).
        acted: What the member acted on within `leave_out_acted`.
        never: Whether an item may not stand in the list in any case.
    """
    pins = {pin.position: pin.item for pin in rules.pinned if pin.position <= n}
    pins = {position: item for position, item in pins.items() if not never(item)}
    pinned = {*pins.values()}
    out, ids = acted | pinned, pool.items.tolist()
    stays = np.array([item not in out and not never(item) for item in ids], bool)
    rows = np.flatnonzero(stays & passes(pool, rules))
    scores = boosted(pool, rules)
    order = rows[np.argsort(-scores[rows], kind="stable")]
    chosen = _places(pool.take(order), scores[order], rules, n - len(pins), draw)
    places = [
        Placed(ids[order[row]], int(order[row]), float(scores[order[row]]), propensity, by)
        for row, propensity, by in chosen
    ]
    known = {item: row for row, item in enumerate(ids)} if pins else {}
    for position, item in sorted(pins.items()):
        row = known.get(item, -1)
        score = float(scores[row]) if row >= 0 else float("nan")
        places.insert(position - 1, Placed(item, row, score, 1.0, "pin"))
    return places


def passes(pool: Pool, rules: RecommendRules) -> Mask:
    """Say which candidates pass the filters, bool [items]."""
    stays = np.ones(len(pool), bool)
    for filters, wanted in ((rules.only, True), (rules.leave_out, False)):
        for column, values in filters.items():
            stays &= _has(pool, column, {*values}) == wanted
    return stays


def boosted(pool: Pool, rules: RecommendRules) -> Floats:
    """Return the scores with their factors, float32 [items].

    A score below 0 is divided, so that a factor above 1 lifts it too.
    """
    scores = pool.scores.astype(np.float32)
    for boost in rules.boosts:
        has = _has(pool, boost.column, {boost.value})
        lifted = np.where(scores >= 0, scores * boost.by, scores / boost.by)
        scores = np.where(has, lifted, scores).astype(np.float32)
    return scores


def drawing(rng: np.random.Generator, explore: float) -> Draw:
    """Return what decides by chance which places explore."""

    def draw(allowed: int) -> int | None:
        if not explore or rng.random() >= explore:
            return None
        return int(rng.integers(allowed))

    return draw


def _places(
    pool: Pool, scores: Floats, rules: RecommendRules, n: int, draw: Draw
) -> list[tuple[int, float, str]]:
    """Fill places from candidates in order of their scores: row, propensity, by what."""
    plain = not (rules.caps or rules.diversity or rules.explore)
    if plain:
        return [(row, 1.0, "score") for row in range(min(n, len(pool)))]
    likes = _Likeness(pool, scores, rules.diversity)
    free, left = np.ones(len(pool), bool), _Caps(pool, rules.caps)
    chosen: list[tuple[int, float, str]] = []
    while len(chosen) < n:
        allowed = np.flatnonzero(free & left.allows)
        if not len(allowed):
            break
        best = int(allowed[np.argmax(likes.worth[allowed])])  # of equal ones the first
        drawn = draw(len(allowed))
        row = best if drawn is None else int(allowed[drawn])
        propensity = rules.explore / len(allowed) + (1 - rules.explore) * float(row == best)
        chosen.append((row, propensity, "score" if drawn is None else "explore"))
        free[row] = False
        left.take(row)
        likes.take(row)
    return chosen


class _Likeness:
    """What each candidate is worth beside those that were chosen: maximal marginal relevance.

    (1 - diversity) · relevance - diversity · the largest cosine to a chosen one (Carbonell and
    Goldstein, 1998). Relevance is the score between the pool's lowest (0) and highest (1).
    """

    def __init__(self, pool: Pool, scores: Floats, diversity: float) -> None:
        self._diversity = diversity if pool.vectors is not None else 0.0
        self.worth = scores.astype(np.float64)
        if not self._diversity:
            return
        span = float(np.ptp(scores)) if len(scores) else 0.0
        low = float(scores.min()) if len(scores) else 0.0
        self._relevance = (self.worth - low) / (span or 1.0)
        self._vectors = unit(np.asarray(pool.vectors))
        self._nearest = np.full(len(pool), -np.inf)
        self.worth = (1 - self._diversity) * self._relevance

    def take(self, row: int) -> None:
        """Note that an item was chosen."""
        if not self._diversity:
            return
        np.maximum(self._nearest, self._vectors @ self._vectors[row], out=self._nearest)
        self.worth = (1 - self._diversity) * self._relevance - self._diversity * self._nearest


class _Caps:
    """Which candidates the caps still allow."""

    def __init__(self, pool: Pool, caps: Mapping[str, int]) -> None:
        self.allows = np.ones(len(pool), bool)
        self._values = {column: pool.columns[column] for column in caps}
        self._rows: dict[tuple[str, str], list[int]] = {}
        self._left: dict[tuple[str, str], int] = {}
        for column, most in caps.items():
            for row, values in enumerate(self._values[column]):
                for value in values:
                    self._rows.setdefault((column, value), []).append(row)
                    self._left[column, value] = most

    def take(self, row: int) -> None:
        """Note that an item was chosen."""
        for column, values in self._values.items():
            for value in {*values[row]}:
                self._left[column, value] -= 1
                if not self._left[column, value]:
                    self.allows[self._rows[column, value]] = False


def _has(pool: Pool, column: str, wanted: set[str]) -> Mask:
    return np.array([not wanted.isdisjoint(values) for values in pool.columns[column]], bool)
