"""What was shown: each answer becomes rows of `impressions`, while the next one is made.

    answer ──► spool ──► impressions/period=<day>/<part>.parquet
                │   └──► a topic, where one is named
                └ full: counted as lost

The files are the record. The topic gets what was written, at most once: what it does not take is
counted, and not sent again.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from serving.recommend.asked import Answer
from serving.recommend.metrics import RecommendMetrics
from serving.recommend.spool import Parts, Spool
from serving.stream.bus.open import open_bus
from serving.stream.bus.protocol import Bus, BusGoneError
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError
from transformations.member_columns import UTC_US
from transformations.rules import IdType
from transformations.secrets import expanded
from transformations.tombstones import Tombstones

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of the topic's messages; a change that a reader of 1 would get wrong needs another number."""
BUS_REST = 30.0
"""Seconds for which a topic that did not answer is not asked again: it would hold up the files."""
IDS: Mapping[IdType, pa.DataType] = {"int64": pa.int64(), "string": pa.string()}


class Shown(NamedTuple):
    """An answer that was shown, with the request's context, and when."""

    answer: Answer
    context: Mapping[str, Any]
    at: datetime


def open_impressions(config: Config, metrics: RecommendMetrics) -> "Impressions | None":
    """Open what writes down what is shown; None where `recommend.impressions.keep` is false.

    A topic that does not answer is said, with the setting to look at: the files are written all the
    same.

    Raises:
        InputError: the topic is not the URL of a bus.
    """
    settings = config.recommend.impressions
    if not settings.keep:
        return None
    bus = None
    if settings.topic is not None:
        bus = open_bus(expanded(settings.topic), f"{socket.gethostname()}-{os.getpid()}")
        try:
            bus.ask()
        except InputError as error:
            logger.warning("recommend.impressions.topic: %s", error)
    return Impressions(config, metrics, bus)


class Impressions:
    """Writes down what one process shows; threads share it.

    Args:
        bus: The topic that gets each answer too; it is closed with this.
    """

    def __init__(
        self, config: Config, metrics: RecommendMetrics | None = None, bus: Bus | None = None
    ) -> None:
        settings = config.recommend.impressions
        self._metrics, self._bus, self._bus_again = metrics or RecommendMetrics(), bus, 0.0
        self._tombstones = Tombstones(config)
        self._schema = schema(config)
        self._parts = Parts(config.layout.impressions, self._tombstones)
        every = settings.every.total_seconds()
        what = "answers that were shown"
        self._spool: Spool[Shown] = Spool(what, settings.spool, every, self._write, self._lose)
        self._metrics.unwritten.set_function(lambda: len(self._spool))

    def add(self, answer: Answer, context: Mapping[str, Any]) -> bool:
        """Spool an answer that is shown now; return whether there was room. It never waits.

        One without an item is written too: whoever was shown nothing was in its arm all the same.
        """
        shown = Shown(answer, context, clock.now())
        has_room = self._spool.add(shown)
        if not has_room:
            self._lose([shown])
        return has_room

    def close(self) -> None:
        """Write what waits; what cannot be written is counted as lost."""
        self._spool.close()
        if self._bus is not None:
            self._bus.close()

    def _write(self, waiting: Sequence[Shown]) -> int:
        """Write and send the answers of the first one's day; return how many they are."""
        day = waiting[0].at.date()
        some = [*takewhile(lambda shown: shown.at.date() == day, waiting)]
        self._parts.append(day, rows_of(some, self._schema))
        forgotten = self._tombstones.are(one.answer.member_id for one in some)
        known = [one for one, is_gone in zip(some, forgotten, strict=True) if not is_gone]
        self._metrics.impressions.labels("written").inc(_count(known))
        self._send(known)
        return len(some)

    def _lose(self, some: Sequence[Shown]) -> None:
        self._metrics.impressions.labels("lost").inc(_count(some))

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
            "seconds": pa.float64(),
            "shown_at": UTC_US,
        }
    )


def rows_of(some: Sequence[Shown], columns: pa.Schema) -> pa.Table:
    """Return the rows of answers, in order; positions from 0, context without what is null.

    An answer without an item is one row, whose item and position are null.
    """
    answers = [one.answer for one in some]
    contexts = [_texts(one.context) for one in some]
    items = [item for answer in answers for item in answer.items or (None,)]
    of_answers: dict[str, list[Any]] = {
        "request_id": [answer.request_id for answer in answers],
        "member_id": [answer.member_id for answer in answers],
        "path": [answer.path for answer in answers],
        "release": [_release(answer) for answer in answers],
        "arm": [answer.arm for answer in answers],
        "seconds": [answer.seconds for answer in answers],
        "ranker": [answer.ranker for answer in answers],
        "versions": [[*answer.fits.items()] for answer in answers],
        "context": [[*context.items()] for context in contexts],
        "surface": [context.get("surface") for context in contexts],
        "shown_at": [one.at for one in some],
    }
    of_items: dict[str, list[Any]] = {
        "item_id": [item and item.item_id for item in items],
        "position": [place for answer in answers for place in range(len(answer.items)) or (None,)],
        "score": [item and item.score for item in items],
        "propensity": [item and item.propensity for item in items],
    }
    # What is said once of an answer is repeated by Arrow: Python would hold up other answers.
    owners = np.repeat(np.arange(len(some)), [len(answer.items) or 1 for answer in answers])

    def column(field: pa.Field) -> pa.Array:
        if field.name in of_answers:
            return pa.array(of_answers[field.name], field.type).take(pa.array(owners, pa.int64()))
        return pa.array(of_items[field.name], field.type)

    return pa.table([column(field) for field in columns], schema=columns)


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
            "release": _release(answer),
            "arm": answer.arm,
            "seconds": answer.seconds,
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


def _release(answer: Answer) -> str | None:
    return None if answer.release is None else str(answer.release)


def _texts(context: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in context.items() if value is not None}


def _count(some: Sequence[Shown]) -> int:
    return sum(len(one.answer.items) for one in some)
