"""Sequences as arrays: left-padded rows of the item table, action codes and ages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transformations.attributes import ARROW_TYPES, Values, arrow_of, as_values, missing
from transformations.config import Config
from transformations.duck import named_in, parquet, sql
from transformations.errors import InputError, RunFailedError
from transformations.layout import part_files
from transformations.rules import MISSING, Rules
from transformations.signs import read_by_signs, signs_of
from transformations.timestamps import DAY_US, microseconds

PAD = 0


class ItemTable:
    """The item vectors of one encoder version as of a timestamp, one per row.

    Attributes:
        ids: Of the items, in the order of their rows from 1 on.
        vectors: float32 [items + 1, dim], contiguous. Row 0 is zeros, for PAD and for items
            without a vector.
    """

    def __init__(self, ids: pa.Array, vectors: NDArray[np.float32]) -> None:
        self.vectors = vectors
        self.ids = ids
        # A pandas index keeps its hash table. On 500,000 look-ups in 100,000 items it takes a
        # third of the time of Arrow's index_in for numbers, but six times as long for text.
        self._index = pd.Index(ids.to_numpy()) if pa.types.is_integer(ids.type) else None

    @classmethod
    def read(
        cls,
        config: Config,
        con: duckdb.DuckDBPyConnection,
        as_of: datetime,
        which: str = "newest_items",
    ) -> "ItemTable":
        """Read each item's newest vector with available_at <= as_of.

        Args:
            which: As for `read_items`.

        Raises:
            InputError: there is no item vector at all, or one is not of the configured dimension.
        """
        read_items(config, con, as_of, which)
        columns, vectors = take_vectors(config, con, which)
        return cls(columns["item_id"].combine_chunks(), vectors)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, item_ids: pa.Array) -> NDArray[np.int32]:
        """Return the row of each item's vector, 0 if it has none; int32 [ids]."""
        if self._index is not None:
            indices = self._index.get_indexer(item_ids.to_numpy())
        else:
            indices = pc.fill_null(pc.index_in(item_ids, value_set=self.ids), -1).to_numpy()
        return (indices + 1).astype(np.int32)


def read_items(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    which: str = "newest_items",
    first_as_of: datetime | None = None,
) -> None:
    """Make the temp table `which`: one vector per item of the configured encoder known at as_of.

    Args:
        which: `newest_items`, the newest with available_at <= as_of; `first_items`, the oldest; or
            `versions_between`, all that are the newest at some moment from `first_as_of` on.

    Raises:
        InputError: there is no item vector at all.
    """
    parts = part_files(config.items_dir)
    if not parts:
        raise InputError(
            f"expected item vectors of {config.space} in {config.items_dir}, found none; "
            "`activity run` builds them"
        )
    con.execute(f"create or replace temp view items as from {parquet(parts)}")
    query = sql(which, __file__)
    moments = named_in(query, {"as_of": as_of, "first_as_of": first_as_of})
    con.execute(f"create or replace temp table {which} as {query}", moments)
    con.execute("drop view items")


def take_vectors(
    config: Config, con: duckdb.DuckDBPyConnection, which: str
) -> tuple[pa.Table, NDArray[np.float32]]:
    """Read and drop a table of item vectors; memory holds them once.

    Returns:
        Its other columns [rows]; its vectors after a row of zeros, float32 [rows + 1, dim].

    Raises:
        InputError: a vector is not of the configured dimension.
    """
    ((items, wrong),) = con.execute(
        f"select count(*), count(*) filter (where len(embedding) <> $dim) from {which}",
        {"dim": config.dim},
    ).fetchall()
    if wrong:
        raise InputError(
            f"{wrong:,} of {items:,} item vectors of {config.space} in {config.items_dir} are "
            f"not of dimension {config.dim}; raise the encoder's version with `dim`, so that "
            "vectors of two spaces never mix"
        )
    vectors = np.zeros((items + 1, config.dim), np.float32)
    row = 1
    for batch in con.sql(f"select embedding from {which}").to_arrow_reader(50_000):
        flat = batch["embedding"].flatten().to_numpy()
        vectors[row : row + batch.num_rows] = flat.reshape(-1, config.dim)
        row += batch.num_rows
    columns = con.sql(f"select * exclude (embedding) from {which}").to_arrow_table()
    con.execute(f"drop table {which}")
    return columns, vectors


@dataclass(frozen=True)
class Padded:
    """Sequences of equal length, padded on the left: the newest action is always last.

    Attributes:
        rows: Rows of the item table, int32 [members, length]; 0 in a PAD slot.
        actions: Codes, int32 [members, length]; 0 is PAD.
        ages: Days before as_of, float32 [members, length]; 0 in a PAD slot.
        n_actions: Actions in all sequences.
        n_without_vector: Actions that became PAD because their item has no vector.
        carried: What the actions carry, read when it is asked for; None where that is unknown.
    """

    rows: NDArray[np.int32]
    actions: NDArray[np.int32]
    ages: NDArray[np.float32]
    n_actions: int
    n_without_vector: int
    carried: "Carried | None" = None

    def signs(self) -> NDArray[np.int32]:
        """Return the actions' signs, int32 [members, length]; 0 in a PAD slot."""
        return self._spread(lambda carried: carried.signs(), np.int32)

    def numbers(self, name: str) -> NDArray[np.float32]:
        """Return a number that the actions carry, float32 [members, length].

        NaN where it is missing; 0 in a PAD slot.
        """
        return self._spread(lambda carried: carried.attribute(name), np.float32)

    def categories(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """Return codes, int32 [members, length], and what the codes 1, 2, … stand for.

        0 where it is missing, and in a PAD slot.
        """
        listed: list[str] = []

        def codes(carried: Carried) -> NDArray[np.int32]:
            found, places = np.unique(carried.attribute(name).astype(str), return_inverse=True)
            listed.extend(value for value in found.tolist() if value != MISSING)
            code = {value: number for number, value in enumerate(listed, start=1)}
            return np.array([code.get(value, 0) for value in found], np.int32)[places]

        return self._spread(codes, np.int32), listed

    def _spread(self, of: Callable[["Carried"], NDArray[Any]], dtype: Any) -> NDArray[Any]:
        if self.carried is not None:
            return self.carried.spread(of(self.carried).astype(dtype))
        if self.actions.any():
            raise ValueError("expected sequences that know what their actions carry")
        return np.zeros(self.actions.shape, dtype)


@dataclass(frozen=True, eq=False)
class Carried:
    """What the actions of padded sequences carry, flat: one value per action that has a slot.

    Attributes:
        rows: The sequences; a list per attribute, none of it where it was not configured yet.
        has_vector: Which actions have a slot, bool [actions].
        codes: `Rules.action_code` of each, int32 [actions].
        slots: Each action's slot in the flattened arrays, int64 [actions].
        shape: Members and length.
    """

    rules: Rules
    rows: pa.RecordBatch
    has_vector: NDArray[np.bool_]
    codes: NDArray[np.int32]
    slots: NDArray[np.int64]
    shape: tuple[int, int]

    def attribute(self, name: str) -> Values:
        """Return an attribute of every action; NaN or MISSING where it is missing."""
        return as_values(self.rules.attributes[name], carried_values(self.rows, name, self.rules))

    def signs(self) -> NDArray[np.int32]:
        """Return the sign of every action."""
        read = {name: self.attribute(name) for name in read_by_signs(self.rules)}
        return signs_of(self.rules, self.codes, read)

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put each action's value into its slot, if it has one: [members, length]."""
        filled = np.zeros(self.shape, values.dtype)
        filled.ravel()[self.slots[self.has_vector]] = values[self.has_vector]
        return filled


def carried_values(rows: pa.RecordBatch, name: str, rules: Rules) -> pa.Array:
    """Return an attribute of every action of sequences; missing where they have no list of it."""
    attribute = rules.attributes[name]
    if name in rows.schema.names:
        return rows[name].flatten().cast(ARROW_TYPES[attribute.kind])
    return arrow_of(attribute, missing(attribute, len(rows["item_ids"].flatten())))


def pad(
    sequences: pa.RecordBatch,
    items: ItemTable,
    rules: Rules,
    as_of: datetime | pa.Array,
    names: Sequence[str] | None = None,
) -> Padded:
    """Turn rows of member_sequences into arrays; no Python loop over members or actions.

    Args:
        sequences: item_ids, actions and event_timestamps, lists of equal length, oldest first.
        as_of: What ages are relative to: one timestamp, or one per sequence (microseconds).
        names: The actions in the order of their codes, from 1; default: the configured ones.

    Raises:
        RunFailedError: a sequence is longer than the configured length, or holds an action that
            the configuration does not name.
    """
    lists = sequences["item_ids"]
    lengths = pc.list_value_length(lists).to_numpy()
    members, length = len(lengths), rules.length
    if members and lengths.max() > length:
        raise RunFailedError(
            f"expected sequences of at most {length} actions (the configured length), got one of "
            f"{lengths.max()}; build the snapshot again"
        )
    ends = np.cumsum(lengths)
    # The i-th list's last action goes to the last slot of the i-th row.
    shift = (np.arange(1, members + 1) * length - ends).repeat(lengths)
    slots = np.arange(int(lengths.sum())) + shift

    rows = items.rows(lists.flatten())
    codes = _codes(sequences["actions"].flatten(), names or list(rules.actions))
    timestamps = sequences["event_timestamps"].flatten().cast(pa.int64()).to_numpy()
    if isinstance(as_of, datetime):
        ages = ((microseconds(as_of) - timestamps) / DAY_US).astype(np.float32)
    else:
        ends_at = as_of.cast(pa.int64()).to_numpy().repeat(lengths)
        ages = ((ends_at - timestamps) / DAY_US).astype(np.float32)
    has_vector = rows != 0
    carried = Carried(rules, sequences, has_vector, codes.copy(), slots, (members, length))
    codes[~has_vector] = PAD
    ages[~has_vector] = 0.0
    return Padded(
        rows=_spread(rows, slots, (members, length)),
        actions=_spread(codes, slots, (members, length)),
        ages=_spread(ages, slots, (members, length)),
        n_actions=len(rows),
        n_without_vector=int(len(rows) - has_vector.sum()),
        carried=carried,
    )


def _codes(actions: pa.Array, names: Sequence[str]) -> NDArray[np.int32]:
    """Return the code of each action's name."""
    indices = pc.index_in(actions, value_set=pa.array(list(names)))
    if indices.null_count:
        unknown = actions.filter(indices.is_null())[0].as_py()
        raise RunFailedError(
            f"expected actions among {', '.join(names)}, got {unknown!r} in a sequence; "
            "build the snapshot again with the present configuration"
        )
    return indices.to_numpy() + np.int32(1)


def _spread(values: np.ndarray, slots: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    filled = np.zeros(shape, values.dtype)
    filled.ravel()[slots] = values
    return filled
