"""What a list has to know of items: whether they exist, their titles, columns, ends, vectors."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.items.similarity import comparable, unit
from models.lines import similarity_of
from operations.composition import served_fits
from operations.fits import Fits
from serving.recommend.member import Member
from serving.request.item_table import open_item_table
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.errors import InputError
from transformations.layout import part_files
from transformations.rules import SEARCH
from transformations.timestamps import microseconds

Floats = NDArray[np.float32]
ALWAYS = np.iinfo(np.int64).min
"""The end of what nobody recommends."""


@dataclass(frozen=True)
class Reason:
    """Why an item: the nearest of the member's past actions.

    Attributes:
        similarity: Cosine in the first space.
    """

    item_id: Any
    title: str
    action: str
    similarity: float


class ItemFacts:
    """The items of a workspace at a time, in memory; vectors are mapped from files.

    Attributes:
        space: The first space of the catalogue that has vectors; None where none has.
        newest: Ids of what may be recommended, what became known last first.
    """

    def __init__(self, config: Config, now: datetime, served: Fits | None = None) -> None:
        """Read them.

        Args:
            served: The fits that answer. Default: those of the release that serves.

        Raises:
            InputError: no item is staged.
        """
        staged = config.layout.staged_items
        if not staged.exists():
            raise InputError(f"expected staged items in {staged}, found none; first: activity run")
        with connect(config) as con:
            # Staged by a version that knew no kinds or ends, it lacks a column.
            con.execute(
                "create temp view stg_items as select null::varchar as kind, "
                "null::timestamptz as available_until where false "
                f"union all by name from {parquet([staged])}"
            )
            facts = con.sql(sql("item_facts", __file__), params={"as_of": now}).to_arrow_table()
        ids = facts["item_id"].to_pylist()
        self._row = {item: row for row, item in enumerate(ids)}
        self._titles = facts["title"].to_pylist()
        until = facts["available_until"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        kinds = facts["kind"].to_pylist()
        ends = zip(ids, until.to_pylist(), kinds, strict=True)
        # Few have an end, and a list looks at each of its candidates.
        self._ends = {
            item: ALWAYS if kind == SEARCH else end
            for item, end, kind in ends
            if kind == SEARCH or end is not None
        }
        self._columns = _columns(config, facts["categories"].to_pylist(), kinds)
        self._type = pa.int64() if config.item_id_type == "int64" else pa.string()
        self._open_vectors(config, served_fits(config) if served is None else served)
        self.newest = [item for item in ids if not self.is_out(item, now)]

    def by(self, config: Config, served: Fits) -> Self:
        """Return the same items with the vectors of other fits."""
        others = copy(self)
        others._open_vectors(config, served)
        return others

    def _open_vectors(self, config: Config, served: Fits) -> None:
        made = [
            space
            for space in served.spaces.values()
            if served.is_present(space) and part_files(config.in_space(space).items_dir)
        ]
        self.space = str(made[0]) if made else None
        if made:
            own = config.in_space(made[0])
            self._similarity = similarity_of(own)
            self._table = open_item_table(own)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, item: object) -> bool:
        return item in self._row

    def title(self, item: Any) -> str:
        """Return the beginning of an item's text; empty where there is none."""
        row = self._row.get(item)
        return "" if row is None else self._titles[row]

    def is_out(self, item: Any, now: datetime) -> bool:
        """Whether an item is over, or the text of a search: nobody recommends it."""
        # A source may know an item that came after these facts.
        until = self._ends.get(item)
        return until is not None and until <= microseconds(now)

    def columns(self, names: set[str], items: Sequence[Any]) -> dict[str, list[tuple[str, ...]]]:
        """Return column → the values of each item; none of an unknown one."""
        rows = [self._row.get(item) for item in items]
        return {
            name: [() if row is None else self._columns[name][row] for row in rows]
            for name in names
        }

    def vectors(self, items: Sequence[Any], now: datetime) -> Floats | None:
        """Return vectors of the first space, float32 [items, dim], zeros where missing."""
        if self.space is None:
            return None
        rows = self._table.at(now).rows(pa.array(items, self._type))
        return np.asarray(self._table.vectors[rows])

    def reasons(self, items: Sequence[Any], member: Member, now: datetime) -> list[Reason | None]:
        """Return for each item the nearest that the member acted on, and did not dislike.

        None where no vector tells: nothing is nearer than at a right angle.
        """
        rows = zip(member.items, member.actions, member.signs.tolist(), strict=True)
        last = {item: (action, sign) for item, action, sign in rows}  # an item's newest counts
        past = {item: action for item, (action, sign) in last.items() if sign >= 0}
        if not (past and items) or self.space is None:
            return [None] * len(items)
        ids = list(past)
        shown, acted = self.vectors(items, now), self.vectors(ids, now)
        assert shown is not None
        assert acted is not None
        near = unit(shown) @ unit(acted).T
        near[np.array([[item == other for other in ids] for item in items])] = -1
        best = near.argmax(axis=1)
        return [
            Reason(ids[at], self.title(ids[at]), past[ids[at]], round(float(row[at]), 4))
            if row[at] > 0
            else None
            for row, at in zip(near, best.tolist(), strict=True)
        ]

    def neighbours(self, item: Any, count: int, now: datetime) -> list[tuple[Any, float]]:
        """Return the items nearest to one in the first space, with their similarity, best first."""
        if self.space is None:
            return []
        others = [other for other in self.newest if other != item and not self.is_out(other, now)]
        vectors, own = self.vectors(others, now), self.vectors([item], now)
        assert vectors is not None
        assert own is not None
        there = np.flatnonzero(vectors.any(axis=1))
        if not own.any() or not len(there):
            return []
        near = comparable(vectors[there], self._similarity) @ comparable(own, self._similarity)[0]
        best = np.argsort(-near, kind="stable")[:count]
        return [(others[there[row]], round(float(near[row]), 4)) for row in best]


def _columns(
    config: Config, categories: Sequence[Sequence[str] | None], kinds: Sequence[str | None]
) -> Mapping[str, list[tuple[str, ...]]]:
    """Return column → the values of each item; a category is staged as "<column>=<value>"."""
    columns: dict[str, list[tuple[str, ...]]] = {
        name: [
            tuple(one[len(name) + 1 :] for one in listed or () if one.startswith(f"{name}="))
            for listed in categories
        ]
        for name in config.items.categories
    }
    if config.items.kind is not None:
        columns["kind"] = [() if kind is None else (kind,) for kind in kinds]
    return columns
