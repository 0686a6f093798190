"""Grids and studies on a small world; the catalogue changes only by what is written into it."""

import ast
import csv
import shutil
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from rich.console import Console

from models import catalog
from models.backend import keras
from models.layers.geometric_decay import GeometricDecay as DecayLayer
from models.spec import GeometricDecay, LearnedDecay
from models.training import tune_decay as tune_module
from models.training.objectives import OBJECTIVES
from models.training.recipe import Recipe
from models.training.tune import suggest, tune
from models.training.tune_decay import DecayStudy, Scored, similarities, tune_decay
from operations.ledger import Ledger
from pipelines.progress import Stages
from pipelines.tuning import _table, add_line, say, tune_line, why_common
from tests.worlds.taste import RECIPE, UNTIL, Taste, taste_world
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.example_settings import ExampleSettings
from transformations.names import Similarity

ops = keras.ops
TASTE = Taste(version=1, recipe=replace(RECIPE, epochs=2))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return taste_world(tmp_path_factory.mktemp("tuning"))


def test_each_action_may_have_its_decay() -> None:
    layer = DecayLayer(vectors={"a": 1, "b": 1}, n_actions=2, decay=(0.5, 0.25))
    items = ops.array([[[0.0], [8.0], [3.0], [0.0]]])
    got = layer(items, ops.array([[1, 2, 1, 2]]), ops.zeros((1, 4)))
    assert float(got["a"][0, 0]) == pytest.approx(2.0)  # (0 / 2 + 3) / 1.5
    assert float(got["b"][0, 0]) == pytest.approx(1.6)  # (8 / 4 + 0) / 1.25
    with pytest.raises(InputError, match="one for each of the 3 configured actions"):
        DecayLayer(vectors={"a": 1, "b": 1, "c": 1}, n_actions=3, decay=(0.5, 0.25))


@pytest.mark.parametrize("decay", [(), (0.5, 1.0), (0.0, 0.5)])
def test_decays_out_of_bounds_are_refused(decay: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected 0 < r < 1"):
        GeometricDecay(version=1, decay=decay)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_grids_similarities_are_those_of_the_aggregator(
    world: Config, similarity: Similarity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_module, "similarity_of", lambda _: similarity)
    rng = np.random.default_rng(0)
    table = np.concatenate([np.zeros((1, 4)), rng.normal(size=(9, 4))]).astype(np.float32)
    batch = {
        "rows": rng.integers(1, 10, (6, 5)),
        "actions": rng.integers(0, 4, (6, 5)).astype(np.int32),
        "label_rows": rng.integers(1, 10, 6),
    }
    batch["actions"][0] = 0
    got = similarities(batch, table, world, (0.5, 0.9))
    vectors = GeometricDecay(version=1, decay=0.5).vectors(world)
    for index, r in enumerate((0.5, 0.9)):
        layer = DecayLayer(vectors=vectors, n_actions=3, decay=r)
        outputs = layer(table[batch["rows"]], batch["actions"], np.zeros((6, 5), np.float32))
        for action, decayed in enumerate(outputs.values()):
            own, item = decayed.numpy(), table[batch["label_rows"]]
            expected = (own * item).sum(axis=1)
            if similarity == "cosine":
                norms = np.linalg.norm(own, axis=1) * np.linalg.norm(item, axis=1)
                expected /= np.maximum(norms, 1e-12)
            np.testing.assert_allclose(got[action, index], expected, atol=1e-5)


def test_the_grid_tells_the_tastes_and_chooses_its_best(world: Config) -> None:
    with connect(world) as con:
        study = tune_decay(world, con, UNTIL, timedelta(days=8), grid=(0.2, 0.9))
    assert [s.decay for s in study.common] == [(0.2,) * 3, (0.9,) * 3]
    assert set(study.single) == {"APPLY", "SAVE", "DISMISS"}
    scores = [s for row in (study.common, *study.single.values()) for s in row]
    assert max(s.auc_random for s in scores) > 0.6
    best = study.best if isinstance(study.best, tuple) else (study.best,) * 3
    chosen = next(s for s in scores if s.decay == best)
    assert chosen.auc_random >= max(s.auc_random for s in study.common)


def test_a_grid_needs_labels_of_each_kind(world: Config) -> None:
    with connect(world) as con, pytest.raises(InputError, match="expected positive, negative and"):
        tune_decay(world, con, UNTIL + timedelta(days=60), timedelta(days=8), grid=(0.5,))


def test_a_study_goes_on_where_it_was(world: Config) -> None:
    with connect(world) as con:
        first = tune(TASTE, world, con, UNTIL, trials=1)
        again = tune(TASTE, world, con, UNTIL, trials=3)
    assert again.trials[:1] == first.trials
    assert len(again.trials) == 3
    best = max(t.value for t in again.trials if t.state == "complete" and t.value is not None)
    chosen = next(t for t in again.trials if t.value == best)
    assert again.best.recipe.learning_rate == float(f"{chosen.settings['learning_rate']:.2g}")
    assert (again.best.version, again.best.recipe.refit) == (2, TASTE.recipe.refit)
    with connect(world) as con, pytest.raises(InputError, match="expected a sampler among tpe"):
        tune(TASTE, world, con, UNTIL, trials=1, sampler="grid")


def test_only_what_the_objective_reads_is_drawn() -> None:
    settings = {
        "learning_rate": 0.00123,
        "weight_decay": 0.0,
        "batch_size": 256,
        "negatives": 128,
        "popular_share": 0.5,
        "temperature": 0.1,
        "layer_decays": 2,
    }
    flags = {"layer_normalize": True, "layer_learned_default": True, "layer_use_sessions": False}
    for objective, row in OBJECTIVES.items():
        line = LearnedDecay(version=1, recipe=Recipe(objective=objective))
        trial = optuna.trial.FixedTrial(settings | flags)
        drawn = suggest(trial, line)
        assert ("negatives" in trial.params) == bool(row.settings)
        assert (drawn.recipe.learning_rate, drawn.decays, drawn.normalize) == (0.0012, 2, True)


# What is written.


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the catalogue's file, used instead of it."""
    file = tmp_path / "catalog.py"
    shutil.copy(catalog.__file__, file)
    monkeypatch.setattr(catalog, "__file__", str(file))
    return file


def entries(file: Path) -> list[Any]:
    scope: dict[str, Any] = {}
    exec(file.read_text(), scope)
    return list(scope["AGGREGATORS"])


@pytest.mark.parametrize(
    ("best", "told"), [(0.9, True), ((0.9, 0.7), False)], ids=["one for all", "one each"]
)
def test_a_best_line_that_is_not_the_best_row_is_explained(best: Any, told: bool) -> None:
    common = [Scored((0.9, 0.9), 0.61, 0.6)]
    each = {"APPLY": [Scored((0.9, 0.7), 0.6101, 0.6)]}
    assert ("less than 0.001" in why_common(DecayStudy(common, each, best))) == told
    assert why_common(DecayStudy(common, {}, 0.9)) == ""


def test_the_catalogue_changes_only_when_told_to(world: Config, catalogue: Path) -> None:
    before = catalogue.read_text()
    ledger = Ledger(world)
    console = Console(width=120, file=StringIO())
    stages = Stages(console, ledger, ledger.start("tune", UNTIL))
    line = GeometricDecay(version=1, decay=0.8)
    with connect(world) as con:
        best = tune_line(world, con, line, UNTIL, stages, 1, "tpe", apply=False)
    assert best.version > max(a.version for a in catalog.AGGREGATORS if a.name == "decay")
    assert catalogue.read_text() == before
    say(console, catalogue, best, apply=True)
    assert entries(catalogue) == [*catalog.AGGREGATORS, best]
    folder = world.data / "tuning"
    with (folder / "decay.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["auc_random"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert (folder / "decay.md").read_text().startswith("| decay | auc_random | auc_negative |\n")
    assert (folder / "decay.png").read_bytes()[:4] == b"\x89PNG"


def test_a_table_of_many_settings_can_be_read() -> None:
    rows = [{"trial": 3, "state": "complete", "auc": 0.5, "epochs": 2, "negatives": 256, "b": None}]
    console = Console(width=80, file=StringIO())
    console.print(_table(rows))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("trial", "complete", "epochs", "settings", "negatives 256, b None"):
        assert word in shown


def test_a_line_with_a_recipe_stays_one_line(catalogue: Path) -> None:
    recipe = Recipe(
        objective="next_action",
        learning_rate=0.0123,
        validation=timedelta(days=7),
        examples=ExampleSettings(stride=2, horizon=timedelta(days=3)),
    )
    line = LearnedDecay(version=2, recipe=recipe)
    add_line(catalogue, line)
    add_line(catalogue, GeometricDecay(version=9, decay=(0.5, 0.6, 0.7)))
    assert entries(catalogue)[-2:] == [line, GeometricDecay(version=9, decay=(0.5, 0.6, 0.7))]
    text = catalogue.read_text()
    assert "    LearnedDecay(version=2, recipe=LEARNED_DECAY_2),\n" in text
    assert max(map(len, text.splitlines())) <= 100
    assigned = [n.value for n in ast.parse(text).body if isinstance(n, ast.AnnAssign)]
    tuple_node = assigned[-1]
    assert all(entry.lineno == entry.end_lineno for entry in tuple_node.elts)  # type: ignore[attr-defined]
    catalogue.write_text("AGGREGATORS = []\n")
    with pytest.raises(InputError, match="expected AGGREGATORS"):
        add_line(catalogue, line)
