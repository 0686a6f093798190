"""Both stages of the recommender, measured end to end on a small market."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from models.lines import catalogue_lines, ranker_lines
from models.rankers.inputs import Labelled
from models.rankers.linear import LinearRanker
from models.rankers.lines import WideAndDeep
from models.rankers.spec import Ranker
from models.rankers.wide_and_deep import WideAndDeepRanker
from operations.ledger import Ledger
from operations.trials import trials
from pipelines.cli.recommended import show_recommender, went_on
from pipelines.daily import stage_events
from pipelines.datasets.simulate import Size, simulate
from pipelines.evaluation.evaluate import open_bench
from pipelines.evaluation.labels import positive_times
from pipelines.evaluation.protocol import LIVE, Protocol
from pipelines.evaluation.recommended import _prepare, _went_on, evaluate_recommender
from pipelines.evaluation.recommender import RecommenderBench
from pipelines.evaluation.world import train_lines
from pipelines.progress import Stages
from tests.worlds.workspace import DAY, catalogue
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.timestamps import DAY_US, microseconds

END = datetime(2026, 3, 1, tzinfo=UTC)
PROTOCOL = Protocol(
    freshness=(LIVE,),
    seeds=1,
    resamples=20,
    popular_days=(7, 28),
    half_lives=(None,),
    without=("ease", "als", "sasrec"),
)
CANDIDATES = (
    "Popular(version=1, days=14, count=30)",
    'Neighbours(of="tfidf_svd_v1", version=1, nearest=10, count=30)',
    'NearestToMember(aggregator="decay_v1", version=1, count=30)',
)
RANKERS = (
    'Linear(version=1, aggregators=("decay_v1",))',
    'BoostedTrees(version=1, aggregators=("decay_v1",), trees=8, min_rows=5)',
)


def stages(config: Config) -> Stages:
    ledger = Ledger(config)
    return Stages(Console(quiet=True), ledger, ledger.start("evaluate", None))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("recommender")
    simulate(folder / "simulated", Size(members=150, jobs=120, days=40), end=END)
    settings = {
        "dim": 8,
        "length": 8,
        "min_positives": 20,
        "events": {"source": "simulated/events"},
        "items": {
            "source": "simulated/items.parquet",
            "text": ["title"],
            "categories": ["category"],
            "available_at": "posted_at",
        },
        "members": {
            "source": "members.csv",
            "id": "member_id",
            "categorical": ["country", "zone"],
            "time_zone": "zone",
        },
        "train": {"weight": "1 / action_share", "buffer": "2d"},
    }
    (folder / "activity.yaml").write_text(yaml.safe_dump(settings))
    (folder / "feature_store.yaml").write_text("project: recommender\n")
    rows = "".join(f"{member},Peru,America/Lima\n" for member in range(0, 150, 2))
    (folder / "members.csv").write_text(f"member_id,country,zone\n{rows}")
    lines = catalogue(
        'GeometricDecay(version=1, decay=0.8, store="int8")', candidates=CANDIDATES, rankers=RANKERS
    )
    (folder / "catalog.py").write_text(lines)
    read = load_config(folder)
    with connect(read) as con:
        stage_events(read, con, END, stages(read))
    return read


@pytest.fixture(scope="module")
def result(config: Config) -> dict[str, Any]:
    file = evaluate_recommender(config, stages(config), PROTOCOL, "the command")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_rankers_stand_beside_references_with_intervals(result: dict[str, Any]) -> None:
    assert {*result["metrics"]} == {"popular", "knn", "last_item", "linear_v1", "boosted_trees_v1"}
    for metrics in result["metrics"].values():
        for name in ("ndcg10", "hr10", "mrr"):
            low, high = metrics[name]["members"]
            assert 0 <= low <= metrics[name]["value"] <= high <= 1
    assert result["command"] == "the command"
    assert result["best_reference"] in ("popular", "knn", "last_item")
    assert result["chosen"] in ("linear_v1", "boosted_trees_v1")
    minus = result["minus_best_reference"][result["chosen"]]["ndcg10"]["value"]
    ours, theirs = (
        result["metrics"][name]["ndcg10"]["value"]
        for name in (result["chosen"], result["best_reference"])
    )
    assert minus == pytest.approx(ours - theirs, abs=2e-5)


def test_the_validation_chooses_and_the_test_is_noted(
    config: Config, result: dict[str, Any]
) -> None:
    ledger = Ledger(config)
    tried = {one.settings["line"] for one in trials(ledger, "validation") if one.what == "ranker"}
    assert tried == {"linear_v1", "boosted_trees_v1"}
    assert [one.what for one in trials(ledger, "test")] == ["recommender"]
    assert result["labels"] > 0


def test_each_source_and_each_input_is_taken_apart(result: dict[str, Any]) -> None:
    names = {"popular_popular_v1", "neighbours_tfidf_svd_v1", "nearest_to_member_decay_v1"}
    assert {*result["sources"]} == names
    for figures in result["sources"].values():
        assert 0 <= figures["adds"] <= figures["recall"] <= 1
    # Together they bring what the ranker can order: no more than the sum, no less than the best.
    most = max(figures["recall"] for figures in result["sources"].values())
    together = sum(figures["recall"] for figures in result["sources"].values())
    assert most - 0.02 <= result["recall"]["500"] <= together + 0.02
    assert {f"without {name}" for name in names} < {*result["apart"]}
    assert {"everything", "without vectors", "without item_stats"} < {*result["apart"]}
    assert 0 < result["lists"]["coverage"] <= 1
    assert {*result["heads"]} <= {"APPLY", "SAVE", "DISMISS"}
    assert {*result["cohorts"]["members.country"]} == {"Peru", "missing"}
    console = Console(record=True, width=120)
    show_recommender(console, result)
    assert "What an input is worth" in console.export_text()


@pytest.fixture
def recommender(config: Config) -> Iterator[RecommenderBench]:
    with connect(config) as con:
        times = positive_times(config, con, ())
    lines = catalogue_lines(config)
    bench = open_bench(config, "test", times, PROTOCOL, lines, stages(config))
    own = bench.world.bound(lines)
    train_lines(bench.world, stages(config), own)
    with connect(bench.world.config) as con:
        _prepare(bench.world, con, own, stages(config))
        yield RecommenderBench.of(bench, con, own)


def test_lists_hold_known_items_that_the_member_had_not_acted_on(
    recommender: RecommenderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, fitted_to = LinearRanker.fit, []

    def noted(line: Ranker, heads: Any, train: Labelled, *more: Any) -> LinearRanker:
        fitted_to.append(train)
        return fit(line, heads, train, *more)

    monkeypatch.setattr(LinearRanker, "fit", noted)
    bench = recommender.bench
    (line, _) = ranker_lines(recommender.config)
    served = recommender.serve(line, 0)
    (train,) = fitted_to
    by_group = {*zip(train.groups.tolist(), train.weights.tolist(), strict=True)}
    assert len({*train.groups.tolist()}) == len(by_group)
    assert len({weight for _, weight in by_group}) > 1  # the rarer the action, the more
    assert np.nanmax(train.inputs.number("item.cluster_rank")) > 1
    task = bench.measured.task
    for row in np.flatnonzero(task.labels.positive):
        shown = served.lists[row][served.lists[row] >= 0]
        assert len({*shown.tolist()}) == len(shown)
        seen = task.seen.indices[task.seen.indptr[row] : task.seen.indptr[row + 1]]
        assert not {*shown.tolist()} & {*seen.tolist()}
        assert task.item_days.known(int(task.labels.days[row]))[shown].all()
    # What is popular was counted before the label's midnight.
    row = int(np.flatnonzero(task.labels.positive)[0])
    day = int(task.labels.days[row])
    (popular, *_) = recommender.pairs.sources
    lists = recommender.pairs.candidates("test", np.array([row]), day)[popular.full_name]
    events = bench.data.events
    recent = events.positive & (events.times < day * DAY_US)
    recent &= events.times >= (day - 14) * DAY_US
    liked = {*zip(events.members[recent].tolist(), events.items[recent].tolist(), strict=True)}
    counts = np.bincount([item for _, item in liked], minlength=len(bench.data.item_ids))
    assert (np.diff(counts[lists[0]]) <= 0).all()
    assert counts[lists[0]].min() >= 1


def test_a_ranker_that_goes_on_is_compared_with_a_full_one_on_the_same_labels(
    recommender: RecommenderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns of the labels before the buffer, then of those inside; the full one of all."""
    learned: list[tuple[str, int]] = []
    for name in ("fit", "go_on"):
        right = getattr(WideAndDeepRanker, name)

        def noted(*given: Any, right: Any = right, name: str = name) -> Any:
            both = [one for one in given if isinstance(one, Labelled)]
            learned.append((name, sum(len(np.unique(one.groups)) for one in both)))
            return right(*given)

        monkeypatch.setattr(WideAndDeepRanker, name, noted)
    line = WideAndDeep(version=1, aggregators=("decay_v1",), deep=(), embedding_dim=2, epochs=1)
    full = recommender.serve(line, 0)
    bench = recommender.bench
    resamples = bench.resamples(1, 20, items=len(bench.data.item_ids))
    found = _went_on(recommender, line, full, resamples)
    times = bench.data.periods["train"].task.labels.times
    border = microseconds(bench.world.split.train_until - 2 * DAY)
    old, new = int((times < border).sum()), int((times >= border).sum())
    assert min(old, new) > 20
    assert learned == [("fit", old + new), ("fit", old), ("go_on", new)]
    went = recommender.serve(line, 0, goes_on=True)
    for name, of in (("hr10", lambda rank: rank <= 10), ("mrr", lambda rank: 1 / rank)):
        own, other = (
            np.mean(of(one.scores.rank[np.isfinite(one.scores.rank)])) for one in (went, full)
        )
        assert found["metrics"][name]["value"] == pytest.approx(own, abs=1e-5)
        assert found["minus_full"][name]["value"] == pytest.approx(own - other, abs=1e-5)
    low, high = found["minus_full"]["ndcg10"]["members"]
    assert low <= found["minus_full"]["ndcg10"]["value"] <= high
    assert found["metrics"]["ndcg10"]["value"] > 0
    assert f"minus a full fit {found['minus_full']['ndcg10']['value']:+.4f}" in went_on(found)


def test_without_a_ranker_it_says_what_to_write(config: Config, tmp_path: Path) -> None:
    for name in ("activity.yaml", "feature_store.yaml"):
        (tmp_path / name).write_text((config.root / name).read_text())
    (tmp_path / "catalog.py").write_text(catalogue("GeometricDecay(version=1, decay=0.8)"))
    bare = load_config(tmp_path)
    with pytest.raises(InputError, match="expected RANKERS in"):
        evaluate_recommender(bare, stages(bare), PROTOCOL, "x")
