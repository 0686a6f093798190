"""What a ranker read of a sample of answers: `logged_features`, which `activity skew` compares.

Feast's own `write_logged_features` writes a feature service's columns. A ranker reads a list of
features and makes columns of them; what is logged are those columns, as training makes them too.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from models.rankers.inputs import Inputs
from serving.recommend.impressions import IDS
from serving.recommend.metrics import RecommendMetrics
from serving.recommend.scored import Scored
from serving.recommend.spool import Parts, Spool
from transformations.config import Config
from transformations.member_columns import UTC_US

PAIRS = 20
"""Of an answer's candidates, those with the highest scores."""
WAITING, EVERY = 100, 30.0
"""Answers that may wait, and the seconds between two writes."""
PART_PAIRS = 8_192
"""A pair with its vectors is some thousand bytes, and a part is written again as it grows."""


class Logged(NamedTuple):
    """What a ranker read of a member and some items; `inputs` has a pair for each item."""

    member_id: Any
    item_ids: Sequence[Any]
    ranker: str
    read_at: datetime
    inputs: Inputs


class InputLog:
    """Writes down what the ranker of one process reads; threads share it.

    Args:
        draw: Makes numbers in [0, 1).
    """

    def __init__(
        self,
        config: Config,
        metrics: RecommendMetrics | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config, self._draw = config, draw
        self._share = config.recommend.log_features
        self._metrics = metrics or RecommendMetrics()
        self._parts = Parts(config.layout.logged_features, PART_PAIRS)
        what = "answers' features"
        self._spool: Spool[Logged] = Spool(what, WAITING, EVERY, self._write, self._lose)

    def add(self, member_id: Any, scored: Scored, at: datetime) -> None:
        """Log a share of what is scored, where a ranker scored it; it never waits."""
        inputs = scored.inputs
        if inputs is None or not len(inputs) or self._draw() >= self._share:
            return
        rows = np.argsort(-scored.scores, kind="stable")[:PAIRS].astype(np.int64)
        items = scored.items[rows].tolist()
        some = Logged(member_id, items, scored.ranker, at, inputs.take(rows).compact())
        if not self._spool.add(some):
            self._lose([some])

    def close(self) -> None:
        """Write what waits."""
        self._spool.close()

    def _write(self, waiting: Sequence[Logged]) -> int:
        day, ranker = waiting[0].read_at.date(), waiting[0].ranker
        some = [*takewhile(lambda one: (one.read_at.date(), one.ranker) == (day, ranker), waiting)]
        self._parts.append(day, inputs_table(self._config, some), ranker)
        self._metrics.logged.labels("written").inc(_pairs(some))
        return len(some)

    def _lose(self, some: Sequence[Logged]) -> None:
        self._metrics.logged.labels("lost").inc(_pairs(some))


def inputs_table(config: Config, some: Sequence[Logged]) -> pa.Table:
    """Return a row per pair: ids, ranker, read_at, and each column that the ranker read.

    Args:
        some: All of one ranker, so of the same columns.
    """
    own = [one for one in some for _ in one.item_ids]
    items = [item for one in some for item in one.item_ids]
    columns = {
        "member_id": pa.array([one.member_id for one in own], IDS[config.member_id_type]),
        "item_id": pa.array(items, IDS[config.item_id_type]),
        "ranker": pa.array([one.ranker for one in own], pa.string()),
        "read_at": pa.array([one.read_at for one in own], UTC_US),
    }
    first = some[0].inputs
    for name in first.names("numbers"):
        values = np.concatenate([one.inputs.number(name) for one in some])
        columns[name] = pa.array(values, pa.float32())
    for name in first.names("categories"):
        texts = [text for one in some for text in one.inputs.category(name)]
        columns[name] = pa.array(texts, pa.string())
    for name in first.names("vectors"):
        vectors = np.concatenate([one.inputs.vector(name) for one in some])
        flat = pa.array(vectors.ravel(), pa.float32())
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        columns[name] = lists.cast(pa.list_(pa.float32()))
    return pa.table(columns)


def _pairs(some: Sequence[Logged]) -> int:
    return sum(len(one.item_ids) for one in some)
