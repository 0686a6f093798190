"""The evaluation's world: a separate data folder with every snapshot of the past."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore

from models.embed import Graph, embed_snapshots, load_graph, model_version_of
from models.evaluation.promises import assert_trained_before
from models.items import build_items
from models.packaging import package
from models.spec import Aggregator, Learned
from models.training.train import train
from pipelines.daily import fill, stage_the_items
from pipelines.evaluation.protocol import DAY, Protocol, Split
from pipelines.progress import Stages
from pipelines.training import summary, trains
from serving import publish
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.last_actions import Snapshot
from transformations.layout import partition, partition_files
from transformations.tables import activity_query, build_sequences_of

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
    link = folder / "activity"
    if not link.is_symlink():
        link.symlink_to(config.layout.activity.resolve(), target_is_directory=True)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(_store_settings(folder)))
    return World(own, split)


def train_lines(
    world: World, stages: Stages, aggregators: Sequence[Aggregator]
) -> dict[str, dict[str, Any]]:
    """Encode the items, train and package the aggregators; return each one's manifest by name.

    Existing packages are kept.

    Raises:
        InputError: weights were trained on events after `weights_until`.
    """
    config, split = world.config, world.split
    with connect(config) as con:
        stage_the_items(config, con, split.test_until, stages)
        with stages.stage("items") as stage:
            fill(stage, build_items(config, con, split.test_until, split.weights_until))
        for line in aggregators:
            if isinstance(line, Learned) and trains(line, config):
                with stages.stage(f"train {line.name}") as stage:
                    learned = train(line, config, con, split.weights_until)
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


def build_snapshots(world: World, stages: Stages, aggregators: Sequence[Aggregator]) -> None:
    """Build every snapshot that a label may use; those of the same weights are kept."""
    config, as_ofs = world.config, world.split.snapshots
    snapshots = [Snapshot(at, at - DAY, at + config.publish_delay) for at in as_ofs]
    new = [s for s in snapshots if not partition(config.layout.sequences, s.as_of).exists()]
    with connect(config) as con:
        with stages.stage("sequences", total=len(new)) as stage:
            build_sequences_of(config, con, new, stage.advance)
            stage.note = f"{len(as_ofs)}, {as_ofs[0]:%Y-%m-%d} to {as_ofs[-1]:%Y-%m-%d}"
        with stages.stage("snapshots", total=len(as_ofs)) as stage:
            # By the lines that a snapshot lacks: mostly all of them, or none.
            lacking: dict[tuple[str, ...], list[Snapshot]] = {}
            graphs = {line.view: load_graph([line], config) for line in aggregators}
            for snapshot in snapshots:
                views = [
                    v for v, graph in graphs.items() if not _is_built(config, snapshot.as_of, graph)
                ]
                lacking.setdefault(tuple(views), []).append(snapshot)
            for missing, several in lacking.items():
                lines = [line for line in aggregators if line.view in missing]
                if lines:
                    embed_snapshots(config, con, several, lines)
                stage.advance(len(several))
            stage.note = f"{len(as_ofs)}, {as_ofs[0]:%Y-%m-%d} to {as_ofs[-1]:%Y-%m-%d}"


def _is_built(config: Config, as_of: datetime, graph: Graph) -> bool:
    """Whether a snapshot of these weights exists."""
    (model,) = graph.models
    file = partition(config.layout.embeddings(model.aggregator.view), as_of)
    return file.exists() and model_version_of(file) == model.model_version


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
        "settings": config.model_dump_json(exclude={"data_dir", "feature_store", "events"}),
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
