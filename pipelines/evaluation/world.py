"""The evaluation's world: a separate data folder with the rows that its labels read."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore

from models.embed import embed_rows_read, embed_snapshots
from models.evaluation.promises import assert_trained_before
from models.items.build import build_items
from models.packaging import package
from models.spec import Aggregator, Learned
from models.training.train import train
from pipelines.daily import fill, stage_the_items
from pipelines.evaluation.protocol import Protocol, Split
from pipelines.progress import Stages
from pipelines.training import show_step, summary, trains
from serving import publish
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.last_actions import Series, Snapshot
from transformations.layout import partition_files
from transformations.tables import activity_query, build_rows_read, build_sequences_of

FOLDER = "evaluation"


@dataclass(frozen=True)
class World:
    """An evaluation's tables, artifacts and feature store.

    Attributes:
        config: The user's configuration with a separate data folder; the events are shared.
        split: How time is split.
    """

    config: Config
    split: Split

    @property
    def series(self) -> Series:
        """The snapshots that a label may read, as a backfill of them all would build them."""
        return Series(self.split.weights_until, self.config.step, self.config.publish_delay)

    @property
    def shown(self) -> Snapshot:
        """The last snapshot, which the report shows."""
        return self.series.snapshots(self.split.test_until)[-1]

    def store(self, aggregators: Sequence[Aggregator]) -> FeatureStore:
        """Register these aggregators' views and services; return the feature store."""
        store = publish.open_store(self.config)
        publish.apply(self.config, store, aggregators)
        return store


def open_world(config: Config, con: Connection, protocol: Protocol) -> World:
    """Prepare the evaluation's folder beside the tables of `config`, whose events are staged.

    Its item encoder is fitted to items known before `weights_until`. Leftovers of an evaluation
    with another split are removed.

    Raises:
        InputError: there are no events, or too few days.
    """
    first, last = _ends(config, con)
    split = Split.of(first, last, protocol)
    folder = config.data / FOLDER
    own = config.model_copy(
        update={"data_dir": str(folder), "feature_store": str(folder / "feature_store.yaml")}
    )
    _clear_if_changed(folder, own, split)
    for name, target in (
        ("activity", config.layout.activity),
        ("searches", config.layout.searches.parent),
    ):
        if target.exists() and not (folder / name).is_symlink():
            (folder / name).symlink_to(target.resolve(), target_is_directory=True)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(_store_settings(folder)))
    return World(own, split)


def encode(world: World, con: Connection, stages: Stages) -> None:
    """Encode the items, which labels are on and aggregators are trained with."""
    config, split = world.config, world.split
    stage_the_items(config, con, split.test_until, stages)
    with stages.stage("items") as stage:
        until = (split.test_until, split.weights_until)
        fill(stage, build_items(config, con, *until, stage.update))


def train_lines(
    world: World, stages: Stages, aggregators: Sequence[Aggregator]
) -> dict[str, dict[str, Any]]:
    """Train and package the aggregators; return each one's manifest by name.

    Existing packages are kept.

    Raises:
        InputError: weights were trained on events after `weights_until`, or would be trained on
            too few.
    """
    config, split = world.config, world.split
    with connect(config) as con:
        for line in aggregators:
            if isinstance(line, Learned) and trains(line, config):
                with stages.stage(f"train {line.name}", unit="epochs") as stage:
                    learned = train(
                        line, config, con, split.weights_until, partial(show_step, stage, str(line))
                    )
                    stage.rows_in = learned.figures["examples"]
                    stage.note = summary(line, learned)
                notes = (learned.trained_until, learned.metrics, learned.notes())
                package(line, config, learned.model, *notes)
            else:
                package(line, config)
    manifests = {line.name: line.manifest(config) for line in aggregators}
    for manifest in manifests.values():
        assert_trained_before(manifest, split.weights_until)
    return manifests


def build_sequences_read(world: World, stages: Stages, labels: pa.Table) -> None:
    """Build the rows of member_sequences that labels read, and the last snapshot as a whole.

    Args:
        labels: member_id, and as_of of the newest snapshot that is readable at the label's time.
    """
    config = world.config
    with connect(config) as con, stages.stage("sequences") as stage:
        shown = build_sequences_of(config, con, [world.shown])
        read = build_rows_read(config, con, labels, world.series)
        stage.rows_in, stage.rows_out = labels.num_rows, shown.rows_out + read.rows_out
        stage.note = (
            f"those that a label reads, and the last snapshot, {world.shown.as_of:%Y-%m-%d}"
        )


def embed_sequences_read(world: World, stages: Stages, aggregators: Sequence[Aggregator]) -> None:
    """Make the vectors of those rows."""
    config, between = world.config, (world.split.weights_until, world.split.test_until)
    with connect(config) as con, stages.stage("vectors") as stage:
        shown = embed_snapshots(config, con, [world.shown], aggregators, stage.advance)
        read = embed_rows_read(config, con, between, aggregators, stage.advance)
        stage.rows_in = shown.members + read.members
        stage.rows_out = sum(shown.rows.values()) + sum(read.rows.values())


def _ends(config: Config, con: Connection) -> tuple[datetime, datetime]:
    files = partition_files(config.layout.activity)
    if not files:
        raise InputError(
            f"expected activity in {config.layout.activity}, found none; first: activity run"
        )
    ends = [files[0], files[-1]]
    query = activity_query(config, con, ends)
    row = con.execute(
        f"select min(event_timestamp), max(event_timestamp) from ({query})"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _clear_if_changed(folder: Path, config: Config, split: Split) -> None:
    """Remove what was built with other settings: its item vectors and weights saw another time."""
    note = folder / "split.yaml"
    wanted = {
        "weights_until": split.weights_until.isoformat(),
        "test_until": split.test_until.isoformat(),
        # An older version built all snapshots, and a join would still find them.
        "rows": "those that a label reads",
        "attributes": config.model_dump(mode="json")["events"]["attributes"],
        "settings": config.model_dump_json(
            exclude={"data_dir", "feature_store", "events", "min_positives"}
        ),
    }
    if note.exists() and yaml.safe_load(note.read_text()) == wanted:
        return
    if (folder / "activity").is_symlink():
        (folder / "activity").unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    note.write_text(yaml.safe_dump(wanted))


def _store_settings(folder: Path) -> dict[str, object]:
    """Return the settings of an embedded feature store, separate from the user's."""
    return {
        "project": "member_activity_evaluation",
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
        "offline_store": {"type": "stores.duckdb_asof.DuckDBAsofOfflineStore"},
        "online_store": {
            "type": "stores.sqlite.ColumnarSqliteOnlineStore",
            "path": str(folder / "online.db"),
        },
        "batch_engine": {"type": "stores.columnar.ColumnarComputeEngine"},
        "entity_key_serialization_version": 3,
    }
