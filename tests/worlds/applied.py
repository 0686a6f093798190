"""A tiny world written by hand: the tables that Feast reads, without what computes them."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.spec import Aggregator
from tests.worlds import plain_feast
from tests.worlds.lines import AGGREGATORS, write_catalogue
from transformations import names
from transformations.config import ROOT, Config
from transformations.layout import partition
from transformations.member_columns import UTC_US
from transformations.stats.member_stats import build_member_stats

DIM = 4
Id = int | str
Action = tuple[Id, str, datetime]


def utc(day: int, hour: int = 0, minute: int = 0, microsecond: int = 0) -> datetime:
    """A timestamp in March 2026."""
    return datetime(2026, 3, day, hour, minute, 0, microsecond, tzinfo=UTC)


def vector(*words: Any) -> list[float]:
    """A vector of float32 numbers that only these words have."""
    seed = zlib.crc32(repr(words).encode())
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32).tolist()


@dataclass
class World:
    """A data folder with Feast's settings in it, and the rows that were written to it."""

    folder: Path
    id_type: str = "int64"
    settings: str = "feature_store.yaml"
    aggregators: Sequence[Aggregator] = AGGREGATORS
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        data = self.folder / "data"
        text = (ROOT / self.settings).read_text().replace("data/", f"{data}/")
        (self.folder / "feature_store.yaml").write_text(plain_feast.settings(text))
        self.config = Config.model_validate(
            {
                "data_dir": str(data),
                "feature_store": str(self.folder / "feature_store.yaml"),
                "id_type": self.id_type,
                "items": {"text": ["title"]},
                "dim": DIM,
                "length": 5,
            }
        )
        write_catalogue(self.folder)
        self.config._root = self.folder

    def snapshot(
        self,
        as_of: datetime,
        members: Mapping[Id, Sequence[Action]],
        created: datetime | None = None,
        salt: Any = None,
        with_stats: bool = True,
    ) -> None:
        """Write one timestamp's partitions; created at as_of + 6 hours unless told otherwise.

        A member without actions is a lapsed one. `salt` makes other vectors of the same actions.
        Statistics, which a publication needs, cannot be of actions after as_of.
        """
        created = created or as_of + timedelta(hours=6)
        ids = pa.int64() if self.id_type == "int64" else pa.string()
        shared: dict[str, pa.Array] = {
            "member_id": pa.array(members, ids),
            "event_timestamp": pa.array([as_of] * len(members), UTC_US),
            "created_timestamp": pa.array([created] * len(members), UTC_US),
        }
        done = [[action for _, action, _ in actions] for actions in members.values()]
        tail: dict[str, pa.Array] = {"n_actions": pa.array(map(len, done), pa.int64())}
        for action in self.config.actions:
            counts = [row.count(action) for row in done]
            tail[names.count_column(action)] = pa.array(counts, pa.int64())
        last = [a[-1][2] if a else as_of - self.config.window for a in members.values()]
        tail["last_action_at"] = pa.array(last, UTC_US)
        rows = list(members.values())
        sequence = {
            "item_ids": pa.array([[item for item, _, _ in row] for row in rows], pa.list_(ids)),
            "actions": pa.array(done, pa.list_(pa.string())),
            "event_timestamps": pa.array(
                [[when for _, _, when in row] for row in rows], pa.list_(UTC_US)
            ),
        }
        self._write(partition(self.config.layout.sequences, as_of), shared | sequence | tail)
        if with_stats:
            build_member_stats(self.config, as_of)
        for aggregator in self.aggregators:
            vectors = {
                name: pa.array(
                    [
                        self.member_vector(aggregator, name, member, as_of, salt)
                        if any(
                            name in (f"{a.lower()}_embedding", "activity_embedding") for a in row
                        )
                        else [0.0] * DIM
                        for member, row in zip(members, done, strict=True)
                    ],
                    pa.list_(pa.float32()),
                )
                for name in aggregator.vectors(self.config)
            }
            version = pa.array([f"{aggregator.name}-v{aggregator.version}"] * len(members))
            folder = self.config.layout.embeddings(aggregator.view)
            self._write(
                partition(folder, as_of), shared | vectors | tail | {"model_version": version}
            )

    @staticmethod
    def member_vector(
        aggregator: Aggregator, name: str, member: Id, as_of: datetime, salt: Any = None
    ) -> list[float]:
        """What `snapshot` writes for a member that has such an action."""
        return vector(aggregator.view, name, member, as_of, salt)

    def items(self, part: str, items: Mapping[Id, datetime]) -> None:
        """Write one part file of item vectors, each with the time when it became available."""
        ids = pa.int64() if self.id_type == "int64" else pa.string()
        rows = {
            "item_id": pa.array(items, ids),
            "embedding": pa.array([vector(item) for item in items], pa.list_(pa.float32())),
            "available_at": pa.array(items.values(), UTC_US),
            "encoder": pa.array(["tfidf_svd"] * len(items)),
            "encoder_version": pa.array([1] * len(items), pa.int64()),
        }
        self._write(self.config.items_dir / f"{part}.parquet", rows)

    def table(self, view: str, as_of: datetime) -> list[dict[str, Any]]:
        """Read a partition back as rows."""
        return pq.ParquetFile(partition(self.config.layout.table(view), as_of)).read().to_pylist()

    @staticmethod
    def _write(file: Path, columns: Mapping[str, pa.Array]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(dict(columns)), file)
