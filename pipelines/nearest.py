"""The items nearest to a vector, with the beginning of their texts, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.items.similarity import comparable
from models.lines import similarity_of
from models.sequences import read_items
from operations.fits import Fits
from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.errors import InputError
from transformations.item_kinds import has_kinds
from transformations.layout import part_files
from transformations.searches import Id, are_searches


def beginning(text: str, most: int) -> str:
    """Return a text of at most `most` characters.

    >>> beginning("a data engineer", 8)
    'a data…'
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def made_spaces(config: Config) -> list[Config]:
    """Return the configuration of each present space of the catalogue that has vectors.

    Raises:
        InputError: none has.
    """
    made = [config.in_space(space) for space in Fits(config).spaces.values()]
    made = [own for own in made if part_files(own.items_dir)]
    if not made:
        raise InputError(f"no item has a vector yet in {config.data}; first: activity run")
    return made


@dataclass(frozen=True)
class Near:
    """An item, and its similarity to what it was compared with.

    >>> print(Near("g-1", "Data engineer", 0.5))
    +0.500  g-1 Data engineer
    """

    item: Id
    text: str
    similarity: float

    def __str__(self) -> str:
        return f"{self.similarity:+.3f}  {self.item} {self.text}".rstrip()


class DescribedItems:
    """The items of a space known by a timestamp, each with its newest vector and its text.

    Attributes:
        similarity: By what the space compares its vectors.
        ids: Of the items with a vector, in their order.
        vectors: Which are compared by dot product, as `models.items.similarity.comparable` makes
            them; float32 [items, dim].
    """

    def __init__(self, config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
        """Read the items of the configuration's space.

        Raises:
            InputError: there is no item vector at all.
        """
        read_items(config, con, as_of)
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
        items: pa.Table = con.sql(sql("described_items", __file__)).to_arrow_table()
        con.execute("drop view texts")
        con.execute("drop table newest_items")
        if config.rules.texts:  # who looks at a vector asks for items, not for searches
            items = items.filter(pc.invert(are_searches(items["item_id"])))
        self.similarity = similarity_of(config)
        self.ids: list[Id] = items["item_id"].to_pylist()
        self._texts = items["text"].to_pylist()
        self._kinds = np.array(items["kind"].to_pylist(), object)
        flat = pc.list_flatten(items["embedding"]).to_numpy()
        vectors = flat.reshape(len(items), -1) if len(items) else np.zeros((0, 0), np.float32)
        self.vectors = comparable(vectors, self.similarity)
        self._has_length = self.vectors.any(axis=1)
        self._places = {item: place for place, item in enumerate(self.ids)}

    def has(self, item: Id) -> bool:
        """Whether it has a vector of an item."""
        return item in self._places

    def text_of(self, item: Id) -> str | None:
        """Return an item's text in one line; None where it has no vector."""
        place = self._places.get(item)
        return None if place is None else self._text(place)

    def vectors_of(self, items: Sequence[Id]) -> NDArray[np.float32]:
        """Return the rows of `vectors` of items that have one, float32 [items, dim]."""
        return self.vectors[[self._places[item] for item in items]]

    def neighbours(self, item: Id, count: int) -> list[Near]:
        """Return the items nearest to one, without itself; none where it has no vector."""
        if not self.has(item):
            return []
        found = self.nearest(self.vectors_of([item])[0], count + 1)
        return [near for near in found if near.item != item][:count]

    def nearest(
        self, vector: NDArray[np.float32], count: int, kinds: Sequence[str] | None = None
    ) -> list[Near]:
        """Return the items of the largest similarity; none for zeros, or for another dimension.

        Args:
            vector: float32 [dim].
            kinds: Only items of these; None for all.
        """
        if not vector.any() or vector.size != self.vectors.shape[1]:
            return []
        scores: NDArray[Any] = self.vectors @ comparable(vector[None, :], self.similarity)[0]
        wanted = self._has_length
        if kinds is not None:
            wanted = wanted & np.isin(self._kinds, list(kinds))
        places = np.flatnonzero(wanted)
        found = places[np.argsort(-scores[places], kind="stable")[:count]].tolist()
        return [Near(self.ids[n], self._text(n), float(scores[n])) for n in found]

    def _text(self, place: int) -> str:
        return " ".join(self._texts[place].split())
