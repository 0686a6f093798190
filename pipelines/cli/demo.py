"""`activity stream --demo`: replay the last day, faster, on a private Redis and data folder."""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from feast import FeatureStore
from rich.console import Console
from rich.live import Live
from rich.table import Table

from models.embed import embed_snapshot
from models.spec import Aggregator
from operations.fits import made_lines
from pipelines.cli.show import absent_item
from pipelines.nearest import DescribedItems
from pipelines.private_redis import private_redis, write_store
from pipelines.progress import number, working
from pipelines.terminal import PlainTable
from serving import publish
from serving.stream.bus.messages import encode
from serving.stream.bus.redis import RedisBus
from serving.stream.snapshot import last_snapshot, prepare
from serving.stream.updater import open_updater
from serving.stream.worker import Pace, Worker
from transformations.config import Config
from transformations.duck import connect, sql
from transformations.errors import InputError, RunFailedError
from transformations.layout import files_between
from transformations.searches import searches_query
from transformations.tables import activity_query, build_sequences

DAY = timedelta(days=1)
TICK = 0.05
TOP = 5

# member_id, item_id, action, event_timestamp, and the text that item_id stands for
Row = tuple[Any, Any, str, datetime, str | None]


def run_demo(console: Console, config: Config, speed: float) -> None:
    """Replay the day before the last snapshot, from the snapshot of the day before that.

    A KeyboardInterrupt ends it at any time, with its worker and its Redis.

    Raises:
        InputError: there is no snapshot, no event in its last day, or no redis-server.
    """
    try:
        _run(console, config, speed)
    except KeyboardInterrupt:
        console.print("stopped")


def _run(console: Console, config: Config, speed: float) -> None:
    end = last_snapshot(config)
    lines = made_lines(config)
    streamed = [line for line in lines if line.stream] or lines
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        port = stack.enter_context(private_redis(folder))
        own = _private_config(config, folder, port)
        with working("a private snapshot of the day before"):
            events, items = _world(own, end, streamed)
            store = publish.open_store(own)
            publish.apply(own, store, streamed)
        clock = _Clock(end - DAY, speed)
        updater = open_updater(own, store, streamed, "demo", clock)
        worker = Worker(
            own, RedisBus(f"redis://127.0.0.1:{port}", "activity", "demo", "demo"), updater,
            pace=Pace(linger=0.02),
        )  # fmt: skip
        with working("publishing it"):
            prepare(own, store, updater, worker.bus, streamed)
        minutes = DAY.total_seconds() / speed / 60
        console.print(
            f"{len(events):,} events of {end - DAY:%Y-%m-%d}, {speed:g} times as fast: "
            f"{minutes:.1f} minutes (--speed for another pace)"
        )
        _Replay(console, own, store, worker, clock, events).show(streamed[-1], items)


class _Clock:
    """A clock that starts at `start` and runs `speed` times as fast as time passes."""

    def __init__(self, start: datetime, speed: float) -> None:
        self._start, self._speed, self._began = start, speed, time.monotonic()

    def begin(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> datetime:
        passed = time.monotonic() - self._began
        return self._start + timedelta(seconds=passed * self._speed)


class _Replay:
    """A worker in a thread, and the day's events, put on its bus when they are due."""

    def __init__(
        self,
        console: Console,
        config: Config,
        store: FeatureStore,
        worker: Worker,
        clock: _Clock,
        events: Sequence[Row],
    ) -> None:
        self._console, self._config, self._store = console, config, store
        self._worker, self._clock, self._events = worker, clock, events
        url = worker.bus.url if isinstance(worker.bus, RedisBus) else ""
        self._producer = RedisBus(url, "activity", "demo", "producer")
        self._sent = 0
        self._began = time.monotonic()
        self._error: list[BaseException] = []

    def show(self, aggregator: Aggregator, items: Any) -> None:
        """Replay, with a live table; then one member's vectors before and after its last action."""
        stop = threading.Event()
        # A daemon: an interrupt inside `start` leaves it without an ident, and so without a join.
        thread = threading.Thread(target=self._work, args=(stop,), daemon=True)
        chosen = self._last_of_someone()
        try:  # after an interrupt the thread must end, or it keeps the process alive
            self._clock.begin()
            thread.start()
            with Live(self._table(), console=self._console, refresh_per_second=4) as live:
                self._replay(self._events[:chosen], live)
                before = self._vectors(aggregator, self._events[chosen][0])
                self._replay(self._events[chosen : chosen + 1], live)
                after = self._vectors(aggregator, self._events[chosen][0])
                self._replay(self._events[chosen + 1 :], live)
        finally:
            stop.set()
            if thread.ident is not None:
                thread.join()
            self._producer.close()
            self._worker.close()
        self._console.print()
        self._console.print(_compared(self._events[chosen], before, after, items))

    def _work(self, stop: threading.Event) -> None:
        try:
            self._worker.run(stop)
        except BaseException as error:
            self._error.append(error)

    def _replay(self, events: Sequence[Row], live: Live) -> None:
        """Send each event when it is due; return when all are written."""
        sent = 0
        while sent < len(events) or not self._is_done():
            if self._error:
                raise RunFailedError(f"the worker ended: {self._error[0]}")
            now, due = self._clock(), sent
            while due < len(events) and events[due][3] < now:
                due += 1
            if due > sent:
                rows = events[sent:due]
                self._producer.send([(str(row[0]), self._message(row)) for row in rows])
                self._sent += len(rows)
                sent = due
            live.update(self._table())
            time.sleep(TICK)

    def _message(self, row: Row) -> bytes:
        member, item, action, timestamp, text = row
        if text is None:
            return encode(member, item, action, timestamp)
        key = self._config.rules.texts[action]
        return encode(member, None, action, timestamp, texts={key: text})

    def _is_done(self) -> bool:
        outcomes = ("applied", "duplicate", "expired", "clipped", "held")
        value = self._worker.metrics.value
        handled = sum(value("events_total", outcome=outcome) for outcome in outcomes)
        return handled >= self._sent

    def _last_of_someone(self) -> int:
        """Return the index of a member's last action, one that changes an existing vector.

        That is the newest positive action whose member did the same before on this day. If there
        is none, it is the last action of the day.
        """
        last = {row[0]: index for index, row in enumerate(self._events)}
        done = {(row[0], row[2]) for index, row in enumerate(self._events) if index != last[row[0]]}
        fitting = [
            index
            for member, index in last.items()
            if self._config.rules.actions[self._events[index][2]].can_be_positive
            and (member, self._events[index][2]) in done
        ]
        return max(fitting or last.values())

    def _vectors(self, aggregator: Aggregator, member: Any) -> dict[str, np.ndarray]:
        answer = self._store.get_online_features(
            features=self._store.get_feature_service(aggregator.service),
            entity_rows=[{"member_id": member, "item_id": absent_item(self._config)}],
        ).to_dict()
        empty = [0.0] * self._config.dim
        return {
            name: np.array(answer[name][0] or empty, np.float32)
            for name in aggregator.vectors(self._config)
        }

    def _table(self) -> Table:
        metrics = self._worker.metrics
        median, high = metrics.on_bus_seconds.quantiles()
        seconds = max(time.monotonic() - self._began, 1e-9)
        table = PlainTable(
            title=f"{self._clock():%Y-%m-%d %H:%M} of a day replayed", title_justify="left"
        )
        for name in ("events", "events per second", "on the bus → visible, p50", "p99",
                     "members' rows written", "held"):  # fmt: skip
            table.add_column(name, justify="right")
        table.add_row(
            f"{number(self._sent)} of {number(len(self._events))}",
            f"{self._sent / seconds:,.1f}",
            f"{median * 1000:,.0f} ms",
            f"{high * 1000:,.0f} ms",
            number(int(metrics.value("members_total"))),
            number(int(metrics.value("events_total", outcome="held"))),
        )
        return table


def _compared(
    row: Row, before: dict[str, np.ndarray], after: dict[str, np.ndarray], items: DescribedItems
) -> Table:
    """Show the vector that the member's last action changed most, and its nearest items."""
    member, item, action, timestamp = row[:4]
    name = max(after, key=lambda key: float(np.abs(after[key] - before[key]).sum()))
    table = PlainTable(
        title=f"Member {member}, before and after {action} on item {item} at {timestamp:%H:%M}: "
        f"{name}, and the items nearest to it",
        title_justify="left",
    )
    for column in ("", "vector", "nearest items"):
        table.add_column(column)
    for when, found in (("before", before[name]), ("after", after[name])):
        head = " ".join(f"{value:+.3f}" for value in found[:4])
        lines = "\n".join(map(str, items.nearest(found, TOP)))
        table.add_row(when, f"[{head} …", lines or "none: no such action so far")
    return table


def _world(
    config: Config, end: datetime, aggregators: Sequence[Aggregator]
) -> tuple[list[Row], DescribedItems]:
    """Build the snapshot of the day before `end`; return the events since then, and the items."""
    start = end - DAY
    with connect(config) as con:
        build_sequences(config, con, start, start - DAY, start)
        embed_snapshot(config, con, start, start, aggregators)
        files = files_between(config.layout.activity, start, end)
        con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
        texts = searches_query(config.rules, config.layout)
        con.execute(f"create or replace temp view searches as {texts}")
        query = sql("demo_events", __file__)
        events = con.execute(query, {"first": start, "last": end}).fetchall()
        if not events:
            raise InputError(
                f"expected events between {start:%Y-%m-%d %H:%M} and {end:%Y-%m-%d %H:%M}, "
                "got none; first: activity run"
            )
        return events, DescribedItems(aggregators[0].config_of(config), con, end)


def _private_config(config: Config, folder: Path, port: int) -> Config:
    """Return the configuration with a private data folder, which links what is only read."""
    data = folder / "data"
    data.mkdir()
    for name in ("activity", "artifacts", "item_encoders", "items", "searches", "stg_items"):
        if (config.data / name).exists():
            (data / name).symlink_to(config.data / name)
    changed = {"data_dir": str(data), "feature_store": str(write_store(folder, port))}
    return config.model_copy(update=changed)
