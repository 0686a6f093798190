"""The items nearest to a vector, with the beginning of their texts, for people to look at."""

from collections.abc import Sequence
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.item_kinds import has_kinds
from transformations.layout import part_files
from transformations.searches import Id, are_searches


class DescribedItems:
    """The items known by a timestamp, each with its newest vector and its text, if it has one."""

    def __init__(self, config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
        con.execute(f"create temp view items as from {parquet(part_files(config.items_dir))}")
        staged = config.layout.staged_items
        texts = (
            "select null as item_id, null as text, null as available_at, null as kind where false"
        )
        if staged.exists():
            text = "text" if config.items.has_text else "null"
            kind = "kind" if has_kinds(config, con) else "null"
            texts = (
                f"select item_id, {text} as text, available_at, {kind} as kind "
                f"from {parquet([staged])}"
            )
        con.execute(f"create temp view texts as {texts}")
        query = sql("described_items", __file__)
        items: pa.Table = con.sql(query, params={"as_of": as_of}).to_arrow_table()
        if config.rules.texts:  # who looks at a vector asks for items, not for searches
            items = items.filter(pc.invert(are_searches(items["item_id"])))
        con.execute("drop view items")
        con.execute("drop view texts")
        self._ids = items["item_id"].to_pylist()
        self._texts = items["text"].to_pylist()
        self._kinds = np.array(items["kind"].to_pylist(), object)
        self._vectors = np.array(items["embedding"].to_pylist(), np.float32)
        self._lengths = np.linalg.norm(self._vectors, axis=1)

    def described(self, item: Id) -> str | None:
        """Return an item's id and text; None where it has no vector."""
        place = self._place(item)
        return None if place is None else self._line(place)

    def neighbours(self, item: Id, count: int) -> list[str]:
        """Return a line per item nearest to one by cosine, without itself."""
        place = self._place(item)
        if place is None:
            return []
        line = self._line(place)
        found = self.nearest(self._vectors[place], count + 1)
        return [each for each in found if each.partition("  ")[2] != line][:count]

    def _place(self, item: Id) -> int | None:
        return self._ids.index(item) if item in self._ids else None

    def _line(self, place: int) -> str:
        return f"{self._ids[place]} {' '.join(self._texts[place].split())}".rstrip()

    def nearest(
        self, vector: NDArray[np.float32], count: int, kinds: Sequence[str] | None = None
    ) -> list[str]:
        """Return a line per item of the largest cosine; none for zeros, or for another dimension.

        Args:
            vector: float32 [dim].
            kinds: Only items of these; None for all.
        """
        length = float(np.linalg.norm(vector))
        if length == 0 or self._vectors.ndim < 2 or vector.size != self._vectors.shape[1]:
            return []
        scores = self._vectors @ vector / np.maximum(self._lengths * length, 1e-9)
        wanted = None if kinds is None else np.isin(self._kinds, list(kinds))
        places = np.arange(len(scores)) if wanted is None else np.flatnonzero(wanted)
        found = places[np.argsort(-scores[places], kind="stable")[:count]].tolist()
        return [f"{scores[n]:+.3f}  {self._line(n)}" for n in found]
