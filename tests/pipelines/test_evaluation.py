"""The evaluation's protocol: the split, labels and features by a plain loop, and planted leaks."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from models.catalog import AGGREGATORS
from models.evaluation.promises import assert_trained_before
from models.evaluation.ranker import RankerSettings
from models.evaluation.scoring import LabelScores
from models.packaging import MANIFEST
from models.sequences import Padded
from models.spec import Average, GeometricDecay
from operations.ledger import Ledger
from operations.trials import Trial, note_trial, trials
from pipelines.daily import stage_events
from pipelines.datasets.simulate import Size, simulate
from pipelines.evaluation.choices import FORMS, Measured, choose, decayed
from pipelines.evaluation.controls import _shuffle
from pipelines.evaluation.evaluate import chosen_lines, prepare
from pipelines.evaluation.labels import positive_times, read_data
from pipelines.evaluation.protocol import ALL, DAILY, DAY, LIVE, Protocol, Shares, Split
from pipelines.evaluation.saved import SavedScores
from pipelines.evaluation.served import _sample, join, readings, request_time, training_joins
from pipelines.evaluation.variants import Bench, Variant
from pipelines.evaluation.world import World, build_served, open_world, train_lines
from pipelines.progress import Stages
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import rows_read
from transformations.names import Space
from transformations.timestamps import DAY_US, microseconds

END = datetime(2026, 3, 1, tzinfo=UTC)
LINES = (Average(version=1), GeometricDecay(version=1, decay=0.8))
PROTOCOL = Protocol(seeds=1, resamples=20, decays=(0.5, 0.8), l2=(1e-4,), popular_days=(1, 7))


def times_of(*days: float) -> np.ndarray:
    return np.array([int(day * DAY_US) for day in days], np.int64)


def test_time_is_split_by_shares_of_the_positive_actions() -> None:
    """Ten actions on days 1 to 10; two days have none, and the last one has three."""
    times = times_of(1.5, 2.5, 3.5, 4.5, 6.5, 7.5, 8.5, 10.1, 10.2, 10.9)
    split = Split.of(times, Shares(fit=0.3, train=0.6, until=1.0), fold_in=0.1)
    ends = [microseconds(each) // DAY_US for each in (split.fit_until, split.train_until)]
    assert ends == [4, 8]  # of the 4th and the 7th action
    assert microseconds(split.until) == 11 * DAY_US
    assert [microseconds(moment) // DAY_US for moment in split.moments] == [4, 6, 7, 8, 10]
    assert split.periods("validation") == {
        "train": (split.fit_until, split.train_until),
        "validation": (split.train_until, split.until),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 90), min_size=20, max_size=60),
    st.sampled_from([(0.6, 0.7, 0.85), (0.75, 0.85, 1.0)]),
)
def test_each_share_of_the_actions_is_before_its_end(
    days: list[float], shares: tuple[float, float, float]
) -> None:
    times = times_of(*sorted(days))
    fit, train, until = shares
    try:
        split = Split.of(times, Shares(fit=fit, train=train, until=until), 0.025)
    except InputError:
        return
    for end, share in ((split.fit_until, fit), (split.train_until, train), (split.until, until)):
        before = (times < microseconds(end)).mean()
        within = np.abs(times - microseconds(end)) < DAY_US  # ends are midnights
        assert before <= share + 1e-9
        assert before + within.mean() >= share - 1e-9
    assert split.moments[0] == split.fit_until
    assert list(split.moments) == sorted(set(split.moments))
    assert split.moments[-1] < split.until


def test_too_few_days_cannot_be_split() -> None:
    with pytest.raises(InputError, match="enough days to split them, got 4 from 1970-01-02"):
        Split.of(times_of(1.1, 1.2, 1.3, 2.1), Shares(fit=0.5, train=0.75, until=1.0), 0.1)


@pytest.mark.parametrize("shares", [(0.6, 0.5, 0.8), (0.0, 0.5, 0.8), (0.4, 0.6, 1.1)])
def test_shares_in_another_order_are_refused(shares: tuple[float, float, float]) -> None:
    fit, train, until = shares
    with pytest.raises(InputError, match="0 < fit < train < until <= 1"):
        Shares(fit=fit, train=train, until=until)


def test_a_protocol_without_sense_is_refused() -> None:
    for wrong, said in (
        ({"seeds": 0}, "seeds: expected at least 1"),
        ({"fold_in": 0.0}, "fold_in: expected a share"),
        ({"freshness": (LIVE, LIVE)}, "each once"),
        ({"freshness": ()}, "at least one"),
        ({"without": ("knn",)}, "--without: expected some of ease, als, sasrec, got 'knn'"),
    ):
        with pytest.raises(InputError, match=said):
            Protocol(**wrong)


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
    """A simulated market and its test, nothing chosen yet."""

    bench: Bench
    outer: Config
    stages: Stages
    times: np.ndarray

    @property
    def world(self) -> World:
        return self.bench.world


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    folder = tmp_path_factory.mktemp("market")
    simulate(folder / "simulated", Size(members=300, jobs=200, days=40), end=END)
    config = Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "dim": 8,
            "length": 6,
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
        times = positive_times(config, con, ())
    world = prepare(config, "test", times, PROTOCOL, LINES, stages)
    train_lines(world, stages, LINES)
    with connect(world.config) as con:
        bench = Bench.of(world, con, read_data(world, con, PROTOCOL))
    return Market(bench, config, stages, times)


def activity(world: World) -> pd.DataFrame:
    files = sorted(world.config.layout.activity.glob("*/*.parquet"))
    return pd.concat([pq.read_table(file, partitioning=None).to_pandas() for file in files])


def test_labels_are_the_first_actions_on_items_known_at_their_midnight(market: Market) -> None:
    split, frame = market.world.split, market.bench.measured.frame
    staged = pq.read_table(market.world.config.layout.staged_items).to_pandas()
    known = staged.groupby("item_id")["available_at"].min()
    events = activity(market.world).sort_values(["event_timestamp", "action"])
    events = events.drop_duplicates(["member_id", "item_id"])
    when = events["event_timestamp"]
    events = events[(when >= split.train_until) & (when < split.until)]
    expected = events[events["item_id"].map(known) <= events["event_timestamp"].dt.floor("D")]
    keys = ["event_timestamp", "member_id", "item_id", "action"]
    pd.testing.assert_frame_equal(
        frame[keys].reset_index(drop=True),
        expected[keys].sort_values(keys).reset_index(drop=True),
        check_dtype=False,
    )
    assert (frame["midnight"] == frame["event_timestamp"].dt.floor("D")).all()
    assert len(frame) > 200


def test_a_member_has_so_many_labels_at_most(market: Market) -> None:
    few = Protocol(seeds=1, per_member=2)
    with connect(market.world.config) as con:
        frame = read_data(market.world, con, few).periods["test"].frame
    all_of = market.bench.measured.frame
    counts = frame.groupby(["member_id", "positive"]).size()
    assert counts.max() == 2
    expected = all_of.groupby(["member_id", "positive"]).size().clip(upper=2)
    pd.testing.assert_series_equal(counts, expected)
    assert set(map(tuple, frame[["member_id", "item_id"]].to_numpy())) <= set(
        map(tuple, all_of[["member_id", "item_id"]].to_numpy())
    )


def test_nothing_of_a_labels_own_time_or_later_is_in_its_features(market: Market) -> None:
    """What happened from a label's as_of on is changed; no feature changes."""
    bench = market.bench
    variant = Variant("decay", LINES[1], market.world.config.space)
    log, sample = bench.log, np.arange(0, len(bench.measured.frame), 25)
    for freshness in ALL:
        as_of = bench.as_of("test", freshness)
        assert (as_of <= bench.measured.task.labels.times).all()
        found = bench.features(variant, "test", freshness)
        recent = bench.recent("test", freshness)
        for row in sample:
            later = log.actions.timestamp >= as_of[row]
            kept = np.flatnonzero(~later | (log.actions.member % 7 == 3))
            fewer = type(log)(log.actions.take(kept), log.ingested[kept])
            events = bench.data.events
            if bench.measured.task.labels.members[row] % 7 == 3:
                continue
            other = Bench(market.world, bench.data, fewer)
            again = other.features(variant, "test", freshness)
            np.testing.assert_array_equal(found.vectors[row], again.vectors[row])
            np.testing.assert_array_equal(found.member_features[row], again.member_features[row])
            own = bench.measured.task.labels.members[row]
            mine = (events.members == own) & (events.times < as_of[row]) & events.positive
            expected = events.items[mine][-10:]
            assert recent[row][recent[row] >= 0].tolist() == expected.tolist()


def test_the_three_are_those_that_are_served(market: Market) -> None:
    """The daily snapshot as in training joins, and live as at request time."""
    small = GeometricDecay(name="small", version=1, decay=0.8, store="int8")
    train_lines(market.world, market.stages, [small])
    bench, lines = market.bench, [*LINES, small]
    sample = _sample(bench.measured, bench.measured.task.labels.times > 0, 120)
    build_served(bench.world, market.stages, lines, readings(bench, sample))
    store = bench.world.store(lines)
    joined = list(training_joins(bench, store, lines, sample))
    asked = list(request_time(bench, store, lines))
    assert [control.name for control in joined + asked] == [
        "as in training joins, average",
        "as in training joins, decay",
        "as in training joins, small",
        "as at request time, average",
        "as at request time, decay",
        "as at request time, small",
    ]
    assert all(control.passed for control in joined + asked), joined + asked

    # Rows that have the next days' actions, under their own as_of.
    file = rows_read(bench.world.config.layout.embeddings(LINES[1].view))
    leaky = pq.ParquetFile(file).read()
    for name in ("event_timestamp", "created_timestamp"):
        earlier = pc.subtract(leaky[name], pa.scalar(3 * DAY))
        leaky = leaky.set_column(leaky.schema.get_field_index(name), name, earlier)
    pq.write_table(leaky, file)
    with pytest.raises(RunFailedError, match=r"from its future; .*last_action_at"):
        join(store, bench.world.config, LINES[1], sample)


def test_item_vectors_are_those_of_the_midnight(market: Market) -> None:
    """An item has its vector from when it is known, and zeros before."""
    bench, config = market.bench, market.world.config
    items = bench.item_vectors(config.space)
    rows = pd.concat(pq.read_table(file).to_pandas() for file in config.items_dir.glob("*.parquet"))
    first = rows.groupby("item_id")["available_at"].min()
    days = np.unique(bench.measured.task.labels.days)
    ids = bench.data.item_ids.to_pylist()
    some = 0
    for day in days:
        found = items.at(int(day)).any(axis=1)
        midnight = pd.Timestamp(int(day) * DAY_US, unit="us", tz="UTC")
        expected = [item in first.index and first[item] <= midnight for item in ids]
        assert found.tolist() == expected
        some += not all(expected)
    assert some


def test_choices_are_trials_of_the_ledger_and_are_kept(market: Market) -> None:
    measured = Measured(market.bench)
    choices = choose(measured, LINES, PROTOCOL, market.stages)
    tried = trials(market.stages.ledger, "validation")
    assert measured.made == len(tried)
    popular = {one.settings["days"]: one.value for one in tried if one.what == "popular"}
    assert set(popular) == {1, 7}
    assert popular[choices.popular_days] == max(popular.values())
    space = market.world.config.space
    for form in FORMS:
        grid = {
            one.settings["r"]: one.value
            for one in tried
            if one.what == "decayed" and one.settings["form"] == form
        }
        assert grid[choices.decays[space, form]] == max(grid.values())
    assert choices.baseline == space
    assert set(choices.settings) >= {"none", "average", "decay"}
    again = Measured(market.bench)
    assert choose(again, LINES, PROTOCOL, market.stages) == choices
    assert again.made == 0
    assert len(trials(market.stages.ledger, "validation")) == len(tried)


def test_the_decayed_vectors_of_a_space_are_the_catalogues_where_it_has_them() -> None:
    config = Config.model_validate({"items": {"text": ["title"]}})
    other = Space("co_actions", 2)
    assert decayed(config, LINES, config.space, 0.8) is LINES[1]
    home, there = (decayed(config, LINES, space, 0.5) for space in (config.space, other))
    assert (home.name, home.config_of(config).space) == ("decay_r500", config.space)
    assert (there.name, there.config_of(config).space) == ("decay_r500_in_co_actions_v2", other)
    pooled = decayed(config, LINES, config.space, 0.8, "pooled")
    assert (pooled.name, len(pooled.vectors(config))) == ("decay_r800_pooled", 1)
    assert decayed(config, [pooled.of_fit(1, other)], other, 0.8, "pooled").name == pooled.name


def test_a_ranker_with_neighbours_reads_what_item_knn_says(market: Market) -> None:
    bench = market.bench
    variant = Variant("none", None, market.world.config.space).with_knn()
    assert variant.name == "none_knn"
    features = bench.features(variant, "test", LIVE)
    assert features.pairs is not None
    knn, labels = bench.neighbours(LIVE), bench.measured.task.labels
    dense = features.pairs.toarray()
    assert dense.shape == (len(labels), len(bench.data.item_ids))
    # Where its best pair is the label's item, item-kNN ranks it first.
    best = labels.positive & (dense.max(axis=1) > 0)
    seen = bench.measured.task.seen.toarray()
    ranked = np.where(seen | ~known(bench), 0.0, dense)
    first = best & (ranked.argmax(axis=1) == labels.items) & (ranked.max(axis=1) > 0)
    assert first.any()
    assert (knn.rank[first] < 10).all()
    scores = bench.scores(variant, LIVE, RankerSettings(epochs=1), 0)
    assert np.isfinite(scores.rank[labels.positive]).all()


def known(bench: Bench) -> np.ndarray:
    labels = bench.measured.task.labels
    return np.stack([bench.data.item_days.known(int(day)) for day in labels.days])


def test_what_was_measured_is_read_again_unless_it_would_be_another(tmp_path: Path) -> None:
    made = []

    def make() -> LabelScores:
        made.append(1)
        ranks = np.array([1.0, np.nan])
        judged = np.array([0.5, -1.0], np.float32) if len(made) == 1 else None
        return LabelScores(ranks, ranks / 2, ranks * 2, judged)

    saved = SavedScores(tmp_path / "results", {"labels": "a"})
    first, is_new = saved.scores("decay.live.0", {"l2": 1e-4}, make)
    again, is_new_again = saved.scores("decay.live.0", {"l2": 1e-4}, make)
    assert (is_new, is_new_again, len(made)) == (True, False, 1)
    for name in ("rank", "rank_recent", "random", "judged"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other, _ = saved.scores("decay.live.0", {"l2": 1e-3}, make)
    assert other.judged is None
    assert saved.scores("decay.live.0", {"l2": 1e-3}, make)[0].judged is None
    SavedScores(tmp_path / "results", {"labels": "b"}).scores("decay.live.0", {"l2": 1e-4}, make)
    assert len(made) == 3
    assert len(list((tmp_path / "results").iterdir())) == 3


def test_the_ledger_keeps_trials_and_openings_apart(tmp_path: Path) -> None:
    config = Config.model_validate({"data_dir": str(tmp_path), "items": {"text": ["title"]}})
    ledger = Ledger(config)
    run = ledger.start("evaluate", None)
    tried = Trial("validation", "decayed", {"r": 0.5}, "ndcg10", 0.1)
    for trial in (tried, Trial("test", "learned against decay", {})):
        note_trial(ledger, run, trial)
    (found,) = trials(ledger, "validation")
    assert (found.what, found.settings, found.metric, found.value) == (
        "decayed",
        {"r": 0.5},
        "ndcg10",
        0.1,
    )
    assert [one.what for one in trials(ledger, "test")] == ["learned against decay"]
    assert json.dumps(dict(found.settings))


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


def test_a_planted_leak_of_weights_is_caught(market: Market) -> None:
    manifest = LINES[1].manifest(market.world.config)
    leaky = manifest | {"trained_until": (market.world.split.train_until).isoformat()}
    with pytest.raises(InputError, match="expected weights trained on events before"):
        assert_trained_before(leaky, market.world.split.fit_until)


def test_the_world_is_separate_and_is_kept(market: Market) -> None:
    config = market.world.config
    assert config.data.parts[-2:] == ("evaluation", "test")
    assert (config.data / "activity").is_symlink()
    artifact = LINES[1].artifact(config) / MANIFEST
    before = artifact.stat().st_mtime_ns
    train_lines(market.world, market.stages, LINES)
    assert artifact.stat().st_mtime_ns == before
    again = open_world(market.outer, "test", market.times, PROTOCOL)
    assert again == market.world
    assert artifact.exists()


def test_another_split_clears_the_folder(market: Market) -> None:
    """Last: it removes what the other tests read."""
    artifact = LINES[0].artifact(market.world.config) / MANIFEST
    assert artifact.exists()
    later = Protocol(test=Shares(fit=0.8, train=0.9, until=1.0), seeds=1)
    again = open_world(market.outer, "test", market.times, later)
    assert again.split.fit_until > market.world.split.fit_until
    assert not artifact.exists()
    assert list(market.outer.layout.activity.glob("period=*")), "the events themselves stay"


def test_missing_activity_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"data_dir": str(tmp_path), "items": {"text": ["title"]}})
    with connect(config) as con, pytest.raises(InputError, match="first: activity run"):
        positive_times(config, con, ())


def test_daily_is_a_snapshot_at_midnight(market: Market) -> None:
    as_of = market.bench.as_of("test", DAILY)
    assert (as_of % DAY_US == 0).all()
    delay = market.world.config.publish_delay
    assert (as_of + microseconds(END + delay) - microseconds(END)).max() <= (
        market.bench.measured.task.labels.times.max()
    )
