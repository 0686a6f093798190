"""The page of a workspace's item spaces: a map of each, and neighbours in all of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray
from scipy import sparse

from models.items.saved import read_manifest
from models.items.spec import Given
from pipelines.nearest import DescribedItems, Near, beginning, made_spaces
from pipelines.report import plots, write_page
from pipelines.report.data import CATEGORIES, LONGEST, read_texts
from pipelines.report.plots import OTHER
from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.errors import InputError
from transformations.layout import partition_files
from transformations.names import Similarity
from transformations.searches import Id

TEMPLATE = "items.html.j2"
SIZE, NEAREST, COMPARED, PERPLEXITY = 2_000, 5, 10, 30
DESCRIBED = 300
"""Characters of an example's own text, at most."""


@dataclass(frozen=True, eq=False)
class Relation:
    """What two mapped items have in common.

    Attributes:
        about: What a number of `values` says of an item and one that is near it.
        values: From 0 to 1, float32 [items, items].
        asked: The items that it says something of, bool [items].
    """

    name: str
    about: str
    values: NDArray[np.float32]
    asked: NDArray[np.bool_]

    def over_nearest(self, vectors: NDArray[np.float32]) -> float:
        """Return the mean over the items nearest to each, whose similarity is the dot product."""
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        count = min(COMPARED, len(vectors) - 1)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return float(np.take_along_axis(self.values, nearest, axis=1)[self.asked].mean())

    @property
    def by_chance(self) -> float:
        """The mean over all other items."""
        others = self.values.sum(axis=1) - self.values.diagonal()
        return float(others[self.asked].mean() / max(len(self.values) - 1, 1))


@dataclass(frozen=True)
class MappedSpace:
    """One item space, and where the mapped items lie in it.

    Attributes:
        kind: Of its encoder.
        items: How many have a vector.
        fit_before: The time before which its fit saw what was known; None of given vectors.
        vectors: Of the mapped items, compared by dot product; float32 [items, dim].
        points: Where these lie, float [items, 2]; None where they are too few, or all alike.
        measures: Each relation of `ItemSpaces`, over the nearest on the map.
    """

    name: str
    kind: str
    similarity: Similarity
    items: int
    fit_before: datetime | None
    vectors: NDArray[np.float32]
    points: NDArray[np.float64] | None
    measures: list[float]


@dataclass(frozen=True)
class Example:
    """An item with its neighbours in each space, in their order.

    Attributes:
        why: What it is an example of.
        marked: Whether it is on the maps: all spaces have it.
    """

    item: Id
    why: str
    text: str
    marked: bool
    near: list[list[Near]]


@dataclass(frozen=True)
class ItemSpaces:
    """What the page shows.

    Attributes:
        examples: Those that are marked first.
        items: Those on the maps; the first ones are the marked examples.
        categories: Of each of them.
        coloured_by: The column of the categories; None where items have none.
    """

    as_of: datetime
    spaces: list[MappedSpace]
    examples: list[Example]
    items: list[Id]
    categories: list[str]
    coloured_by: str | None
    relations: list[Relation]

    @property
    def marked(self) -> int:
        """How many of the mapped items are marked."""
        return sum(example.marked for example in self.examples)


@dataclass(frozen=True)
class _Known:
    """An item that all spaces have."""

    item: Id
    category: str | None
    n_actions: int
    known_since: datetime


def item_spaces(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    items: Sequence[Id] = (),
    size: int = SIZE,
    seed: int = 0,
) -> ItemSpaces:
    """Look at the spaces of the catalogue, with each item's newest vector by a timestamp.

    Args:
        items: The examples; none: the item most acted on, the one in the middle of those acted on,
            and the newest of those with the fewest actions.
        size: Items on the maps at most, drawn by `seed` from those that all spaces have.

    Raises:
        InputError: there is no item vector, or no space has one of an example.
    """
    owns = made_spaces(config)
    spaces = [DescribedItems(own, con, as_of) for own in owns]
    for item in items:
        if not any(space.has(item) for space in spaces):
            named = ", ".join(str(own.space) for own in owns)
            raise InputError(f"expected items with a vector in one of {named}, got {item!r}")
    known = {
        each.item: each
        for each in _known(config, con, as_of)
        if all(space.has(each.item) for space in spaces)
    }
    why = dict.fromkeys(items, "chosen") or _extremes([*known.values()])
    marked = [item for item in why if item in known]
    others = [item for item in known if item not in why]
    drawn = np.random.default_rng(seed).permutation(len(others))[: max(size - len(marked), 0)]
    mapped = [*marked, *(others[n] for n in drawn)]
    categories = _commonest(known[item].category for item in mapped)
    column = next(iter(config.items.categories), None)
    relations = [*_relations(con, mapped, categories, column or "")] if len(mapped) > 1 else []
    return ItemSpaces(
        as_of=as_of,
        spaces=[
            _mapped(own, space, mapped, relations, seed)
            for own, space in zip(owns, spaces, strict=True)
        ],
        examples=[
            Example(
                item,
                why[item],
                next(text for space in spaces if (text := space.text_of(item)) is not None),
                item in known,
                [space.neighbours(item, NEAREST) for space in spaces],
            )
            for item in dict.fromkeys([*marked, *why])
        ],
        items=mapped,
        categories=categories,
        coloured_by=column,
        relations=relations,
    )


def write_items(found: ItemSpaces, name: str, file: Path) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        name: Of the workspace.
    """
    maps = [
        (space, Markup(plots.item_map(space.points, found.categories, found.marked, space.name)))
        for space in found.spaces
        if space.points is not None
    ]
    context = {
        "name": name,
        "found": found,
        "maps": maps,
        "legend": plots.category_colours(found.categories) if found.coloured_by else {},
        "line": lambda text: beginning(text, LONGEST),
        "paragraph": lambda text: beginning(text, DESCRIBED),
    }
    write_page(TEMPLATE, context, file)


def laid_out(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64] | None:
    """Lay vectors out on two axes by t-SNE (van der Maaten & Hinton, 2008).

    Two are likely neighbours as their dot product says, which is the space's similarity: a
    distance whose square falls with it is all that t-SNE sees, up to a constant per vector.

    Args:
        vectors: As `comparable` makes them, float32 [vectors, dim].

    Returns:
        float [vectors, 2]; None for fewer than five, or where all are alike.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(vectors) < 5 or not np.ptp(vectors, axis=0).any():
        return None
    similarities = vectors @ vectors.T
    distances = np.sqrt(2 * np.maximum(similarities.max() - similarities, 0))
    np.fill_diagonal(distances, 0)
    centred = vectors - vectors.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    start = np.zeros((len(vectors), 2))
    start[:, : len(scale[:2])] = (left * scale)[:, :2]
    tsne = TSNE(
        metric="precomputed",
        init=start * (1e-4 / start[:, 0].std()),
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        random_state=seed,
    )
    with threadpool_limits(1):  # several wait for each other where a processor is shared
        found = tsne.fit_transform(distances)
    return np.asarray(found, np.float64)


def _known(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> list[_Known]:
    """Return the items known by a timestamp, in the order of their ids."""
    read_texts(config, con, as_of)
    files = partition_files(config.layout.activity)
    actions = f"from {parquet(files)}" if files else "select null as item_id where false"
    con.execute(f"create or replace temp view activity as {actions}")
    column = next(iter(config.items.categories), "")
    rows = con.execute(sql("mapped_items", __file__), {"category": column}).fetchall()
    return [_Known(*row) for row in rows]


def _extremes(known: Sequence[_Known]) -> dict[Id, str]:
    """Return up to three items, each with what it is an example of."""
    ordered = sorted(known, key=lambda each: -each.n_actions)
    acted_on = [each for each in ordered if each.n_actions]
    newest = max(known, key=lambda each: (-each.n_actions, each.known_since), default=None)
    found = {}
    if acted_on:
        found[acted_on[0].item] = f"most acted on, {_times(acted_on[0])}"
        middle = acted_on[len(acted_on) // 2]
        found.setdefault(middle.item, f"in the middle, {_times(middle)}")
    if newest is not None:
        found.setdefault(newest.item, f"new, {_times(newest)}")
    return found


def _times(item: _Known) -> str:
    return "1 action" if item.n_actions == 1 else f"{item.n_actions:,} actions"


def _mapped(
    config: Config,
    space: DescribedItems,
    items: Sequence[Id],
    relations: Sequence[Relation],
    seed: int,
) -> MappedSpace:
    manifest, vectors = read_manifest(config), space.vectors_of(items)
    return MappedSpace(
        name=str(config.space),
        kind=Given.kind if manifest is None else manifest["kind"],
        similarity=space.similarity,
        items=len(space.ids),
        fit_before=None if manifest is None else datetime.fromisoformat(manifest["fit_before"]),
        vectors=vectors,
        points=laid_out(vectors, seed),
        measures=[relation.over_nearest(vectors) for relation in relations],
    )


def _relations(
    con: duckdb.DuckDBPyConnection, items: Sequence[Id], categories: Sequence[str], column: str
) -> Iterator[Relation]:
    """Yield what mapped items may have in common: a category, the members who acted on them."""
    labels = np.array(categories)
    if (labels != OTHER).any():
        alike = (labels[:, None] == labels).astype(np.float32)
        about = f"the share whose first of {column} is the same"
        yield Relation("of its category", about, alike, labels != OTHER)
    mapped = pa.table({"item_id": items, "place": np.arange(len(items))})
    con.register("mapped", mapped)
    found = con.sql(sql("mapped_members", __file__)).fetchnumpy()
    con.unregister("mapped")
    if len(found["place"]):
        ones = np.ones(len(found["place"]), np.float32)
        shape = (len(items), int(found["member"].max()) + 1)
        of = sparse.csr_array((ones, (found["place"], found["member"])), shape=shape)
        counts = of.sum(axis=1)
        both = (of @ of.T).toarray() / np.maximum(counts, 1)[:, None]
        about = "the share of its members who acted on that one too"
        yield Relation("of its members", about, both, counts > 0)


def _commonest(categories: Iterable[str | None]) -> list[str]:
    """Return the categories, of which all but the commonest become `other`."""
    labels = [category or OTHER for category in categories]
    kept = [label for label, _ in Counter(labels).most_common() if label != OTHER][:CATEGORIES]
    return [label if label in kept else OTHER for label in labels]
