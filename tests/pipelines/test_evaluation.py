"""The evaluation's protocol: the split, labels and features by a plain loop, and planted leaks."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore
from rich.console import Console

from models.catalog import AGGREGATORS
from models.embed import embed_snapshots
from models.evaluation.bootstrap import Resamples
from models.evaluation.promises import assert_trained_before
from models.packaging import MANIFEST
from models.sequences import Padded
from models.spec import Average, GeometricDecay
from operations.ledger import Ledger
from pipelines.daily import stage_events
from pipelines.datasets.simulate import Size, simulate
from pipelines.evaluation.controls import _shuffle, same_in_process, shuffled
from pipelines.evaluation.evaluate import chosen_lines
from pipelines.evaluation.features import EvaluationData, join, join_sequences, read_data
from pipelines.evaluation.protocol import DAY, Protocol, Split
from pipelines.evaluation.variants import measure_all, variant_of
from pipelines.evaluation.world import (
    World,
    _store_settings,
    build_sequences_read,
    embed_sequences_read,
    encode,
    open_world,
    train_lines,
)
from pipelines.progress import Stages
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition, partition_files, partitions, rows_read
from transformations.tables import build_sequences_of

END = datetime(2026, 3, 1, tzinfo=UTC)
LINES = (Average(version=1), GeometricDecay(version=1, decay=0.8))
PROTOCOL = Protocol(seeds=1, resamples=20)


def test_the_time_is_split_at_midnights() -> None:
    first = datetime(2026, 1, 1, 9, 30, tzinfo=UTC)
    split = Split.of(first, datetime(2026, 1, 20, 23, tzinfo=UTC), Protocol())
    assert [until.day for until in (split.weights_until, split.train_until)] == [10, 13]
    assert split.validation_until == datetime(2026, 1, 17, tzinfo=UTC)
    assert split.test_until == datetime(2026, 1, 21, tzinfo=UTC)


def test_too_few_days_cannot_be_split() -> None:
    with pytest.raises(InputError, match="enough days to split them"):
        Split.of(END, END + 2 * DAY, Protocol())


@pytest.mark.parametrize("shares", [(0.6, 0.5, 0.8), (0.0, 0.5, 0.8), (0.4, 0.6, 1.0)])
def test_shares_in_another_order_are_refused(shares: tuple[float, float, float]) -> None:
    weights, train, validation = shares
    with pytest.raises(InputError, match="0 < weights < train < validation < 1"):
        Protocol(weights=weights, train=train, validation=validation)


def test_the_newest_version_of_each_name_is_compared() -> None:
    lines = (Average(version=1), GeometricDecay(version=2, decay=0.5), *LINES)
    assert [line.view for line in chosen_lines(lines, ["gru"])] == [
        "member_activity_average_v1",
        "member_activity_decay_v2",
        "member_activity_gru_v1",
    ]
    with pytest.raises(InputError, match=r"--also: expected one of .*transformer, got 'lstm'"):
        chosen_lines(AGGREGATORS, ["lstm"])


@dataclass(frozen=True)
class Market:
    """A simulated market, with the rows that its labels read."""

    world: World
    data: EvaluationData
    store: FeatureStore
    stages: Stages


@pytest.fixture(scope="module", params=["1d", "60h"])
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Market:
    folder = tmp_path_factory.mktemp("market")
    simulate(folder / "simulated", Size(members=300, jobs=200, days=40), end=END)
    config = Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "dim": 8,
            "length": 6,
            "step": request.param,
            "events": {
                "source": str(folder / "simulated" / "events"),
                "columns": {"ingested_at": "ingested_at"},
            },
            "items": {
                "source": str(folder / "simulated" / "items.parquet"),
                "text": ["title"],
                "categories": ["category", "location"],
                "available_at": "posted_at",
            },
        }
    )
    ledger = Ledger(config)
    stages = Stages(Console(quiet=True), ledger, ledger.start("evaluate", None))
    with connect(config) as con:
        stage_events(config, con, END, stages)
        world = open_world(config, con, PROTOCOL)
        encode(world, con, stages)
        data = read_data(world, con, PROTOCOL, ("train", "test"))
    train_lines(world, stages, LINES)
    build_sequences_read(world, stages, data.readings)
    embed_sequences_read(world, stages, LINES)
    return Market(world, data, world.store(LINES), stages)


def activity(world: World) -> pd.DataFrame:
    files = sorted(world.config.layout.activity.glob("*/*.parquet"))
    return pd.concat([pq.read_table(file, partitioning=None).to_pandas() for file in files])


def test_labels_are_the_actions_of_their_time_on_items_known_at_their_midnight(
    market: Market,
) -> None:
    split, delay = market.world.split, market.world.config.publish_delay
    items = pd.concat(
        pq.read_table(file).to_pandas() for file in market.world.config.items_dir.glob("*.parquet")
    )
    known = items.groupby("item_id")["available_at"].min()
    events = activity(market.world)
    when = events["event_timestamp"]
    events = events[(when >= split.validation_until) & (when < split.test_until)]
    midnight = (events["event_timestamp"] - delay).dt.floor("D")
    expected = events[events["item_id"].map(known) <= midnight]
    frame = market.data.periods["test"].frame
    keys = ["event_timestamp", "member_id", "item_id", "action"]
    pd.testing.assert_frame_equal(
        frame[keys].reset_index(drop=True),
        expected[keys].sort_values(keys).reset_index(drop=True),
        check_dtype=False,
    )
    since = frame["event_timestamp"] - delay - split.weights_until
    assert (frame["as_of"] == split.weights_until + since.dt.floor(market.world.config.step)).all()
    assert (frame["midnight"] == (frame["event_timestamp"] - delay).dt.floor("D")).all()
    assert len(frame) > 200


@pytest.fixture(scope="module")
def whole(market: Market) -> World:
    """The same world with every snapshot that a label might read, each as a whole."""
    config, folder = market.world.config, market.world.config.data.parent / "whole"
    folder.mkdir()
    for name in ("activity", "items", "artifacts"):
        (folder / name).symlink_to(config.data / name, target_is_directory=True)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(_store_settings(folder)))
    own = {"data_dir": str(folder), "feature_store": str(folder / "feature_store.yaml")}
    world = World(config.model_copy(update=own), market.world.split)
    snapshots = world.series.snapshots(world.split.test_until)
    with connect(world.config) as con:
        build_sequences_of(world.config, con, snapshots)
        embed_snapshots(world.config, con, snapshots, LINES)
    return world


def test_features_are_those_of_the_newest_readable_snapshot(market: Market, whole: World) -> None:
    """Against the partitions of all snapshots, label by label."""
    config, period = market.world.config, market.data.periods["test"]
    features = join(market.store, config, LINES[1], period)
    fields = list(LINES[1].vectors(config))
    folder = whole.config.layout.embeddings(LINES[1].view)
    snapshots = {
        as_of: pq.read_table(partition(folder, as_of), partitioning=None)
        .to_pandas()
        .set_index("member_id")
        for as_of in partitions(folder)
    }
    there = 0
    for row, label in enumerate(period.frame.itertuples()):
        # A member keeps its newest row, even if later snapshots have no row of it.
        rows = [
            one.loc[label.member_id]
            for as_of, one in snapshots.items()
            if as_of + config.publish_delay <= label.event_timestamp
            and label.member_id in one.index
        ]
        expected = np.stack([rows[-1][name] for name in fields]) if rows else np.zeros((3, 8))
        np.testing.assert_allclose(features.vectors[row], expected, atol=1e-6)
        without_actions = not rows or rows[-1]["n_actions"] == 0
        assert (features.member_features[row, 0] == 1.0) == without_actions
        there += bool(rows)
    assert there > 100


def test_a_join_finds_what_it_finds_in_all_snapshots(market: Market, whole: World) -> None:
    store, config, data = whole.store(LINES), market.world.config, market.data
    for period in data.periods.values():
        for line in LINES:
            got, expected = (join(one, config, line, period) for one in (market.store, store))
            np.testing.assert_array_equal(got.member_features, expected.member_features)
            np.testing.assert_allclose(got.vectors, expected.vectors, atol=1e-6)
        read, held = (join_sequences(one, config, data, period) for one in (market.store, store))
        pd.testing.assert_frame_equal(read.history, held.history)
        for name in ("rows", "actions", "ages"):
            np.testing.assert_array_equal(getattr(read.padded, name), getattr(held.padded, name))
    rows = [pq.read_metadata(file).num_rows for file in config.layout.sequences.rglob("*.parquet")]
    of_all = [
        pq.read_metadata(file).num_rows for file in partition_files(whole.config.layout.sequences)
    ]
    assert sum(rows) < sum(of_all) / 2


def test_the_world_is_separate_and_is_kept(market: Market) -> None:
    config = market.world.config
    assert config.data.name == "evaluation"
    assert (config.data / "activity").is_symlink()
    artifact = LINES[1].artifact(config) / MANIFEST
    before = artifact.stat().st_mtime_ns
    train_lines(market.world, market.stages, LINES)
    assert artifact.stat().st_mtime_ns == before


def test_one_definition_and_what_order_is_worth(market: Market) -> None:
    config, data = market.world.config, market.data
    padded = join_sequences(market.store, config, data, data.periods["test"]).padded
    resamples = Resamples(len(data.member_codes), seeds=1, resamples=20)
    for line in LINES:
        variant = variant_of(line, market.store, config, data)
        control = same_in_process(variant, config, data, padded)
        assert control.passed, control
        measure_all(variant, data, seeds=[0])
        change = shuffled(variant, config, data, padded, resamples)
        assert change.expected == ("no gain" if line.order_matters else "no change")
        assert change.passed or line.order_matters, change


def test_shuffling_keeps_the_pairs_and_their_timestamps() -> None:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 4, (200, 6)).astype(np.int32)
    rows = np.where(actions > 0, rng.integers(1, 50, (200, 6)), 0).astype(np.int32)
    ages = np.where(actions > 0, 1.0, 0.0).astype(np.float32)
    got = _shuffle(Padded(rows, actions, ages, 0, 0))
    for before, after in zip(
        np.stack([rows, actions], axis=2), np.stack([got.rows, got.actions], axis=2), strict=True
    ):
        assert sorted(map(tuple, before)) == sorted(map(tuple, after))
        np.testing.assert_array_equal(before[:, 1] == 0, after[:, 1] == 0)
    assert (got.rows != rows).any()
    np.testing.assert_array_equal(got.ages, ages)


def test_a_planted_leak_of_events_is_caught(market: Market) -> None:
    """Rows that have the next days' actions, under their own as_of."""
    config, line = market.world.config, LINES[1]
    file = rows_read(config.layout.embeddings(line.view))
    kept = file.read_bytes()
    leaky = pq.ParquetFile(file).read()
    for name in ("event_timestamp", "created_timestamp"):
        earlier = pc.subtract(leaky[name], pa.scalar(3 * DAY))
        leaky = leaky.set_column(leaky.schema.get_field_index(name), name, earlier)
    try:
        pq.write_table(leaky, file)
        with pytest.raises(RunFailedError, match=r"from its future; .*last_action_at"):
            join(market.store, config, line, market.data.periods["test"])
    finally:
        file.write_bytes(kept)


def test_a_planted_leak_of_weights_is_caught(market: Market) -> None:
    manifest = LINES[1].manifest(market.world.config)
    known = manifest | {"trained_until": (market.world.split.train_until).isoformat()}
    with pytest.raises(InputError, match="expected weights trained on events before"):
        assert_trained_before(known, market.world.split.weights_until)


def test_another_split_clears_the_folder(market: Market, tmp_path: Path) -> None:
    """Last: it removes what the other tests read."""
    config = market.world.config
    outer = config.model_copy(update={"data_dir": str(config.data.parent), "items": config.items})
    artifact = LINES[0].artifact(config) / MANIFEST
    assert artifact.exists()
    with connect(outer) as con:
        again = open_world(outer, con, Protocol(weights=0.5, seeds=1))
    assert again.split.weights_until > market.world.split.weights_until
    assert not artifact.exists()
    assert list(outer.layout.activity.glob("period=*")), "the events themselves stay"


def test_missing_activity_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"data_dir": str(tmp_path), "items": {"text": ["title"]}})
    with connect(config) as con, pytest.raises(InputError, match="first: activity run"):
        open_world(config, con, Protocol(seeds=1))
