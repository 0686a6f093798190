"""The columns of an items source: its id, what its vectors are made from, and since when."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pipelines.init.choose import Choice, by_name, named
from pipelines.init.known import TEXTS
from pipelines.init.look import Column, Source
from transformations.errors import InputError
from transformations.names import plain

OPTION = "--items-id"


@dataclass(frozen=True)
class ItemsGuess:
    """Where an item's columns are.

    Attributes:
        embedding, dim, encoder: The column of vectors, their length and what made them; None where
            the vectors are made here, from `text` and `categories`.
        unread: The columns that are not read.
    """

    source: Source
    item_id: Choice
    embedding: Choice | None
    dim: Choice | None
    encoder: Choice | None
    text: Choice
    categories: Choice
    available_at: Choice | None
    available_until: Choice | None
    unread: tuple[str, ...]


def guess_items(
    source: Source,
    asked_id: str | None = None,
    encoder: str | None = None,
    overlaps: Mapping[str, float] | None = None,
    event_column: str | None = None,
) -> ItemsGuess:
    """Guess which column is which.

    Args:
        asked_id: The id column that the user named.
        encoder: What made the vectors; default: the file's or table's name.
        overlaps: Column → the share of the events' items found there; None without events.
        event_column: The events' column of item ids.

    Raises:
        InputError: the id cannot be told, or nothing is there to make a vector from.
    """
    item_id = (
        named(OPTION, source, asked_id) if asked_id else _item_id(source, overlaps, event_column)
    )
    rest = [column for column in source.columns if column.name != item_id.value and column.given]
    at = _time("available_at", rest)
    until = _time("available_until", rest)
    vectors = [column for column in rest if _is_vector(column)]
    embedding = dim = made_by = None
    text: list[str] = []
    categories: list[str] = []
    if vectors:
        best = (by_name("embedding", vectors) or vectors)[0]
        others = f", the first of {len(vectors)} such columns" if len(vectors) > 1 else ""
        embedding = Choice(best.name, f"lists of numbers{others}")
        dim = Choice(best.dim, f"the lists have {best.dim} numbers each")
        made_by = _encoder(source, encoder)
    else:
        categories = [column.name for column in rest if _is_category(column, source.rows)]
        text = [c.name for c in rest if c.name not in categories and _is_prose(c)]
        if not text and not categories:
            raise InputError(
                "--items: expected a column of text, of categories or of vectors (lists of "
                f"numbers of equal length) beside the id {item_id.value!r} in {source.name}, got "
                f"none; its columns are: {source.names}"
            )
    read = {item_id.value, *text, *categories}
    read |= {choice.value for choice in (at, until, embedding) if choice is not None}
    return ItemsGuess(
        source,
        item_id,
        embedding,
        dim,
        made_by,
        Choice(text, "columns of words" if text else "no column of words"),
        Choice(categories, "few values, lists, or values joined by |" if categories else "none"),
        at,
        until,
        tuple(column.name for column in source.columns if column.name not in read),
    )


def _item_id(
    source: Source, overlaps: Mapping[str, float] | None, event_column: str | None
) -> Choice:
    columns = [column for column in source.columns if column.given and not column.is_list]
    names = by_name("item_id", columns) or [c for c in columns if plain(c.name) == "id"]
    if overlaps is not None:
        if not overlaps:
            raise InputError(
                f"{OPTION}: expected a column of {source.name} with ids of the events' column "
                f"{event_column!r}, got none that shares a value with it; are these the items of "
                f"the events? If so, name it with {OPTION} COLUMN. The columns are: {source.names}"
            )
        top = max(overlaps.values())
        best = [column for column in columns if overlaps.get(column.name) == top]
        same = [c for c in best if plain(c.name) == plain(event_column or "")]
        chosen = best if len(best) == 1 else same or [c for c in best if c in names]
        if len(chosen) == 1:
            return Choice(chosen[0].name, f"it holds {top:.0%} of the events' items")
        names = best
    if len(names) == 1:
        return Choice(names[0].name, "its name")
    unique = [c for c in columns if c.may_be_id and c.distinct == source.rows]
    if not names and len(unique) == 1:
        return Choice(unique[0].name, "the only column whose values all differ")
    found = names or unique
    got = f"{len(found)}: {', '.join(column.name for column in found)}" if found else "none"
    raise InputError(
        f"{OPTION}: expected one column for the item's id in {source.name}, got {got}; name it "
        f"with {OPTION} COLUMN. The columns are: {source.names}"
    )


def _time(role: str, columns: Sequence[Column]) -> Choice | None:
    found = by_name(role, [column for column in columns if column.is_time])
    return Choice(found[0].name, "its name, and times in it") if found else None


def _is_vector(column: Column) -> bool:
    """Say whether a column holds vectors: short lists of integers are codes."""
    if column.dim is None or column.dim < 2:
        return False
    return column.dim >= 8 or column.kind.startswith(("FLOAT", "DOUBLE", "DECIMAL", "VARCHAR"))


def _is_category(column: Column, rows: int) -> bool:
    if column.is_list:
        return column.kind.startswith("VARCHAR")
    if not column.is_text or column.is_time or plain(column.name) in TEXTS:
        return False
    few = column.distinct <= max(50, rows // 20) and 2 * column.distinct <= column.given
    return column.joined >= 0.2 or (few and column.characters < 60)


def _is_prose(column: Column) -> bool:
    if column.is_list or column.is_time or not column.is_text:
        return False
    return plain(column.name) in TEXTS or column.words >= 1.3


def _encoder(source: Source, asked: str | None) -> Choice:
    if asked is not None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", asked) or asked == "tfidf_svd":
            raise InputError(
                "--encoder: expected lower-case letters, digits and _, and not tfidf_svd, this "
                f"project's own encoder; got {asked!r}"
            )
        return Choice(asked, "--encoder names it")
    stem = source.table or PurePath(source.written).name.split(".")[0]
    name = plain(stem.rpartition(".")[2])
    if not name[:1].isalpha() or name == "tfidf_svd":
        name = f"vectors_{name}".rstrip("_")
    return Choice(name, f"the name of {source.name}; --encoder says another")
