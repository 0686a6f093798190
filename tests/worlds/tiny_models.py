"""Aggregators that only tests have: a learned layer, one that kills its process, and a world."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from models.backend import keras
from models.spec import Aggregator
from transformations import names
from transformations.config import Config
from transformations.layout import partition

ops = keras.ops
UTC_US = pa.timestamp("us", tz="UTC")
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
CREATED = AS_OF + timedelta(hours=6)

# member → [(item, action, days before as_of)], oldest first; an empty list has lapsed.
Members = Mapping[Any, Sequence[tuple[Any, str, float]]]


@dataclass(frozen=True, kw_only=True)
class Learned(Aggregator):
    """A projection, with a bias, of the sum of the items, the newer ones more."""

    kind: ClassVar[str | None] = "projection"
    layer: ClassVar[str | None] = "tests.worlds.tiny_models:Projection"

    name: str = "learned"
    scale: float = 1.0


class Projection(keras.layers.Layer):
    def __init__(
        self,
        vectors: Mapping[str, int],
        n_actions: int,  # noqa: ARG002
        scale: float,
    ) -> None:
        super().__init__()
        ((self.field, dim),) = vectors.items()
        self.scale = scale
        self.dense = keras.layers.Dense(
            dim, kernel_initializer=keras.initializers.RandomNormal(seed=1)
        )

    def call(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:
        is_action = ops.not_equal(actions, 0)
        items = ops.where(is_action[:, :, None], item_embeddings, 0.0)
        newness = ops.where(is_action, 1.0 / (1.0 + ages), 0.0)
        summed = ops.sum(items * newness[:, :, None], axis=1)
        return {self.field: self.scale * self.dense(summed)}


@dataclass(frozen=True, kw_only=True)
class Dying(Aggregator):
    """Kills its process while it is packaged."""

    kind: ClassVar[str | None] = "death"
    layer: ClassVar[str | None] = "tests.worlds.tiny_models:Death"

    name: str = "dying"


class Death(keras.layers.Layer):
    def __init__(self, vectors: Mapping[str, int], n_actions: int) -> None:  # noqa: ARG002
        super().__init__()
        (self.field,) = vectors
        self.traced = 0

    def call(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:  # noqa: ARG002
        self.traced += 1
        if self.traced > 1:  # the first time, the model is built; the second, it is written
            os.kill(os.getpid(), signal.SIGKILL)
        return {self.field: ops.sum(item_embeddings, axis=1)}


def tiny_config(folder: Path, **changes: Any) -> Config:
    settings = {
        "data_dir": str(folder / "data"),
        "items": {"text": ["title"]},
        "dim": 2,
        "length": 4,
        "min_positives": 1,
    }
    config = Config.model_validate(settings | changes)
    if config.items.embedding:
        # The repository's catalogue encodes text; one without encoders takes the given vectors.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "catalog.py").write_text("AGGREGATORS = ()\n")
        config._root = folder
    return config


def write_items(
    config: Config, rows: Sequence[tuple[Any, Sequence[float], datetime]], part: str = "part-a"
) -> None:
    """Write item vectors: item_id, vector, available_at."""
    ids = pa.int64() if config.member_id_type == "int64" else pa.string()
    columns = {
        "item_id": pa.array([item for item, _, _ in rows], ids),
        "embedding": pa.array([vector for _, vector, _ in rows], pa.list_(pa.float32())),
        "available_at": pa.array([timestamp for _, _, timestamp in rows], UTC_US),
        "encoder": pa.array([config.space.encoder] * len(rows)),
        "encoder_version": pa.array([config.space.version] * len(rows), pa.int64()),
    }
    config.items_dir.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), config.items_dir / f"{part}.parquet")


def write_sequences(config: Config, members: Members, as_of: datetime = AS_OF) -> Path:
    """Write the member_sequences partition of `as_of`; return its file."""
    ids = pa.int64() if config.member_id_type == "int64" else pa.string()
    rows = list(members.values())
    times = [[as_of - timedelta(days=days) for _, _, days in row] for row in rows]
    last = [row[-1] if row else as_of - config.window - timedelta(days=1) for row in times]
    columns: dict[str, pa.Array] = {
        "member_id": pa.array(list(members), ids),
        "event_timestamp": pa.array([as_of] * len(rows), UTC_US),
        "created_timestamp": pa.array([CREATED] * len(rows), UTC_US),
        "item_ids": pa.array([[item for item, _, _ in row] for row in rows], pa.list_(ids)),
        "actions": pa.array([[a for _, a, _ in row] for row in rows], pa.list_(pa.string())),
        "event_timestamps": pa.array(times, pa.list_(UTC_US)),
        "n_actions": pa.array([len(row) for row in rows], pa.int64()),
    }
    for action in config.actions:
        counts = [sum(a == action for _, a, _ in row) for row in rows]
        columns[names.count_column(action)] = pa.array(counts, pa.int64())
    columns["last_action_at"] = pa.array(last, UTC_US)
    file = partition(config.layout.sequences, as_of)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file
