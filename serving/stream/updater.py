"""Members' sequences and vectors kept fresh: read what is known, fold, embed, write.

as_of of a streamed row, which is its event_timestamp and its version, is the greatest of: now; one
microsecond after the newest event that counts (a producer's clock may run ahead by TOLERANCE); one
microsecond after the version that it replaces. So a member's rows are ordered as its states are,
whichever workers wrote them, and the online stores, where the older never wins, end with the last
state. A snapshot of midnight published at 06:00 is older than the row of an action of 05:59.

The order of writes is what makes a death at any point harmless: the state, then the views, then
(by the worker) the acknowledgement. Events that come again change no state, and their members'
rows are written again all the same.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.stream.bus.messages import Event
from serving.stream.offline_log import OfflineLog
from serving.stream.online_views import OnlineViews
from serving.stream.states.protocol import NONE, Id, StateStore, pack, unpack
from serving.stream.vectors import Vectors
from transformations.config import Config
from transformations.names import SEQUENCE_VIEW
from transformations.stream import (
    MICROSECOND,
    NEVER,
    Actions,
    Folded,
    States,
    differ,
    fold,
    from_sequences,
    microseconds,
    moment_of,
    to_sequences,
)

logger = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=5)


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


@dataclass
class Applied:
    """What became of some events, and how many members' rows were written."""

    outcomes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("applied", "duplicate", "expired", "clipped", "held"), 0
        )
    )
    members: int = 0
    conflicts: int = 0

    def add(self, folded: Folded) -> None:
        """Count what a fold did."""
        for outcome, count in (
            ("applied", folded.applied),
            ("duplicate", folded.duplicates),
            ("expired", folded.expired),
            ("clipped", folded.clipped),
            ("held", folded.held),
        ):
            self.outcomes[outcome] += count


@dataclass
class Fresh:
    """What it takes to keep members fresh.

    Attributes:
        clock: Returns now; a replay at another speed brings its own.
        tolerance: How far ahead of now an event may lie and still count at once.
        seeding: Whether the states are being made; otherwise a store without any is an error.
    """

    config: Config
    states: StateStore
    views: OnlineViews
    vectors: Vectors
    log: OfflineLog
    clock: Callable[[], datetime] = utc_now
    tolerance: timedelta = TOLERANCE
    seeding: bool = False

    def apply(self, events: Sequence[Event], due: Sequence[Id] = ()) -> Applied:
        """Fold events in, and what is due of the members' held ones; write every member's rows.

        Args:
            due: Further members, whose held actions have become due.
        """
        done = Applied()
        left = list(events)
        members = list(dict.fromkeys([*(event.member_id for event in events), *due]))
        while members:
            lost = self._apply_once(members, left, done)
            done.conflicts += len(lost)
            members = lost
            again = set(lost)
            left = [event for event in left if event.member_id in again]
        return done

    def _apply_once(self, members: list[Id], events: Sequence[Event], done: Applied) -> list[Id]:
        """Return the members that another worker wrote meanwhile; nothing was done for them."""
        states, versions = unpack(self.config.rules, self.states.read(members, self.seeding))
        arrived = _actions(self.config, members, events)
        as_of = self._as_of(versions, arrived)
        folded = fold(self.config.rules, states, arrived, as_of)
        written = self._replace(members, folded.states, versions, as_of)
        lost = np.flatnonzero(folded.states.known & ~written)
        if len(lost):
            # Counted when they are folded again.
            kept = ~np.isin(arrived.member, lost)
            folded = fold(self.config.rules, states, arrived.take(kept), as_of)
        done.add(folded)
        done.members += self.write(members, folded.states, as_of, np.flatnonzero(written))
        return [members[place] for place in lost.tolist()]

    def _as_of(self, versions: NDArray[np.int64], arrived: Actions) -> int:
        now = microseconds(self.clock())
        counting = arrived.moment[arrived.moment <= now + self.tolerance // MICROSECOND]
        newest = int(counting.max()) if len(counting) else 0
        replaced = int(versions.max()) if len(versions) else 0
        return max(now, newest + 1, replaced + 1)

    def _replace(
        self,
        members: list[Id],
        states: States,
        versions: NDArray[np.int64],
        as_of: int,
    ) -> NDArray[np.bool_]:
        """Write the states of the known ones among the members; return which were written."""
        known = np.flatnonzero(states.known)
        due = np.full(len(states), NONE)
        # The first of each member's held actions: they are in order, so the last one set is it.
        due[states.held.member[::-1]] = states.held.moment[::-1]
        written = np.zeros(len(members), bool)
        if len(known):
            written[known] = self.states.write(
                [members[place] for place in known.tolist()],
                versions[known],
                pack(states.of_members(known), as_of),
                due[known],
                self.seeding,
            )
        return written

    def write(
        self, members: Sequence[Id], states: States, as_of: int, chosen: NDArray[np.int64]
    ) -> int:
        """Write the rows of the chosen members online, and log them; return how many there are.

        A member of whom only held actions are known has no row yet.
        """
        chosen = chosen[states.last[chosen] != NEVER]
        if not len(chosen):
            return 0
        ids = pa.array([members[place] for place in chosen.tolist()], self.views.id_type)
        moment = moment_of(as_of)
        sequences = to_sequences(
            self.config.rules, ids, states.of_members(chosen), as_of, max(self.clock(), moment)
        )
        # The sequence last: who sees an action in it can read the vectors too.
        rows = {**self.vectors.rows(sequences, moment), SEQUENCE_VIEW: sequences}
        for view, batch in rows.items():
            self.views.write(view, batch)
        readable = pa.scalar(max(self.clock(), moment), pa.timestamp("us", tz="UTC"))
        for view, batch in rows.items():
            place = batch.schema.get_field_index("created_timestamp")
            created = pa.repeat(readable, batch.num_rows)
            self.log.append(view, batch.set_column(place, "created_timestamp", created))
        return len(chosen)

    def seed(self, rows: pa.RecordBatch, as_of: datetime) -> int:
        """Fold a snapshot's rows into the states; return how many members' rows were rewritten.

        A member that the stream has not met gets the snapshot's state; its row is online already.
        Where the two know different things, which the online row then lacks some of, a row of both
        is written: actions that the snapshot saw and the bus never carried, or late ones that it
        did not see.
        """
        members = rows["member_id"].to_pylist()
        theirs = from_sequences(self.config.rules, rows)
        rewritten = 0
        places = np.arange(len(members))
        while len(places):
            some = [members[place] for place in places.tolist()]
            lost, more = self._seed_once(some, theirs.of_members(places), microseconds(as_of))
            places, rewritten = places[lost], rewritten + more
        return rewritten

    def _seed_once(
        self, members: list[Id], theirs: States, snapshot: int
    ) -> tuple[NDArray[np.int64], int]:
        mine, versions = unpack(self.config.rules, self.states.read(members, self.seeding))
        met = versions != NONE
        new = np.flatnonzero(~met & theirs.known)
        written = np.zeros(len(members), bool)
        if len(new):
            written[new] = self._replace(
                [members[place] for place in new.tolist()],
                theirs.of_members(new),
                versions[new],
                snapshot,
            )
        lost = np.setdiff1d(new, np.flatnonzero(written))
        if not met.any():
            return lost, 0
        nothing = Actions.of(self.config.rules, [], [], [], [])
        as_of = max(self._as_of(versions, nothing), snapshot + 1)
        both = fold(self.config.rules, mine, theirs.actions, as_of).states
        # What is online is the snapshot's row where that is newer, and the stream's elsewhere.
        unseen = differ(both, fold(self.config.rules, mine, nothing, as_of).states)
        unread = differ(both, fold(self.config.rules, theirs, nothing, as_of).states)
        online_lacks = np.where(versions < snapshot, unread, unseen)
        chosen = np.flatnonzero(met & (unseen | online_lacks))
        if not len(chosen):
            return lost, 0
        names = [members[place] for place in chosen.tolist()]
        won = self._replace(names, both.of_members(chosen), versions[chosen], as_of)
        count = self.write(members, both, as_of, chosen[won & online_lacks[chosen]])
        return np.concatenate([lost, chosen[~won]]), count


def _actions(config: Config, members: Sequence[Id], events: Sequence[Event]) -> Actions:
    places = {member: place for place, member in enumerate(members)}
    if not events:
        return Actions.of(config.rules, [], [], [], [])
    who, items, codes, moments = zip(*events, strict=True)
    return Actions.of(config.rules, [places[member] for member in who], items, codes, moments)
