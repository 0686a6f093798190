"""States that a store forgot: evicted when its memory was full, or a key that somebody deleted.

A member without a state is new to the stream, or its state was lost. One that the base snapshot
knows, or of whom a row was streamed, was there. Its state is made again of the snapshot's row and
of its newest streamed row, which lies in a part or, for some minutes, in a worker's spool. Without
that, its next action would turn a sequence of 32 into one of 1, online. Held actions of such a
member are gone; the next snapshot after their time has them.

Who was streamed is read once for each snapshot, and what this worker writes is added. A member whom
no snapshot knows, and whom only another worker streamed since, counts as new.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.stream.offline_log import streamed
from serving.stream.states.protocol import NONE, Id
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.layout import snapshot_files
from transformations.names import SEQUENCE_VIEW
from transformations.stream import Actions, States, fold, from_sequences

logger = logging.getLogger(__name__)


class Forgotten:
    """Finds members that have no state although they had one, and makes their states again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._as_of: datetime | None = None
        self._note: str | None = None
        self._hashes: NDArray[np.uint64] | None = None
        self._streamed: NDArray[np.uint64] | None = None
        self._written: set[int] = set()

    def follow(self, as_of: datetime, note: str) -> None:
        """Take this snapshot for the base; another note is another content of the same as_of."""
        if note != self._note:
            self._as_of, self._note, self._hashes, self._streamed = as_of, note, None, None
            self._written = set()

    def among(self, members: Sequence[Id], versions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the members that have no state although one was there.

        Two ids of one hash may add a member that is new; nothing is then found for it.

        Args:
            versions: int64 [members], of their states; NONE where there is none.
        """
        absent = np.flatnonzero(versions == NONE)
        if self._as_of is None or not len(absent):
            return absent[:0]
        if self._hashes is None:
            files = snapshot_files(self._config.layout.sequences, self._as_of)
            ids = pq.read_table(files, columns=["member_id"], partitioning=None)["member_id"]
            self._hashes = np.sort(_hashes(ids.to_numpy()))
        some = [members[index] for index in absent.tolist()]
        return absent[_are_in(some, self._hashes) | self.were_streamed(some)]

    def note_streamed(self, members: Sequence[Id]) -> None:
        """Note whose rows this worker has just written, where the snapshot does not know them."""
        if self._streamed is not None and self._hashes is not None:  # else the spool will tell
            new = ~_are_in(members, self._hashes)
            self._written.update(_hashes(np.array(members))[new].tolist())

    def were_streamed(self, members: Sequence[Id]) -> NDArray[np.bool_]:
        """Return whose rows the stream wrote since the snapshot: before the first call, or here."""
        if self._streamed is None:
            with connect(self._config) as con:
                query = streamed(self._config, con, SEQUENCE_VIEW, self._as_of)
                ids = (
                    []
                    if query is None
                    else con.sql(
                        f"select distinct member_id from ({query}) where event_timestamp > $as_of",
                        params={"as_of": self._as_of},
                    ).fetchnumpy()["member_id"]
                )
            self._streamed = np.sort(_hashes(np.asarray(ids)))
        here = [hashed in self._written for hashed in _hashes(np.array(members)).tolist()]
        return _are_in(members, self._streamed) | np.array(here, bool)

    def states(self, members: Sequence[Id], as_of: int) -> States:
        """Return the states of these members as of a timestamp in microseconds since 1970."""
        rules, index_of = self._config.rules, {id_: index for index, id_ in enumerate(members)}
        nothing = States.empty(rules, len(members))
        found, last = [nothing.actions], nothing.last
        for rows in self._rows(members):
            theirs = from_sequences(rules, rows)
            index = np.array([index_of[member] for member in rows["member_id"].to_pylist()], int)
            found.append(replace(theirs.actions, member=index[theirs.actions.member]))
            np.maximum.at(last, index, theirs.last)
        known = States(nothing.actions, nothing.held, last)
        return fold(rules, known, Actions.joined(*found), as_of).states

    def _rows(self, members: Sequence[Id]) -> Iterator[pa.RecordBatch]:
        """Yield the members' rows of the snapshot and of what was streamed after it."""
        if self._as_of is None:
            return
        ids = pa.int64() if self._config.member_id_type == "int64" else pa.string()
        wanted = pa.array(list(members), ids)
        files = snapshot_files(self._config.layout.sequences, self._as_of)
        with connect(self._config) as con:
            con.register("wanted", pa.table({"member_id": wanted}))
            of_snapshot = f"from {parquet(files)} semi join wanted using (member_id)"
            yield from con.sql(of_snapshot).to_arrow_reader()
            query = streamed(self._config, con, SEQUENCE_VIEW, self._as_of, wanted)
            if query is not None:
                con.execute(
                    f"create temp view streamed as select * from ({query}) semi join wanted using "
                    "(member_id)"
                )
                newest = con.sql(sql("streamed_since", __file__), params={"as_of": self._as_of})
                yield from newest.to_arrow_reader()


def with_states(states: States, chosen: NDArray[np.int64], again: States) -> States:
    """Return the states with those of the chosen members, which had none, in their place.

    Args:
        chosen: Their indices, ascending.
        again: Their states, in this order.
    """
    actions = replace(again.actions, member=chosen[again.actions.member])
    last = states.last.copy()
    last[chosen] = again.last
    return States(Actions.joined(states.actions, actions), states.held, last)


def _are_in(members: Sequence[Id], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(hashes) or not len(members):
        return np.zeros(len(members), bool)
    theirs = _hashes(np.array(members))
    at = np.minimum(np.searchsorted(hashes, theirs), len(hashes) - 1)
    found: NDArray[np.bool_] = hashes[at] == theirs
    return found


def _hashes(ids: NDArray[Any]) -> NDArray[np.uint64]:
    texts = ids.dtype.kind in "UO"
    found: NDArray[np.uint64] = pd.util.hash_array(ids.astype(object if texts else np.int64))
    return found
