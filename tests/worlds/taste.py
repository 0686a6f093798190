"""Members with one of two tastes, in a data folder ready for training."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.spec import Learned
from models.training.recipe import Recipe
from tests.worlds.tiny_models import UTC_US, tiny_config, write_items
from transformations.config import Config
from transformations.example_settings import ExampleSettings
from transformations.layout import period_file

START = datetime(2026, 1, 1, tzinfo=UTC)
UNTIL = datetime(2026, 2, 10, tzinfo=UTC)
ITEMS, DIM = 40, 4
RECIPE = Recipe(
    batch_size=64,
    negatives=16,
    epochs=3,
    learning_rate=0.05,
    validation=timedelta(days=8),
    examples=ExampleSettings(min_actions=2),
)


@dataclass(frozen=True, kw_only=True)
class Taste(Learned):
    """A projection of the weighted sum of the items."""

    kind: ClassVar[str | None] = "projection"
    layer: ClassVar[str | None] = "tests.worlds.tiny_models:Projection"

    name: str = "taste"
    scale: float = 1.0
    recipe: Recipe = RECIPE


def taste_world(folder: Path, later: int = 0, **changes: Any) -> Config:
    """Write activity of 40 days, and items of two kinds; `later` makes other days after UNTIL."""
    config = tiny_config(folder, dim=DIM, length=5, **changes)
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.1, (ITEMS, DIM)) + np.eye(DIM)[np.arange(ITEMS) % 2]
    rows = [(item + 1, vector.tolist(), START) for item, vector in enumerate(vectors)]
    write_items(config, rows)
    for day in range(40):
        write_day(config, START + timedelta(days=day), rng)
    for day in range(later):
        write_day(config, UNTIL + timedelta(days=day), rng)
    return config


def write_day(config: Config, day: datetime, rng: np.random.Generator) -> None:
    """Write one day: 25 of 50 members act; items of the other kind are dismissed."""
    members = rng.choice(50, 25, replace=False)
    # Four of five actions are on items of the member's own kind.
    liked = rng.random(25) < 0.8
    items = 2 * rng.integers(0, ITEMS // 2, 25) + (members + ~liked) % 2
    second = np.where(rng.random(25) < 0.5, "APPLY", "SAVE")
    timestamps = [day + timedelta(minutes=int(m)) for m in np.sort(rng.integers(0, 1_440, 25))]
    order = np.argsort(members, kind="stable")
    table = pa.table(
        {
            "member_id": pa.array(members[order] + 1, pa.int64()),
            "item_id": pa.array(items[order] + 1, pa.int64()),
            "action": pa.array(np.where(liked, second, "DISMISS")[order]),
            "event_timestamp": pa.array([timestamps[i] for i in order], UTC_US),
            "ingested_at": pa.nulls(25, UTC_US),
        }
    )
    file = period_file(config.layout.activity, day.date())
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
