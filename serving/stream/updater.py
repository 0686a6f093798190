"""Updates members' sequences and vectors: read their states, fold events in, embed, write.

The as_of of a streamed row is its event_timestamp and its version. It is the greatest of: now; one
microsecond after the newest event that counts (a producer's clock may run ahead by TOLERANCE); one
microsecond after the version that it replaces. So a member's rows have the order of its states,
whichever worker wrote them. In the online stores an older row never wins, so the last state's row
stays. A midnight snapshot published at 06:00 is older than the row of an action at 05:59.

The order of writes makes a kill at any point harmless: the state, then the views, then (by the
worker) the acknowledgement. Redelivered events change no state, but their members' rows are written
again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from models.spec import Aggregator
from serving.stream.bus.messages import StreamEvent
from serving.stream.forgotten import Forgotten, with_states
from serving.stream.offline_log import OfflineLog
from serving.stream.online_writer import OnlineWriter
from serving.stream.states.open import open_states
from serving.stream.states.protocol import NONE, Id, StateStore, pack, unpack
from serving.stream.vectors import Vectors
from transformations import clock
from transformations.config import Config
from transformations.names import MEMBER_STATS_VIEW, SEQUENCE_VIEW
from transformations.rules import SEARCH
from transformations.stats.columns import duration
from transformations.stats.member_stats import member_stats
from transformations.stream import (
    NO_TIME,
    Actions,
    Folded,
    States,
    differ,
    fold,
    from_sequences,
    to_sequences,
)
from transformations.timestamps import MICROSECOND, microseconds, timestamp_of

logger = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=5)


def utc_now() -> datetime:
    """Return the current time."""
    return clock.now()


@dataclass
class Applied:
    """Outcomes of some events, and how many members' rows were written.

    Attributes:
        recovered: Members whose state the store had lost.
        refused: Events that are too far ahead to be held beside what their member holds already.
    """

    outcomes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("applied", "duplicate", "expired", "clipped", "held"), 0
        )
    )
    members: int = 0
    conflicts: int = 0
    recovered: int = 0
    refused: list[StreamEvent] = field(default_factory=list)

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
class MemberUpdater:
    """Keeps members' states and rows up to date.

    Attributes:
        online: Writes the views' online rows.
        clock: Returns now; a replay at another speed has its own clock.
        tolerance: How far ahead of now an event may lie and still count at once.
        seeding: Whether the states are being built; otherwise an empty store is an error.
    """

    config: Config
    states: StateStore
    online: OnlineWriter
    vectors: Vectors
    log: OfflineLog
    forgotten: Forgotten
    clock: Callable[[], datetime] = utc_now
    tolerance: timedelta = TOLERANCE
    seeding: bool = False

    def apply(self, events: Sequence[StreamEvent], due: Sequence[Id] = ()) -> Applied:
        """Fold events and due held actions in; write every affected member's rows.

        Args:
            due: Further members, whose held actions are due.
        """
        done = Applied()
        self._publish_searches(events)
        left = list(events)
        members = list(dict.fromkeys([*(event.member_id for event in events), *due]))
        while members:
            lost = self._apply_once(members, left, done)
            done.conflicts += len(lost)
            members = lost
            again = set(lost)
            left = [event for event in left if event.member_id in again]
        return done

    def _publish_searches(self, events: Sequence[StreamEvent]) -> None:
        """Write the vectors of the events' searches online, in every space.

        First of all: whoever then finds one in a member's sequence, finds its vector too.
        """
        texts = {event.item_id: event.text for event in events if event.text is not None}
        if not texts:
            return
        # Of a text that occurs twice the first time counts, as in a daily run.
        first = {
            event.item_id: event.timestamp
            for event in sorted(events, key=lambda event: event.timestamp, reverse=True)
            if event.text is not None
        }
        kind = pa.int64() if self.config.item_id_type == "int64" else pa.string()
        for view, vectors in self.vectors.learn(texts):
            if vectors:
                columns = {
                    "item_id": pa.array(list(vectors), kind),
                    "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32())),
                    "available_at": pa.array(
                        [first[item] for item in vectors], pa.timestamp("us", tz="UTC")
                    ),
                }
                # Beside a text's vector always stands this kind; items have theirs.
                columns["kind"] = pa.repeat(pa.scalar(SEARCH), len(vectors))
                self.online.write(view, pa.RecordBatch.from_pydict(columns))

    def _apply_once(
        self, members: list[Id], events: Sequence[StreamEvent], done: Applied
    ) -> list[Id]:
        """Return the members that another worker wrote meanwhile; they are left unchanged."""
        states, versions = unpack(self.config.rules, self.states.read(members, self.seeding))
        groups = self._apart(versions)
        if len(groups) > 1:
            again: list[Id] = []
            for group in groups:
                some = [members[index] for index in group.tolist()]
                inside = set(some)
                theirs = [event for event in events if event.member_id in inside]
                again += self._apply_once(some, theirs, done)
            return again
        arrived = _actions(self.config, members, events)
        as_of = self._as_of(versions, arrived)
        states, recovered = self._recovered(members, states, versions, as_of)
        folded = fold(self.config.rules, states, arrived, as_of)
        written = self._replace(members, folded.states, versions, as_of)
        lost = np.flatnonzero(folded.states.known & ~written)
        kept = np.flatnonzero(~np.isin(arrived.member, lost))
        if len(lost):
            # The lost ones are counted when they are folded again.
            folded = fold(self.config.rules, states, arrived.take(kept), as_of)
        done.add(folded)
        done.recovered += int(written[recovered].sum())
        done.refused += [events[index] for index in kept[folded.refused].tolist()]
        done.members += self.write(members, folded.states, as_of, np.flatnonzero(written))
        return [members[index] for index in lost.tolist()]

    def _recovered(
        self, members: list[Id], states: States, versions: NDArray[np.int64], as_of: int
    ) -> tuple[States, NDArray[np.int64]]:
        """Return the states with those that the store has lost, and whose these are."""
        if self.seeding:
            return states, np.zeros(0, np.int64)
        lost = self.forgotten.among(members, versions)
        if not len(lost):
            return states, lost
        again = self.forgotten.states([members[index] for index in lost.tolist()], as_of)
        known = np.flatnonzero(again.known)
        lost, again = lost[known], again.of_members(known)
        if len(lost):
            logger.warning(
                "the store had lost the states of %d members, which were made again from the "
                "snapshot and what was streamed since: does it evict keys (maxmemory-policy)?",
                len(lost),
            )
        return with_states(states, lost, again), lost

    def _apart(self, versions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the indices of members that are folded together, as of one timestamp.

        A state that a worker with a wrong clock wrote is as of later than now. Its member is folded
        alone, so that it does not move the others' as_of.
        """
        ahead = versions > microseconds(self.clock() + self.tolerance)
        if ahead.any():
            logger.warning(
                "%d members' states were written by a worker whose clock is ahead of this one's, "
                "by up to %s; until then their new actions are missing: correct the clocks",
                ahead.sum(), timestamp_of(int(versions.max())) - self.clock(),
            )  # fmt: skip
        together = [np.flatnonzero(~ahead)] if not ahead.all() else []
        return [*together, *np.flatnonzero(ahead)[:, None]]

    def _as_of(self, versions: NDArray[np.int64], arrived: Actions) -> int:
        now = microseconds(self.clock())
        counting = arrived.timestamp[arrived.timestamp <= now + self.tolerance // MICROSECOND]
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
        """Write the states of the known members; return which were written."""
        known = np.flatnonzero(states.known)
        due = np.full(len(states), NONE)
        # The first of each member's held actions: assigned in reverse order, the earliest wins.
        due[states.held.member[::-1]] = states.held.timestamp[::-1]
        written = np.zeros(len(members), bool)
        if len(known):
            written[known] = self.states.write(
                [members[index] for index in known.tolist()],
                versions[known],
                pack(states.of_members(known), as_of),
                due[known],
                self.seeding,
            )
        return written

    def write(
        self, members: Sequence[Id], states: States, as_of: int, chosen: NDArray[np.int64]
    ) -> int:
        """Write the rows of the chosen members online, and log them; return their number.

        A member with held actions only has no row yet.
        """
        chosen = chosen[states.last[chosen] != NO_TIME]
        if not len(chosen):
            return 0
        ids = pa.array([members[index] for index in chosen.tolist()], self.online.id_type)
        timestamp = timestamp_of(as_of)
        sequences = to_sequences(
            self.config.rules, ids, states.of_members(chosen), as_of, max(self.clock(), timestamp)
        )
        # The sequence last: whoever sees an action in it can read what is made from it too.
        rows = {
            **self.vectors.rows(sequences, timestamp),
            MEMBER_STATS_VIEW: member_stats(self.config.rules, sequences, duration(self.config)),
            SEQUENCE_VIEW: sequences,
        }
        for view, batch in rows.items():
            self.online.write(view, batch)
        readable = pa.scalar(max(self.clock(), timestamp), pa.timestamp("us", tz="UTC"))
        for view, batch in rows.items():
            column = batch.schema.get_field_index("created_timestamp")
            created = pa.repeat(readable, batch.num_rows)
            self.log.append(view, batch.set_column(column, "created_timestamp", created))
        self.forgotten.note_streamed(ids.to_pylist())
        return len(chosen)

    def seed(self, rows: pa.RecordBatch, as_of: datetime) -> int:
        """Fold a snapshot's rows into the states; return how many members' rows were rewritten.

        A member that is new to the stream gets the snapshot's state; its row is online already.
        Where snapshot and stream differ, the online row lacks something, and a row of both is
        written: the bus may have missed actions of the snapshot, or delivered some too late for it.
        """
        members = rows["member_id"].to_pylist()
        theirs = from_sequences(self.config.rules, rows)
        rewritten = 0
        left = np.arange(len(members))
        while len(left):
            some = [members[index] for index in left.tolist()]
            lost, more = self._seed_once(some, theirs.of_members(left), microseconds(as_of))
            left, rewritten = left[lost], rewritten + more
        return rewritten

    def _seed_once(
        self, members: list[Id], theirs: States, snapshot: int
    ) -> tuple[NDArray[np.int64], int]:
        mine, versions = unpack(self.config.rules, self.states.read(members, self.seeding))
        groups = self._apart(versions)
        if len(groups) > 1:
            lost_of, rewritten = [], 0
            for group in groups:
                some = [members[index] for index in group.tolist()]
                lost, more = self._seed_once(some, theirs.of_members(group), snapshot)
                lost_of.append(group[lost])
                rewritten += more
            return np.sort(np.concatenate(lost_of)), rewritten
        met = versions != NONE
        new = np.flatnonzero(~met & theirs.known)
        written = np.zeros(len(members), bool)
        nothing = Actions.of(self.config.rules, [], [], [], [])
        if not self.seeding:
            # The stream wrote more than the snapshot of those whose state the store has lost since.
            back = new[self.forgotten.were_streamed([members[index] for index in new.tolist()])]
            new = np.setdiff1d(new, back)
            if len(back):
                names, now = (
                    [members[index] for index in back.tolist()],
                    self._as_of(versions, nothing),
                )
                written[back] = self._replace(
                    names, self.forgotten.states(names, now), versions[back], now
                )
        if len(new):
            written[new] = self._replace(
                [members[index] for index in new.tolist()],
                theirs.of_members(new),
                versions[new],
                snapshot,
            )
        absent = np.flatnonzero(~met & theirs.known)
        lost = np.setdiff1d(absent, np.flatnonzero(written))
        if not met.any():
            return lost, 0
        as_of = max(self._as_of(versions, nothing), snapshot + 1)
        both = fold(self.config.rules, mine, theirs.actions, as_of).states
        # The online row is the snapshot's where that is newer, else the stream's.
        unseen = differ(both, fold(self.config.rules, mine, nothing, as_of).states)
        unread = differ(both, fold(self.config.rules, theirs, nothing, as_of).states)
        online_lacks = np.where(versions < snapshot, unread, unseen)
        chosen = np.flatnonzero(met & (unseen | online_lacks))
        if not len(chosen):
            return lost, 0
        names = [members[index] for index in chosen.tolist()]
        won = self._replace(names, both.of_members(chosen), versions[chosen], as_of)
        count = self.write(members, both, as_of, chosen[won & online_lacks[chosen]])
        return np.concatenate([lost, chosen[~won]]), count


def open_updater(
    config: Config,
    store: FeatureStore,
    aggregators: Sequence[Aggregator],
    worker: str,
    clock: Callable[[], datetime] = utc_now,
) -> MemberUpdater:
    """Open the states, the online writer, the models and the offline log of one worker.

    Args:
        aggregators: Those whose vectors the stream updates.
        worker: Its name, for its spool.
        clock: Returns now.
    """
    return MemberUpdater(
        config,
        open_states(config, store),
        OnlineWriter(config, store),
        Vectors(config, aggregators, clock(), store),
        OfflineLog(config, worker),
        Forgotten(config),
        clock,
    )


def _actions(config: Config, members: Sequence[Id], events: Sequence[StreamEvent]) -> Actions:
    index = {member: index for index, member in enumerate(members)}
    if not events:
        return Actions.of(config.rules, [], [], [], [])
    who, items, codes, timestamps, given, _ = zip(*events, strict=True)
    attributes = {name: [one.get(name) for one in given] for name in config.rules.attributes}
    members_of = [index[member] for member in who]
    return Actions.of(config.rules, members_of, items, codes, timestamps, attributes)
