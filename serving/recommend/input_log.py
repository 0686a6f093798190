"""What a ranker read of a sample of answers, by Feast's feature logging; `activity skew` reads it.

The feature service of a ranker's fit names the folder (feature_repo/rankers.py); what is written
there has the columns that Feast defines: of each feature its value, the time of its row and its
status.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureStore
from feast.feature_logging import (
    LOG_DATE_FIELD,
    LOG_TIMESTAMP_FIELD,
    REQUEST_ID_FIELD,
    FeatureServiceLoggingSource,
)
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from numpy.typing import NDArray

from models.rankers.inputs import Rows
from serving.recommend.asked import Request
from serving.recommend.metrics import RecommendMetrics
from serving.recommend.scored import Scored, Served
from serving.recommend.spool import Spool
from stores.read import Features
from transformations.config import Config
from transformations.files import locked
from transformations.names import ranker_service
from transformations.tombstones import Tombstones

PAIRS = 20
"""Of an answer's candidates, those with the highest scores."""
WAITING, EVERY = 100, 300.0
"""Answers that may wait, and the seconds between two writes: each is a file."""


class Logged(NamedTuple):
    """What a ranker read for a request: `served` has a row for each item."""

    request_id: str
    member_id: Any
    item_ids: Sequence[Any]
    ranker: str
    read_at: datetime
    served: Served


class InputLog:
    """Writes down what the ranker of one process reads; threads share it.

    Args:
        store: Its registry holds the rankers' feature services.
        draw: Makes numbers in [0, 1).
    """

    def __init__(
        self,
        config: Config,
        store: FeatureStore,
        metrics: RecommendMetrics | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._folder, self._store, self._draw = config.layout.logged_features, store, draw
        self._share = config.recommend.log_features
        self._tombstones = Tombstones(config)
        self._metrics = metrics or RecommendMetrics()
        what = "answers' features"
        self._spool: Spool[Logged] = Spool(what, WAITING, EVERY, self._write, self._lose)

    def add(self, request: Request, scored: Scored, at: datetime) -> None:
        """Log a share of what is scored, where a ranker scored it; it never waits."""
        served = scored.served
        if served is None or not len(scored.items) or self._draw() >= self._share:
            return
        rows = np.argsort(-scored.scores, kind="stable")[:PAIRS].astype(np.int64)
        items = scored.items[rows].tolist()
        own = Served(served.member, _taken(served.items, rows))
        some = Logged(request.id, request.member_id, items, scored.ranker, at, own)
        if not self._spool.add(some):
            self._lose([some])

    def close(self) -> None:
        """Write what waits."""
        self._spool.close()

    def _write(self, waiting: Sequence[Logged]) -> int:
        ranker = waiting[0].ranker
        some = [*takewhile(lambda one: one.ranker == ranker, waiting)]
        with locked(self._folder):  # `activity forget` writes a file again meanwhile
            self._tombstones.refresh()
            forgotten = self._tombstones.are(one.member_id for one in some)
            known = [one for one, is_gone in zip(some, forgotten, strict=True) if not is_gone]
            if known:
                self._write_known(ranker, known)
        return len(some)

    def _write_known(self, ranker: str, some: Sequence[Logged]) -> None:
        service = self._store.get_feature_service(ranker_service(ranker))
        source = FeatureServiceLoggingSource(service, self._store.project)
        table = logged_table(source.get_schema(self._store.registry), service, some)
        # Feast's own file store expects the folder.
        (self._folder / ranker).mkdir(parents=True, exist_ok=True)
        self._store.write_logged_features(table, service)
        self._metrics.logged.labels("written").inc(len(table))

    def _lose(self, some: Sequence[Logged]) -> None:
        self._metrics.logged.labels("lost").inc(sum(len(one.item_ids) for one in some))


def logged_table(schema: pa.Schema, service: FeatureService, some: Sequence[Logged]) -> pa.Table:
    """Return a row per pair, as Feast logs the features of a service.

    Args:
        schema: Feast's, of the service's log.
        some: All of the service's ranker.
    """
    pairs = [(one, row) for one in some for row in range(len(one.item_ids))]
    columns: dict[str, Sequence[Any]] = {
        "member_id": [one.member_id for one, _ in pairs],
        "item_id": [one.item_ids[row] for one, row in pairs],
        REQUEST_ID_FIELD: [one.request_id for one, _ in pairs],
        LOG_TIMESTAMP_FIELD: [one.read_at for one, _ in pairs],
        LOG_DATE_FIELD: [one.read_at.date() for one, _ in pairs],
    }
    for projection in service.feature_view_projections:
        view = projection.name_to_use()
        for feature in projection.features:
            column = f"{view}__{feature.name}"
            missing = {"nan": np.nan}.get(text := feature.tags.get("missing"), text)
            cells = []
            for one in some:
                of_items, of_member = one.served.items, one.served.member
                if column in of_items.arrays:
                    rows = range(len(one.item_ids))
                    cells += [_cell(of_items, row, view, column, missing) for row in rows]
                else:
                    cells += [_cell(of_member, 0, view, column, missing)] * len(one.item_ids)
            values, times, statuses = zip(*cells, strict=True)
            columns |= {
                column: values,
                f"{column}__timestamp": times,
                f"{column}__status": statuses,
            }
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _cell(
    read: Features, row: int, view: str, column: str, missing: Any
) -> tuple[Any, datetime | None, int]:
    """Return a feature's value, the time of its row and its status."""
    at = read.event_timestamps[view][row].item()
    if at is None:
        return None, None, FieldStatus.NOT_FOUND
    if not read.present[column][row]:
        return None, at, FieldStatus.NULL_VALUE
    value = read.arrays[column][row]
    if isinstance(value, list):  # as Feast has it: its lists hold no null
        value = [missing if one is None else one for one in value]
    return (value.item() if isinstance(value, np.generic) else value), at, FieldStatus.PRESENT


def _taken(read: Features, rows: Rows) -> Features:
    def some(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: values[rows] for name, values in columns.items()}

    return Features(some(read.arrays), some(read.present), some(read.event_timestamps))
