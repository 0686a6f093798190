"""What was shown: each answer becomes rows of `impressions`, while the next one is made.

    answer ──► spool: at most `spool` answers, in memory ──► one thread, each `every`
                 full: counted as lost                         ├──► impressions/period=<day>/<part>
                                                               └──► a topic, where one is named

An answer never waits for a disk. It leaves the spool when its rows are on disk, so a killed process
loses at most the `spool` answers that it had there. A part is written whole again with each write
until it has PART_ROWS rows, and then another one begins: readers see whole files, and few of them.
The files are the record. The topic gets what was written, at most once: what it does not take is
counted, and not sent again.
"""

import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from serving.recommend.asked import Answer
from serving.recommend.metrics import RecommendMetrics
from serving.stream.bus.open import open_bus
from serving.stream.bus.protocol import Bus, BusGoneError
from transformations.config import Config
from transformations.errors import RunFailedError
from transformations.layout import Layout, note_period, period_of
from transformations.member_columns import UTC_US
from transformations.rules import IdType
from transformations.seals import sealing
from transformations.secrets import expanded

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of the topic's messages; a change that a reader of 1 would get wrong needs another number."""
PART_ROWS = 65_536
BUS_REST = 30.0
"""Seconds for which a topic that did not answer is not asked again: it would hold up the files."""
TRIES = 3
"""At the end, before what waits is given up."""
IDS: Mapping[IdType, pa.DataType] = {"int64": pa.int64(), "string": pa.string()}


class Shown(NamedTuple):
    """An answer that was shown, with the request's context, and when."""

    answer: Answer
    context: Mapping[str, Any]
    at: datetime


def open_impressions(config: Config, metrics: RecommendMetrics) -> "Impressions | None":
    """Open what writes down what is shown; None where `recommend.impressions.keep` is false.

    Raises:
        InputError: the topic is not the URL of a bus.
    """
    settings = config.recommend.impressions
    if not settings.keep:
        return None
    bus = None
    if settings.topic is not None:
        bus = open_bus(expanded(settings.topic), f"{socket.gethostname()}-{os.getpid()}")
    return Impressions(config, metrics, bus)


class Impressions:
    """The spool of one process and the thread that empties it; threads share it.

    Args:
        bus: The topic that gets each answer too; it is closed with this.
    """

    def __init__(
        self, config: Config, metrics: RecommendMetrics | None = None, bus: Bus | None = None
    ) -> None:
        settings = config.recommend.impressions
        self._most, self._every = settings.spool, settings.every.total_seconds()
        self._metrics, self._bus = metrics or RecommendMetrics(), bus
        self._parts = _Parts(config)
        self._spool: deque[Shown] = deque()
        self._changed = threading.Condition()
        self._closed, self._failing, self._bus_again = False, False, 0.0
        self._metrics.unwritten.set_function(lambda: len(self._spool))
        # A process that ends without close() shall not hang here.
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    def add(self, answer: Answer, context: Mapping[str, Any]) -> bool:
        """Spool an answer that is shown now; return whether there was room. It never waits."""
        if not answer.items:
            return True
        with self._changed:
            has_room = len(self._spool) < self._most and not self._closed
            if has_room:
                # Read inside, so that the spool is in the order of time.
                self._spool.append(Shown(answer, context, datetime.now(UTC)))
                if 2 * len(self._spool) >= self._most:
                    self._changed.notify()
        if not has_room:
            self._metrics.impressions.labels("lost").inc(len(answer.items))
        return has_room

    def close(self) -> None:
        """Write what waits; what cannot be written is counted as lost."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._spool:
            self._metrics.impressions.labels("lost").inc(_count(self._spool))
            logger.warning("%d answers that were shown could not be written", len(self._spool))
        if self._bus is not None:
            self._bus.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                # A disk that fails is tried again after the time, however full the spool is.
                self._changed.wait_for(
                    lambda: (
                        self._closed or (not self._failing and 2 * len(self._spool) >= self._most)
                    ),
                    self._every,
                )
                is_last = self._closed
            for _ in range(TRIES if is_last else 1):
                self._failing = not self._write()
                if not self._failing:
                    break
            if is_last:
                return

    def _write(self) -> bool:
        """Write what waits, a day at a time, and send it; return whether that succeeded."""
        with self._changed:
            waiting = [*self._spool]
        try:
            for day, group in groupby(waiting, lambda shown: shown.at.date()):
                some = [*group]
                self._parts.append(day, some)
                with self._changed:
                    for _ in some:
                        self._spool.popleft()
                self._metrics.impressions.labels("written").inc(_count(some))
                self._send(some)
        except (OSError, RunFailedError, pa.ArrowException) as error:
            # Also where a daily run swept the temporary file away: the next try writes it again.
            log = logger.debug if self._failing else logger.warning
            log("what was shown waits, since it cannot be written: %s", error)
            return False
        except Exception:
            # Rows that no try can write would wait forever, and all that come after them.
            logger.exception("%d answers that were shown cannot be written", len(waiting))
            with self._changed:
                lost = [self._spool.popleft() for _ in range(min(len(waiting), len(self._spool)))]
            self._metrics.impressions.labels("lost").inc(_count(lost))
            return True
        return True

    def _send(self, some: Sequence[Shown]) -> None:
        if self._bus is None:
            return
        if time.monotonic() >= self._bus_again:
            try:
                self._bus.send([(str(one.answer.member_id), message(one)) for one in some])
                return
            except BusGoneError as error:
                self._bus_again = time.monotonic() + BUS_REST
                logger.warning("the topic of what is shown does not answer: %s", error)
        self._metrics.impressions.labels("unsent").inc(_count(some))


class _Parts:
    """The part that grows: the rows of one process and one day (UTC)."""

    def __init__(self, config: Config) -> None:
        self._layout: Layout = config.layout
        self._schema = schema(config)
        self._day: date | None = None
        self._name, self._rows = "", self._schema.empty_table()

    def append(self, day: date, some: Sequence[Shown]) -> None:
        """Write the part again with further rows; after an error it is as it was."""
        if self._day != day or len(self._rows) >= PART_ROWS:
            self._day, self._name = day, f"{uuid4().hex}.parquet"
            self._rows = self._schema.empty_table()
        folder = self._layout.impressions
        if period_of(folder) is None:
            note_period(folder, "day")
        rows = pa.concat_tables([self._rows, rows_of(some, self._schema)])
        with sealing(folder / f"period={day.isoformat()}" / self._name, "activity serve") as file:
            pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
        self._rows = rows


def schema(config: Config) -> pa.Schema:
    """Return the columns of `impressions`."""
    texts = pa.map_(pa.string(), pa.string())
    return pa.schema(
        {
            "request_id": pa.string(),
            "member_id": IDS[config.member_id_type],
            "item_id": IDS[config.item_id_type],
            "position": pa.int64(),
            "score": pa.float64(),
            "propensity": pa.float64(),
            "path": pa.string(),
            "ranker": pa.string(),
            "versions": texts,
            "release": pa.string(),
            "arm": pa.string(),
            "context": texts,
            "surface": pa.string(),
            "shown_at": UTC_US,
        }
    )


def rows_of(some: Sequence[Shown], columns: pa.Schema) -> pa.Table:
    """Return the rows of answers, in order; positions from 0, context without what is null."""
    rows = [(one, place, item) for one in some for place, item in enumerate(one.answer.items)]
    answers = [(one.answer, _texts(one.context)) for one in some for _ in one.answer.items]
    values: dict[str, list[Any]] = {
        "request_id": [answer.request_id for answer, _ in answers],
        "member_id": [answer.member_id for answer, _ in answers],
        "item_id": [item.item_id for *_, item in rows],
        "position": [place for _, place, _ in rows],
        "score": [item.score for *_, item in rows],
        "propensity": [item.propensity for *_, item in rows],
        "path": [answer.path for answer, _ in answers],
        "ranker": [answer.ranker for answer, _ in answers],
        "versions": [[*answer.fits.items()] for answer, _ in answers],
        "context": [[*context.items()] for _, context in answers],
        "surface": [context.get("surface") for _, context in answers],
        "shown_at": [one.at for one, *_ in rows],
    }
    nothing = [None] * len(rows)  # release and arm, until there are such
    arrays = [pa.array(values.get(field.name, nothing), field.type) for field in columns]
    return pa.table(arrays, schema=columns)


def message(shown: Shown) -> bytes:
    """Return an answer as JSON for the topic: what its rows hold, said once."""
    answer = shown.answer
    return json.dumps(
        {
            "schema": SCHEMA,
            "request_id": answer.request_id,
            "member_id": answer.member_id,
            "shown_at": shown.at.isoformat().replace("+00:00", "Z"),
            "path": answer.path,
            "ranker": answer.ranker,
            "versions": dict(answer.fits),
            "release": None,
            "arm": None,
            "context": dict(shown.context),
            "items": [
                {
                    "item_id": item.item_id,
                    "position": place,
                    "score": item.score,
                    "propensity": item.propensity,
                }
                for place, item in enumerate(answer.items)
            ],
        }
    ).encode()


def _texts(context: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in context.items() if value is not None}


def _count(some: Sequence[Shown]) -> int:
    return sum(len(one.answer.items) for one in some)
