"""From Feast's features to a ranker's inputs: the same for a training join and for a request.

What was read comes as arrays by result name (`view__feature`), as `stores.read.Reader` returns
them. A ranker's package keeps its `Needs`, so it goes on reading the fits that it was trained with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.items.similarity import comparable
from models.lines import Aggregator, similarity_of
from models.quantization import from_int8
from models.rankers.history import HOUR_US, Actions, Categories, history, moments, on_clocks
from models.rankers.inputs import Columns, Floats, Inputs, Rows
from models.rankers.spec import Ranker
from transformations import names
from transformations.config import Config
from transformations.rules import Rules
from transformations.signs import read_by_signs
from transformations.stats.columns import MEMBER_COUNTS
from transformations.timestamps import microseconds

SEQUENCE = names.SEQUENCE_VIEW


class Read(Protocol):
    """What was read of some rows; `stores.read.Features` is one."""

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """By result name, [rows] each."""
        ...

    @property
    def present(self) -> Mapping[str, NDArray[np.bool_]]:
        """Which are there, bool [rows] each."""
        ...


@dataclass(frozen=True)
class Vectors:
    """The vectors of an aggregator that a ranker reads, and the item's of the same space.

    Attributes:
        line: As the catalogue names it.
        view: Of the fit.
        fields: In the view, by the name of the ranker's column; a field that begins with `stored_`
            holds int8.
        space: The fit of the item space.
        item_view: Of it.
        similarity: By which two vectors of it are compared.
        dim: Of all of them.
    """

    line: str
    view: str
    fields: Mapping[str, str]
    space: str
    item_view: str
    similarity: names.Similarity
    dim: int

    @classmethod
    def of(cls, config: Config, line: Aggregator) -> "Vectors":
        """Return those of a fit of a line."""
        own = line.config_of(config)
        name, fields = f"{line.name}_v{line.version}", {}
        for field in line.vectors(own):
            stem = "" if field == names.SINGLE_VECTOR else f".{field.removesuffix('_embedding')}"
            kept = names.stored(field) if line.stored_as(own) == "int8" else field
            fields[f"member.{name}{stem}"] = kept
        similarity = similarity_of(config, line)
        return cls(name, line.view, fields, str(own.space), own.item_view, similarity, own.dim)

    @property
    def item(self) -> str:
        """The ranker's column of the item's vector."""
        return f"item.{self.space}"


@dataclass(frozen=True)
class Needs:
    """The features that a ranker reads.

    Attributes:
        vectors: Of each of its aggregators.
        members, items: A number or category of the ranker → (view, feature, kind). The kind is
            "number", "category" or "timestamp"; of a timestamp the ranker sees the hours since.
        counts: The member columns that it reads from the sequence.
        context: Keys of a request → "number" or "category".
        groups: `Ranker.reads`.
        sources: Names of the candidate sources that it was trained with.
        time_zone: View and feature of the member's time zone; None: all live in UTC.
    """

    vectors: tuple[Vectors, ...]
    members: Mapping[str, tuple[str, str, str]]
    items: Mapping[str, tuple[str, str, str]]
    counts: tuple[str, ...]
    context: Mapping[str, str]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    time_zone: tuple[str, str] | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        ranker: Ranker,
        aggregators: Sequence[Aggregator],
        sources: Sequence[str],
        columns: Mapping[str, Mapping[str, tuple[str, str, str]]],
        context: Mapping[str, str],
    ) -> "Needs":
        """Return what a line needs.

        Args:
            aggregators: The fits that it reads.
            sources: The catalogue's candidate sources.
            columns: "member_stats", "profile", "item_stats" → as `members`.
        """
        reads = ranker.reads
        of = {group: columns.get(group, {}) for group in ("member_stats", "profile", "item_stats")}
        chosen = {group: of[group] if group in reads else {} for group in of}
        zone = config.members.time_zone if "context" in reads else None
        return cls(
            vectors=tuple(Vectors.of(config, line) for line in aggregators),
            members={**chosen["member_stats"], **chosen["profile"]},
            items=chosen["item_stats"],
            counts=tuple(config.rules.count_columns) if "member_stats" in reads else (),
            context=context if "context" in reads else {},
            groups=reads,
            sources=tuple(sources) if "sources" in reads else (),
            time_zone=None if zone is None else (names.PROFILE_VIEW, names.plain(zone)),
        )

    @classmethod
    def read(cls, noted: Mapping[str, Any]) -> Self:
        """Return what `noted` wrote."""
        members, items = (
            {name: (where[0], where[1], where[2]) for name, where in noted[side].items()}
            for side in ("members", "items")
        )
        counts, groups, sources = (tuple(noted[name]) for name in ("counts", "groups", "sources"))
        vectors = tuple(Vectors(**each) for each in noted["vectors"])
        given = noted.get("time_zone")  # a version before knew none
        zone = None if given is None else (given[0], given[1])
        return cls(vectors, members, items, counts, noted["context"], groups, sources, zone)

    def noted(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @property
    def of_views(self) -> list[tuple[str, str]]:
        """View and feature of what is read of members beside sequence and vectors, each once."""
        read = [(view, name) for view, name, _ in self.members.values()]
        return [*dict.fromkeys(read if self.time_zone is None else [*read, self.time_zone])]

    def of_members(self, rules: Rules) -> list[str]:
        """Return the features to read of members, as "view:feature"."""
        lists = ("item_ids", "actions", "event_timestamps", *sorted(read_by_signs(rules)))
        wanted = [f"{SEQUENCE}:{name}" for name in (*lists, *self.counts)]
        wanted += [f"{one.view}:{field}" for one in self.vectors for field in one.fields.values()]
        return wanted + [f"{view}:{name}" for view, name in self.of_views]

    def of_items(self) -> list[str]:
        """Return the features to read of items."""
        views = dict.fromkeys(one.item_view for one in self.vectors)
        return [
            *(f"{view}:embedding" for view in views),
            *(f"{view}:{name}" for view, name, _ in self.items.values()),
        ]


@dataclass(frozen=True, eq=False)
class Members:
    """Members at a time, as a ranker sees them; a row each."""

    columns: Columns
    actions: Actions
    now: NDArray[np.int64]


def actions_of(rules: Rules, read: Read) -> Actions:
    """Return the last actions of members that were read."""

    def lists(name: str) -> list[Any]:
        column, present = read.arrays[f"{SEQUENCE}__{name}"], read.present[f"{SEQUENCE}__{name}"]
        return [row if there else None for row, there in zip(column, present, strict=True)]

    times = [None if row is None else _microseconds(row) for row in lists("event_timestamps")]
    attributes = {name: lists(name) for name in read_by_signs(rules)}
    return Actions.of(rules, lists("item_ids"), lists("actions"), times, attributes)


def _microseconds(row: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Return times of a list as a training join has them, or as the online store's reader does."""
    if isinstance(row, np.ndarray):
        return row.astype("datetime64[us]").astype(np.int64)
    return np.array([microseconds(at) for at in row], np.int64)


def members_of(
    rules: Rules,
    needs: Needs,
    read: Read,
    ids: Sequence[Any],
    now: NDArray[np.int64],
    context: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
) -> Members:
    """Return members from what was read of them.

    Args:
        ids: Theirs [members].
        now: When each is to be recommended to, microseconds since 1970.
        context: Values of a key of each member, None where it is not known.
    """
    numbers: dict[str, Floats] = {}
    categories: dict[str, NDArray[Any]] = {}
    vectors: dict[str, Floats] = {}
    for one in needs.vectors:
        for column, field in one.fields.items():
            vectors[column] = vector_of(read, f"{one.view}__{field}", one.dim)
    for name in needs.counts:
        numbers[f"member.{name}"] = _number(read, f"{SEQUENCE}__{name}", missing=0.0)
    _columns(read, needs.members, now, numbers, categories)
    if "context" in needs.groups:
        local = now
        if needs.time_zone is not None:
            local = on_clocks(now, read.arrays["__".join(needs.time_zone)])
        numbers |= moments(local)
        for key, kind in needs.context.items():
            given = (context or {}).get(key, [None] * len(now))
            if kind == "number":
                values = [np.nan if value is None else float(value) for value in given]
                numbers[f"member.context_{key}"] = np.array(values, np.float32)
            else:
                categories[f"member.context_{key}"] = _texts(given)
    if "ids" in needs.groups:
        categories["member.id"] = _texts(ids)
    return Members(Columns(numbers, categories, vectors), actions_of(rules, read), now)


def items_of(
    needs: Needs, read: Read, ids: NDArray[Any], now: NDArray[np.int64], categories: Categories
) -> Columns:
    """Return items from what was read of them; a row each."""
    numbers: dict[str, Floats] = {}
    found: dict[str, NDArray[Any]] = {}
    _columns(read, needs.items, now, numbers, found)
    vectors = {
        one.item: vector_of(read, f"{one.item_view}__embedding", one.dim) for one in needs.vectors
    }
    if "history" in needs.groups or "item_stats" in needs.groups:
        found["item.category"] = categories.of_items(ids)
    if "ids" in needs.groups:
        found["item.id"] = _texts(ids)
    return Columns(numbers, found, vectors)


def inputs_of(
    needs: Needs,
    members: Members,
    items: Columns,
    item_ids: NDArray[Any],
    categories: Categories,
    member_rows: Rows,
    item_rows: Rows,
    ranks: Mapping[str, Floats],
) -> Inputs:
    """Return pairs of members and items.

    Args:
        items: A row for each of `item_ids`.
        ranks: Candidate source → the rank of each pair's item in it, from 0; NaN where it is not.
    """
    pairs: dict[str, Floats] = {}
    for one in needs.vectors:
        theirs = comparable(items.vectors[one.item], one.similarity)
        for column in one.fields:
            mine = comparable(members.columns.vectors[column], one.similarity)
            name = f"pair.match_{column.removeprefix('member.')}"
            pairs[name] = np.einsum("nd,nd->n", mine[member_rows], theirs[item_rows])
    if "history" in needs.groups:
        codes = categories.codes(item_ids)
        pairs |= history(
            members.actions,
            members.now,
            categories.codes(members.actions.items),
            item_ids[item_rows],
            codes[item_rows],
            member_rows,
        )
    for source in needs.sources:
        missing = np.full(len(member_rows), np.nan, np.float32)
        pairs[f"pair.rank_{source}"] = ranks.get(source, missing)
    spaces = {column: one.item for one in needs.vectors for column in one.fields}
    return Inputs(members.columns, items, Columns(pairs), member_rows, item_rows, spaces)


def _columns(
    read: Read,
    wanted: Mapping[str, tuple[str, str, str]],
    now: NDArray[np.int64],
    numbers: dict[str, Floats],
    categories: dict[str, NDArray[Any]],
) -> None:
    """Add the numbers and categories of views."""
    for column, (view, name, kind) in wanted.items():
        result = f"{view}__{name}"
        if kind == "category":
            present = read.present[result]
            values = read.arrays[result].astype(object)
            values[~present] = None
            categories[column] = values
        elif kind == "timestamp":
            since = np.asarray(read.arrays[result], "datetime64[us]").astype(np.int64)
            hours = ((now - since) / HOUR_US).astype(np.float32)
            numbers[column] = np.where(read.present[result], hours, np.float32(np.nan))
        else:
            counted = view == names.MEMBER_STATS_VIEW and name in MEMBER_COUNTS
            numbers[column] = _number(read, result, missing=0.0 if counted else np.nan)


def _number(read: Read, result: str, missing: float = np.nan) -> Floats:
    values = np.asarray(read.arrays[result], np.float64)
    return np.where(read.present[result], values, missing).astype(np.float32)


def vector_of(read: Read, result: str, dim: int) -> Floats:
    """Return vectors, zeros where missing: float32 [n, dim], also those that are kept as int8."""
    values, present = read.arrays[result], read.present[result]
    if values.dtype != object:
        return np.ascontiguousarray(values, np.float32)
    vectors = np.zeros((len(values), dim), np.float32)
    if present.any():
        kept = [np.frombuffer(row, np.uint8) for row in values[present]]
        vectors[present] = from_int8(np.stack(kept))
    return vectors


def _texts(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    return np.array([None if value is None else str(value) for value in values], object)
