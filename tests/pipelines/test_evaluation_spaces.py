"""Several item spaces in one evaluation, interrupted and taken up again."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from models.lines import catalogue_lines
from operations.ledger import Ledger
from operations.trials import trials
from pipelines.daily import stage_events
from pipelines.datasets.simulate import Size, simulate
from pipelines.evaluation import evaluate as evaluation
from pipelines.evaluation.choices import FORMS, PUBLISHED
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.protocol import LIVE, Freshness, Protocol
from pipelines.progress import Stages
from pipelines.report import write_report
from tests.worlds.workspace import catalogue
from transformations.config import Config, load_config
from transformations.duck import connect

pytestmark = pytest.mark.long

END = datetime(2026, 3, 1, tzinfo=UTC)
PROTOCOL = Protocol(
    freshness=(LIVE, Freshness.read("1d")),
    fold_in=0.1,
    seeds=2,
    resamples=20,
    l2=(1e-4,),
    decays=(0.5, 0.8),
    popular_days=(7,),
    half_lives=(None,),
    ease=(10.0,),
    als=((1.0, 1.0),),
)
TRAINED = (
    'LearnedDecay(name="with_space", version=2, items="trained_v1", ranks="positive", '
    'projected=False, share="all", decays=2)'
)
RECIPE = "Recipe(epochs=1, negatives=16, validation=timedelta(days=5))"


class InterruptedRunError(Exception):
    """What ends the first evaluation."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("spaces")
    simulate(folder / "simulated", Size(members=200, jobs=100, days=40), end=END)
    settings = {
        "dim": 8,
        "length": 6,
        "min_positives": 20,
        "events": {"source": "simulated/events"},
        "items": {
            "source": "simulated/items.parquet",
            "text": ["title"],
            "categories": ["category"],
            "available_at": "posted_at",
        },
    }
    (folder / "activity.yaml").write_text(yaml.safe_dump(settings))
    (folder / "feature_store.yaml").write_text("project: spaces\n")
    lines = catalogue(
        "GeometricDecay(version=1, decay=0.8)",
        f'LearnedDecay(version=1, items="other_v3", recipe={RECIPE})',
        TRAINED,
        encoders=[
            "TfidfSvd(version=1)",
            'TfidfSvd(name="other", version=3)',
            f"Trained(version=1, epochs=2, layer={TRAINED})",
        ],
    )
    (folder / "catalog.py").write_text("from models.training.recipe import Recipe\n" + lines)
    read = load_config(folder)
    with connect(read) as con:
        stage_events(read, con, END, stages(read))
    return read


def stages(config: Config) -> Stages:
    ledger = Ledger(config)
    return Stages(Console(quiet=True), ledger, ledger.start("evaluate", None))


def run(config: Config) -> dict[str, Any]:
    file = evaluate(config, stages(config), PROTOCOL, "test", catalogue_lines(config))
    return json.loads(file.read_text())


def test_each_line_is_compared_in_its_space_and_an_interrupted_run_goes_on(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def fails(*_: Any) -> Any:
            raise InterruptedRunError

        patched.setattr(evaluation, "serving_costs", fails)
        with pytest.raises(InterruptedRunError):
            run(config)
    results = config.layout.evaluation / "test" / "results"
    measured = {file: file.stat().st_mtime_ns for file in results.iterdir()}
    tried = trials(Ledger(config), "validation")
    assert tried

    result = run(config)
    assert {file: file.stat().st_mtime_ns for file in results.iterdir()} == measured
    assert trials(Ledger(config), "validation") == tried
    assert [one["what"] for one in result["trials"]] == [one.what for one in tried]
    assert len(result["test_openings"]) == 2

    # Decayed vectors in both spaces; the baseline is the better one on validation.
    best: dict[str, float] = {}
    for one in tried:
        if one.what == "decayed" and one.settings["form"] == PUBLISHED:
            space = one.settings["space"]
            best[space] = max(best.get(space, 0.0), one.value or 0.0)
    assert set(best) == {"tfidf_svd_v1", "other_v3", "trained_v1"}
    names = [variant["name"] for variant in result["variants"]]
    in_other = [name for name in names if name.endswith("_in_other_v3")]
    assert len(in_other) == len(FORMS)
    baseline_in_other = max(best, key=lambda space: best[space]) == "other_v3"
    assert (result["baseline"] in in_other) == baseline_in_other
    assert result["challenger"] == "learned_decay"
    assert {"popular", "knn", "last_item", "ease", "als", "sasrec", "none", "none_knn"} <= set(
        names
    )
    labels = {variant["name"]: variant["label"] for variant in result["variants"]}
    assert labels["learned_decay"] == "learned decay, other_v3"

    # One training made the space and the line that reads it.
    assert result["training"]["with_space"]["objective"] == "that of its space"

    # Everything stands side by side, the second freshness with one seed.
    assert [(one["name"], one["seeds"]) for one in result["freshness"]] == [("live", 2), ("1d", 1)]
    for fresh in result["freshness"]:
        assert list(fresh["variants"]) == names
    live = result["freshness"][0]["variants"]
    assert (
        live["decay"]["metrics"]
        == {variant["name"]: variant["metrics"] for variant in result["variants"]}["decay"]
    )
    assert set(result["challenger_minus"]) == set(names) - {"learned_decay"}
    assert len(result["carriers"]) == 10
    assert all(one["passed"] for one in result["controls"] if "as " in one["name"][:3])
    page = write_report(result, tmp_path).read_text()
    assert "Items that carry the difference" in page


def test_the_newest_trial_of_each_setting_is_on_the_page(config: Config) -> None:
    grid = json.loads((config.layout.evaluation / "result.json").read_text())["decay_grid"]
    assert [point["decay"] for point in grid] == [0.5, 0.8]
    assert [point["chosen"] for point in grid].count(True) == 1
