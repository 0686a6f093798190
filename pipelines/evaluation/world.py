"""A world of an evaluation: a separate data folder, with what was fitted until a moment."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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
from models.lines import by_space
from models.packaging import package
from models.spec import Aggregator, Learned
from models.training.train import train
from models.training.with_space import trained_with_space
from operations.fits import Fits
from pipelines.daily import stage_the_items
from pipelines.engine import engine_of
from pipelines.evaluation.protocol import DAILY, Protocol, Split, Times, WorldName
from pipelines.progress import Stages
from pipelines.training import show_step, summary, trains
from serving import publish
from transformations.config import Config
from transformations.duck import connect
from transformations.last_actions import Series, Snapshot
from transformations.tables import build_rows_read, build_sequences_of


@dataclass(frozen=True)
class World:
    """The tables, artifacts and feature store of the validation, or of the test.

    Attributes:
        config: The user's configuration with a separate data folder; the events are shared.
        split: How time is split.
    """

    name: WorldName
    config: Config
    split: Split

    @property
    def series(self) -> Series:
        """The daily snapshots that a label may read, as a backfill of them all would build them."""
        return Series(self.split.fit_until, DAILY.time, self.config.publish_delay)

    @property
    def shown(self) -> Snapshot:
        """The last snapshot, which the report shows."""
        return self.series.snapshots(self.split.until)[-1]

    @property
    def results(self) -> Path:
        """Folder of what was measured, one file per ranker."""
        return self.config.data / "results"

    def bound(self, aggregators: Sequence[Aggregator]) -> list[Aggregator]:
        """Return lines of the catalogue as their first fits, in the item spaces that they name."""
        return Fits(self.config).bind(aggregators)

    def store(self, aggregators: Sequence[Aggregator]) -> FeatureStore:
        """Register these aggregators' views and services; return the feature store."""
        store = publish.open_store(self.config)
        publish.apply(self.config, store, aggregators)
        return store


def open_world(config: Config, name: WorldName, times: Times, protocol: Protocol) -> World:
    """Prepare a world's folder beside the tables of `config`, whose events are staged.

    Leftovers of an evaluation with another split or other settings are removed.

    Args:
        times: Of all positive actions, microseconds since 1970, ascending.

    Raises:
        InputError: there are too few days.
    """
    split = Split.of(times, protocol.shares(name), protocol.fold_in)
    folder = config.layout.evaluation / name
    own = config.model_copy(
        update={"data_dir": str(folder), "feature_store": str(folder / "feature_store.yaml")}
    )
    own = own.in_space(Fits(own).space)
    _clear_if_changed(folder, own, split)
    for table, target in (
        ("activity", config.layout.activity),
        ("searches", config.layout.searches.parent),
    ):
        if target.exists() and not (folder / table).is_symlink():
            (folder / table).symlink_to(target.resolve(), target_is_directory=True)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(_store_settings(folder)))
    return World(name, own, split)


def encode(world: World, con: Connection, stages: Stages, lines: Sequence[Aggregator]) -> None:
    """Encode the items in every space of these lines: at the fit, and again at each moment after.

    What is fitted sees only what is before the fit; later items are folded in.
    """
    stage_the_items(world.config, con, world.split.until, stages)
    encode_in(world, con, stages, [own for own, _ in by_space(world.config, lines)])


def encode_in(world: World, con: Connection, stages: Stages, spaces: Sequence[Config]) -> None:
    """Encode the staged items in these spaces."""
    split = world.split
    total = len(spaces) * len(split.moments)
    with stages.stage("items", total, "moments") as stage:
        stage.rows_in = stage.rows_out = 0
        for own in spaces:
            for moment in split.moments:
                built = build_items(own, con, moment, split.fit_until)
                stage.rows_in += built.rows_in
                stage.rows_out += built.rows_out
                stage.advance(1)
        stage.note = f"at {len(split.moments)} moments, in {len(spaces)} spaces"


def train_lines(
    world: World, stages: Stages, aggregators: Sequence[Aggregator]
) -> dict[str, dict[str, Any]]:
    """Train and package the aggregators; return each one's manifest by name.

    Existing packages are kept.

    Raises:
        InputError: weights were trained on events after the fit, or would be trained on too few.
    """
    until = world.split.fit_until
    with connect(world.config) as con:
        for line in aggregators:
            config = line.config_of(world.config)
            if isinstance(line, Learned) and trains(line, config):
                with stages.stage(f"train {line.name}", unit="epochs") as stage:
                    shown = partial(show_step, stage, str(line))
                    learned = trained_with_space(line, config) or train(
                        line, config, con, until, shown, engine_of(config)
                    )
                    stage.rows_in = learned.figures.get("examples")
                    stage.note = summary(line, learned)
                notes = (learned.trained_until, learned.metrics, learned.notes())
                package(line, config, learned.model, *notes)
            else:
                package(line, config)
    manifests = {line.name: line.manifest(world.config) for line in aggregators}
    for manifest in manifests.values():
        assert_trained_before(manifest, until)
    return manifests


def build_served(
    world: World, stages: Stages, aggregators: Sequence[Aggregator], labels: pa.Table
) -> None:
    """Build what is compared with the serving side: the last snapshot, and rows that labels read.

    Args:
        labels: member_id, and as_of of the newest snapshot that is readable at the label's time.
    """
    config, between = world.config, (world.split.fit_until, world.split.until)
    with connect(config) as con, stages.stage("snapshot") as stage:
        engine = engine_of(config)
        shown = build_sequences_of(config, con, [world.shown], engine=engine)
        read = build_rows_read(config, con, labels, world.series)
        embed_snapshots(config, con, [world.shown], aggregators, engine=engine)
        embed_rows_read(config, con, between, aggregators)
        stage.rows_in, stage.rows_out = labels.num_rows, shown.rows_out + read.rows_out
        stage.note = f"{world.shown.as_of:%Y-%m-%d}, and rows that a sample of labels reads"


def _clear_if_changed(folder: Path, config: Config, split: Split) -> None:
    """Remove what was built with other settings: its item vectors and weights saw another time."""
    note = folder / "split.yaml"
    wanted = {
        "split": [str(each) for each in (split.fit_until, split.train_until, split.until)],
        "moments": [str(moment) for moment in split.moments],
        "attributes": config.model_dump(mode="json")["events"]["attributes"],
        "settings": config.model_dump_json(
            exclude={"data_dir", "feature_store", "events", "min_positives", "engine"}
        ),
    }
    if note.exists() and yaml.safe_load(note.read_text()) == wanted:
        return
    for link in (folder / "activity", folder / "searches"):
        if link.is_symlink():
            link.unlink()
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
