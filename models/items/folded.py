"""Vectors of an encoder that reads activity: what members did since the fit is folded in.

The basis of the fit stays, so an item's new vector is in the same space as all others. Rows say
since when each may be used:

- at the end of the fit's data, of every item known by then, with what was done until then;
- when an item became known later: from its text alone, until it is folded in;
- at each as_of that is built: of every item whose vector has changed by then.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.items.corpus import corpus_at
from models.items.protocol import Corpus, FittedEncoder
from transformations.config import Config
from transformations.member_columns import UTC_US
from transformations.timestamps import microseconds

ROUNDING = 1e-6
"""Share of a vector's largest number by which two computations of it may differ."""
NO_ROWS = pa.table({"item_id": pa.array([], pa.int64())})


@dataclass(frozen=True, eq=False)
class Folded:
    """New rows of `items`.

    Attributes:
        rows: item_id, available_at, kind.
        vectors: float32 [rows, dim].
        without_vector: Items that have none at all.
    """

    rows: pa.Table
    vectors: NDArray[np.float32]
    without_vector: int


def folded(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    encoder: FittedEncoder,
    as_of: datetime,
    fit_before: datetime,
) -> Folded:
    """Return the rows that the view `items` lacks, from `stg_items` and activity before `as_of`.

    None where `as_of` lies before the end of the fit's data: no row may be used then.
    """
    if as_of < fit_before:
        return Folded(NO_ROWS, np.zeros((0, config.dim), np.float32), 0)
    newest = _Newest(con, as_of, config.dim)
    made: list[tuple[pa.Array, NDArray[np.int64], NDArray[np.float32]]] = []

    def add(corpus: Corpus, at: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        assert corpus.ids is not None
        new = newest.changed(corpus.ids, at, vectors)
        if new.any():
            chosen = corpus.ids.filter(pa.array(new)), at[new], vectors[new]
            newest.add(*chosen)
            made.append(chosen)

    start, end = microseconds(fit_before), microseconds(as_of)
    now = corpus_at(config, con, as_of, with_activity=True, with_searches=True)
    assert now.available_at is not None
    assert now.ids is not None
    if newest.is_empty:
        then = corpus_at(config, con, fit_before, with_activity=True, with_searches=True)
        add(then, np.full(len(then), start), encoder.encode(then))
    # A corpus without behaviour: the encoder has only their texts.
    unknown = newest.lacks(now.ids)
    since = Corpus(
        [now.documents[index] for index in np.flatnonzero(unknown).tolist()],
        now.ids.filter(pa.array(unknown)),
        now.available_at[unknown],
    )
    assert since.available_at is not None
    add(since, np.maximum(since.available_at, start), encoder.encode(since))
    vectors = encoder.encode(now)
    add(now, np.full(len(now), end), vectors)
    kinds: pa.Table = con.sql(
        "select item_id, arg_max(kind, available_at) as kind from stg_items group by item_id"
    ).to_arrow_table()
    return Folded(
        _table(now.ids.type, made, kinds),
        np.concatenate([np.zeros((0, config.dim), np.float32), *(each[2] for each in made)]),
        int(newest.lacks(now.ids).sum()),
    )


def _table(kind: pa.DataType, made: list[Any], kinds: pa.Table) -> pa.Table:
    ids = pa.chunked_array([each[0] for each in made], kind).combine_chunks()
    at = np.concatenate([np.zeros(0, np.int64), *(each[1] for each in made)])
    places = pc.index_in(ids, value_set=kinds["item_id"].combine_chunks())
    return pa.table(
        {
            "item_id": ids,
            "available_at": pa.array(at).cast(UTC_US),
            "kind": kinds["kind"].combine_chunks().take(places),
        }
    )


class _Newest:
    """The newest vector of each item so far."""

    def __init__(self, con: duckdb.DuckDBPyConnection, as_of: datetime, dim: int) -> None:
        table: pa.Table = con.sql(
            "select item_id, epoch_us(available_at) as at, embedding from items "
            "where available_at <= $as_of "
            "qualify row_number() over (partition by item_id order by available_at desc) = 1",
            params={"as_of": as_of},
        ).to_arrow_table()
        self._ids = table["item_id"].combine_chunks()
        self._at = table["at"].to_numpy()
        flat = table["embedding"].combine_chunks().flatten()
        self._vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim)

    @property
    def is_empty(self) -> bool:
        """Whether there is none at all."""
        return len(self._ids) == 0

    def lacks(self, ids: pa.Array) -> NDArray[np.bool_]:
        """Return which items have no vector; bool [ids]."""
        return pc.index_in(ids, value_set=self._ids).is_null().to_numpy(zero_copy_only=False)

    def changed(
        self, ids: pa.Array, at: NDArray[np.int64], vectors: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Return which vectors, as of these times, are worth a row; bool [ids]."""
        is_new = self.lacks(ids) & vectors.any(axis=1)
        places = pc.fill_null(pc.index_in(ids, value_set=self._ids), -1).to_numpy()
        known = np.flatnonzero(places >= 0)
        before = places[known]
        # By more than rounding, which differs from one training or machine to another. A vector
        # depends by that little on which other times were built before.
        change = np.abs(vectors[known] - self._vectors[before]).max(axis=1)
        moved = change > ROUNDING * np.abs(vectors[known]).max(axis=1)
        # A row of the same time stays: it may have been read.
        later = at[known] > self._at[before]
        is_new[known] = moved & later & vectors[known].any(axis=1)
        return is_new

    def add(self, ids: pa.Array, at: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Note new rows, of items each once."""
        stay = pc.invert(pc.is_in(self._ids, value_set=ids))
        kept = stay.to_numpy(zero_copy_only=False)
        self._ids = pa.concat_arrays([self._ids.filter(stay).cast(ids.type), ids])
        self._at = np.concatenate([self._at[kept], at])
        self._vectors = np.concatenate([self._vectors[kept], vectors])
