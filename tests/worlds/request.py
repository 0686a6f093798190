"""An applied world whose sequences go online, and what the batch makes of the same events."""

import itertools
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import yaml

from models.embed import embed_snapshot
from models.layers.build import build
from models.packaging import package
from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay
from serving import publish
from serving.publish.snapshots import materialize
from serving.request.vectors import RequestTime
from tests.worlds import plain_feast
from tests.worlds.applied import World, utc, vector
from tests.worlds.events import Event, Id, write_activity
from tests.worlds.tiny_models import Learned, write_items
from transformations.duck import connect
from transformations.layout import partition
from transformations.names import SEQUENCE_VIEW
from transformations.tables import build_sequences

DAY = timedelta(days=1)
SNAPSHOT, NOW = utc(4), utc(5, 9)
PLAIN: tuple[Aggregator, ...] = (Average(version=1), GeometricDecay(version=1, decay=0.8))
# The vectors of the last two depend on the ages too.
LINES = (*PLAIN, LearnedDecay(version=1), Learned(version=1))
# Item 5 has a second version, available between the snapshot and now; items 6 and up have none.
ITEMS = [(i, vector(i), utc(1) - 100 * DAY) for i in range(1, 6)] + [(5, vector("new"), utc(4, 12))]


def package_line(world: World, line: Aggregator, **weights: Any) -> None:
    """Package a line, a learned one with the weights of its seed or with others."""
    model = build(line, world.config) if isinstance(line, Learned | LearnedDecay) else None
    if model is not None and weights:
        model.set_weights([np.full_like(w, weights["all"]) for w in model.get_weights()])
    package(line, world.config, trained=model)


class RequestWorld:
    """A world with item vectors and packages, applied; `lines` is its catalogue."""

    def __init__(
        self,
        folder: Path,
        id_type: str = "int64",
        redis: str | None = None,
        lines: Sequence[Aggregator] = LINES,
    ) -> None:
        self.world = World(folder, id_type, aggregators=lines)
        self.config = self.world.config
        self.lines = lines
        self.name: Any = int if id_type == "int64" else "é{}".format
        write_items(self.config, [(self.name(i), numbers, at) for i, numbers, at in ITEMS])
        for line in lines:
            package_line(self.world, line)
        if redis is not None:
            file = folder / "feature_store.yaml"
            raw = yaml.safe_load(file.read_text())
            online = {
                "type": "stores.redis.ColumnarRedisOnlineStore",
                "connection_string": redis,
            }
            text = yaml.safe_dump(raw | {"online_store": online})
            file.write_text(plain_feast.settings(text))
        self.store = publish.open_store(self.config)
        publish.apply(self.config, self.store, lines)
        self._numbers = itertools.count(1)
        self.requests = self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.requests.close()

    def members(self, count: int) -> list[Id]:
        """Return ids of members that no test has used."""
        start = next(self._numbers) * 1000
        return [self.name(start + index) for index in range(count)]

    def open(self) -> RequestTime:
        """Open what answers requests."""
        return RequestTime(self.config, self.store, lambda: self.lines)

    def publish(self, events: Sequence[Event], as_of: datetime = SNAPSHOT) -> None:
        """Put the sequences of these events online, as of a timestamp."""
        self._sequences(events, as_of)
        materialize(self.store, SEQUENCE_VIEW, as_of, as_of)

    def batch(self, events: Sequence[Event], as_of: datetime = NOW) -> dict[Id, dict[str, Any]]:
        """Return member → what the batch writes of it: view → row of its partition."""
        self._sequences(events, as_of)
        with connect(self.config) as con:
            embed_snapshot(self.config, con, as_of, as_of, self.lines)
        found: dict[Id, dict[str, Any]] = {}
        layout = self.config.layout
        folders = {line.view: layout.embeddings(line.view) for line in self.lines}
        for view, folder in {**folders, SEQUENCE_VIEW: layout.sequences}.items():
            for row in pq.ParquetFile(partition(folder, as_of)).read().to_pylist():
                found.setdefault(row["member_id"], {})[view] = row
        return found

    def _sequences(self, events: Sequence[Event], as_of: datetime) -> None:
        shutil.rmtree(self.config.layout.activity, ignore_errors=True)
        write_activity(self.config, events)
        with connect(self.config) as con:
            build_sequences(self.config, con, as_of, as_of - DAY, as_of)
