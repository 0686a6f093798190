"""The stream worker: micro-batches from the bus to online rows, at least once, safe to kill."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from serving.outage import STORE_GONE
from serving.stream import kept
from serving.stream.blame import Blame
from serving.stream.bus.messages import StreamEvent, decode_all, member_in
from serving.stream.bus.protocol import Bus, BusGoneError, Message
from serving.stream.metrics import Metrics
from serving.stream.snapshot import follow_snapshot, some_members
from serving.stream.updater import Applied, MemberUpdater
from transformations.config import Config
from transformations.timestamps import MICROSECOND, microseconds
from transformations.tombstones import Tombstones

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
AWAY: tuple[type[Exception], ...] = (BusGoneError, *STORE_GONE)


@dataclass(frozen=True)
class Pace:
    """Batch size and intervals, in seconds.

    Attributes:
        max_batch: Most events in a micro-batch.
        linger: Wait for more events after a batch's first one.
        due_every: Interval of the check for held events that are due.
        snapshot_every: Interval of the check for a newly published snapshot.
        spools_every: Interval of the check for the spools of dead workers.
    """

    max_batch: int = 1_000
    linger: float = 0.02
    due_every: float = 0.2
    snapshot_every: float = 30.0
    spools_every: float = 60.0


@dataclass
class Worker:
    """Reads, folds, writes and acknowledges; `run` does so until it is told to stop.

    Nothing is read while a batch is being written. So a slow store slows the reading, and memory
    holds one batch.
    """

    config: Config
    bus: Bus
    updater: MemberUpdater
    metrics: Metrics = field(default_factory=Metrics)
    pace: Pace = field(default_factory=Pace)
    _waiting: list[Message] = field(default_factory=list)
    _checked: dict[str, float] = field(default_factory=dict)
    _known: str | None = None

    def __post_init__(self) -> None:
        """Ask the store with a member of the snapshot until one was streamed."""
        self._tombstones = Tombstones(self.config)
        self._blame = Blame(self.updater, self._count, lambda: some_members(self.config))

    def run(self, stop: threading.Event, progress: Callable[[int], object] | None = None) -> None:
        """Handle micro-batches until `stop` is set; wait for a bus or store that is unavailable.

        Args:
            progress: Called after each batch with its number of messages.

        Raises:
            StateLostError: the store of the states was emptied.
        """
        failures, since = 0, 0.0
        while not stop.is_set():
            try:
                handled = self.step()
                if failures:
                    logger.warning("going on after %.1f s", time.monotonic() - since)
                failures = 0
                if progress is not None:
                    progress(handled)
            except AWAY as error:
                what = "bus" if isinstance(error, BusGoneError) else "store"
                self.metrics.retries.labels(what).inc()
                if not failures:
                    since = time.monotonic()
                    logger.warning(
                        "waiting for the %s; nothing is lost, unacknowledged events are "
                        "redelivered. The error: %s", what, error,
                    )  # fmt: skip
                if what == "bus":
                    self._start_over()
                stop.wait(min(FIRST_WAIT * 2**failures, LONGEST_WAIT))
                failures = min(failures + 1, 16)

    def step(self) -> int:
        """Handle one micro-batch; return how many messages it had.

        Raises:
            BusGoneError: the bus does not answer.
            Exception: one of STORE_GONE: the store does not; the next step handles the messages.
        """
        self._follow_tombstones()
        if not self._waiting:
            self._waiting = self.bus.read(self.pace.max_batch, self.pace.linger)
        started = time.perf_counter()
        messages = self._waiting
        if messages:
            self._handle(messages)
            self.metrics.batch_seconds.observe([time.perf_counter() - started])
            self.bus.done(messages)
            self._waiting = []
        if self._is_time("due", self.pace.due_every):
            self._apply_due()
        if self._is_time("snapshot", self.pace.snapshot_every):
            follow_snapshot(self.config, self.updater)
        if self.updater.log.due():
            self.metrics.offline_rows.inc(self.updater.log.flush())
        if self._is_time("spools", self.pace.spools_every):
            self.metrics.offline_rows.inc(self.updater.log.recover())
        return len(messages)

    def close(self) -> None:
        """Append the spools, leave the group, close the connections."""
        self.bus.close()
        self.updater.log.close()
        self.updater.states.close()

    def _handle(self, messages: Sequence[Message]) -> None:
        now = self.updater.clock()
        events, refused = decode_all(
            self.config.rules, [message.value for message in messages], now
        )
        readable = [index for index in range(len(messages)) if index not in refused]
        if len(self._tombstones):
            events, readable, refused = self._remembered(messages, events, readable, refused)
        if events:
            index_of = {id(event): index for event, index in zip(events, readable, strict=True)}
            refused |= {index_of[id(event)]: why for event, why in self._blame.apply(events)}
            visible = microseconds(self.updater.clock())
            sent = time.time_ns() // 1000
            ahead = visible + self.updater.tolerance // MICROSECOND
            self.metrics.on_bus_seconds.observe(
                (sent - message.sent) / 1e6
                for index, message in enumerate(messages)
                if index not in refused
            )
            self.metrics.event_seconds.observe(
                (visible - event.timestamp) / 1e6 for event in events if event.timestamp <= ahead
            )
        # Last: a batch that the store does not accept is handled again as a whole.
        if refused:
            self.bus.refuse([(messages[index], reason) for index, reason in refused.items()])
            for reason in refused.values():
                self.metrics.refused.labels(reason).inc()
        if self.config.archive.bus:
            whose: dict[int, object] = {i: member_in(messages[i].value) for i in refused}
            theirs = (event.member_id for event in events)
            whose |= dict(zip(readable, theirs, strict=True))
            if whose:
                self.updater.log.append(kept.SPOOL, kept.rows_of(messages, whose))

    def _follow_tombstones(self) -> None:
        """Take new tombstones over before a batch is read; `activity forget` waits for that."""
        self._tombstones.refresh()
        if self._known != self._tombstones.version:
            self.metrics.offline_rows.inc(self.updater.log.forget(self._tombstones.version))
            self._known = self._tombstones.version

    def _remembered(
        self,
        messages: Sequence[Message],
        events: Sequence[StreamEvent],
        readable: Sequence[int],
        refused: Mapping[int, str],
    ) -> tuple[list[StreamEvent], list[int], dict[int, str]]:
        """Return events, their messages' indices and what is refused without forgotten members.

        A dead letter would hold the message that nobody may keep.
        """
        gone = self._tombstones.are(event.member_id for event in events)
        left = [index for index, is_gone in enumerate(gone) if not is_gone]
        whose = {index: member_in(messages[index].value) for index in refused}
        theirs = self._tombstones.are("" if who is None else who for who in whose.values())
        passed = {index for index, is_gone in zip(whose, theirs, strict=True) if is_gone}
        self.metrics.events.labels("forgotten").inc(sum(gone) + len(passed))
        return (
            [events[index] for index in left],
            [readable[index] for index in left],
            {index: why for index, why in refused.items() if index not in passed},
        )

    def _apply_due(self) -> None:
        aside = self._blame.set_aside
        limit = self.pace.max_batch + len(aside)
        due = self.updater.states.due(microseconds(self.updater.clock()), limit)
        if due := [member for member in due if member not in aside]:
            self._blame.apply_due(due)

    def _count(self, applied: Applied) -> None:
        for outcome, count in applied.outcomes.items():
            self.metrics.events.labels(outcome).inc(count)
        self.metrics.members.inc(applied.members)
        self.metrics.conflicts.inc(applied.conflicts)
        self.metrics.recovered.inc(applied.recovered)
        self.metrics.batches.inc()

    def _start_over(self) -> None:
        """Let the bus redeliver whatever was not acknowledged."""
        self._waiting = []
        try:
            self.bus.reset()
        except BusGoneError as error:
            logger.debug("the bus cannot be reset: %s", error)

    def _is_time(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._checked.setdefault(what, now) < every:
            return False
        self._checked[what] = now
        return True
