"""Training: split by time, the same again with the same seed, killed and resumed, packaged."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from rich.console import Console

from models.backend import keras
from models.layers.build import build
from models.packaging import load, package
from models.spec import GeometricDecay
from models.training.fitting import Step
from models.training.objectives import OBJECTIVES
from models.training.recipe import Recipe
from models.training.train import (
    _phase,
    gather,
    popularity_of,
    train,
    train_on,
)
from operations.fits import fit_until
from operations.ledger import Ledger
from pipelines.fitting import prepare
from pipelines.progress import Stages
from pipelines.training import line_of, train_line
from tests.worlds.taste import RECIPE, START, UNTIL, Taste, taste_world, write_day
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.timestamps import EPOCH

TASTE = Taste(version=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Tests only read it, except for examples and for lines trained under their own version."""
    return taste_world(tmp_path_factory.mktemp("taste"))


def trained_weights(config: Config, line: Taste = TASTE, until: Any = UNTIL) -> list[Any]:
    with connect(config) as con:
        return train(line, config, con, until).model.get_weights()


def assert_equal(ours: list[Any], theirs: list[Any], equal: bool = True) -> None:
    pairs = zip(ours, theirs, strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs) == equal


@pytest.fixture(scope="module")
def weights(world: Config) -> list[Any]:
    """What one training, never interrupted, ends with."""
    return trained_weights(world)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_any_objective_finds_the_tastes(objective: str, world: Config) -> None:
    steps: list[Step] = []
    line = replace(TASTE, recipe=replace(RECIPE, objective=objective, dismissed_weight=0.5))
    with connect(world) as con:
        trained = train(line, world, con, UNTIL, steps.append)
    metric = OBJECTIVES[objective].metric
    first = trained.history["select"][0]
    assert trained.metrics["val_loss"] <= first["val_loss"]
    assert trained.metrics[metric] > (0.6 if metric == "auc" else 0.3)
    assert trained.trained_until == UNTIL
    assert trained.figures["positives"] > 0
    # Progress: the epochs of both phases, each with its loss, the first with a metric.
    chosen = int(trained.metrics["epochs"])
    assert [s.epoch for s in steps if s.phase == "refit"] == list(range(1, chosen + 1))
    assert all({"val_loss", f"val_{metric}"} < s.logs.keys() for s in steps if s.phase == "select")
    # The head is dropped: these are the aggregator's weights alone.
    assert [w.shape for w in trained.model.get_weights()] == [(4, 4), (4,)]


def test_the_same_seed_gives_the_same_weights(world: Config, weights: list[Any]) -> None:
    assert_equal(trained_weights(world), weights)
    other = replace(TASTE, recipe=replace(RECIPE, seed=1))
    assert_equal(trained_weights(world, other), weights, equal=False)


def test_nothing_after_until_is_seen(tmp_path: Path, weights: list[Any]) -> None:
    assert_equal(trained_weights(taste_world(tmp_path, later=5)), weights)
    assert_equal(
        trained_weights(taste_world(tmp_path, later=5), until=UNTIL + timedelta(days=5)),
        weights,
        equal=False,
    )


def test_the_newest_labels_choose_the_pass_and_are_not_trained_on(
    tmp_path: Path, world: Config
) -> None:
    """Other days in the validation period: the losses of training are the same, to the digit."""
    changed = taste_world(tmp_path)
    split = UNTIL - RECIPE.validation
    for day in range(RECIPE.validation.days):
        write_day(changed, split + timedelta(days=day), np.random.default_rng(day + 100))
    losses = []
    for config in (world, changed):
        with connect(config) as con:
            line = replace(TASTE, recipe=replace(RECIPE, epochs=2, refit=False))
            losses.append(train(line, config, con, UNTIL).history["select"])
    for before, after in zip(*losses, strict=True):
        assert before["loss"] == after["loss"]
        assert before["val_loss"] != after["val_loss"]


def test_popularity_is_that_of_the_training_period(world: Config) -> None:
    with connect(world) as con:
        data = gather(TASTE, world, con, UNTIL)
    split = UNTIL - RECIPE.validation
    counts = {
        end: popularity_of(data, world, RECIPE, (EPOCH, end))[0].sum() for end in (split, UNTIL)
    }
    ((before, everything),) = duckdb.sql(
        f"select count(*) filter (where label_timestamp < '{split}'), count(*) "
        f"from '{data.file}' where is_positive"
    ).fetchall()
    assert counts == {split: before, UNTIL: everything}
    assert before < everything


KILLED = """
import os, signal, sys
from pathlib import Path
from models.training.train import train
from tests.worlds.taste import Taste, UNTIL
from tests.worlds.tiny_models import tiny_config
from transformations.duck import connect
phase, epoch = sys.argv[2:]
def watch(step):
    print(step.phase, step.epoch, flush=True)
    if (step.phase, step.epoch) == (phase, int(epoch)):
        os.kill(os.getpid(), signal.SIGKILL)
config = tiny_config(Path(sys.argv[1]), dim=4, length=5)
with connect(config) as con:
    train(Taste(version=1), config, con, UNTIL, watch)
"""

pytestmark = pytest.mark.long


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, weights: list[Any]
) -> None:
    config = taste_world(tmp_path)
    made = []
    for phase, epoch in (("select", "2"), ("refit", "1")):
        command = [sys.executable, "-c", KILLED, str(tmp_path), phase, epoch]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        made += done.stdout.split("\n")[:-1]
    steps: list[Step] = []
    with connect(config) as con:
        resumed = train(TASTE, config, con, UNTIL, steps.append)
    made += [f"{step.phase} {step.epoch}" for step in steps]
    assert_equal(resumed.model.get_weights(), weights)
    assert len(set(made)) == len(made), "an epoch ran twice"
    assert len(resumed.history["select"]) == sum(step.startswith("select") for step in made)
    assert list((config.layout.state / "training").iterdir()) == []


def test_another_line_does_not_go_on_from_a_stopped_one(tmp_path: Path) -> None:
    config = taste_world(tmp_path)

    class StoppedError(Exception):
        pass

    def stop(step: Step) -> None:
        raise StoppedError

    with connect(config) as con, pytest.raises(StoppedError):
        train(TASTE, config, con, UNTIL, stop)
    assert list((config.layout.state / "training").iterdir())
    steps: list[Step] = []
    other = replace(TASTE, recipe=replace(RECIPE, learning_rate=0.01))
    with connect(config) as con:
        train(other, config, con, UNTIL, steps.append)
    assert (steps[0].phase, steps[0].epoch) == ("select", 1)


@pytest.mark.parametrize(
    ("changes", "until", "error", "message"),
    [
        ({}, START, InputError, "expected at least 1 positive labels before 2025-12-24"),
        ({}, UNTIL + timedelta(days=30), InputError, "to validate on .* found no positive one"),
        ({"learning_rate": 1e38}, UNTIL, RunFailedError, "the loss was no longer a number"),
    ],
    ids=["no label to train on", "no label to validate on", "diverged"],
)
def test_what_cannot_be_trained_is_said(
    world: Config, changes: dict[str, Any], until: Any, error: type[Exception], message: str
) -> None:
    line = replace(TASTE, version=9, recipe=replace(RECIPE, **changes))
    with connect(world) as con, pytest.raises(error, match=message):
        train(line, world, con, until)


def test_too_little_to_learn_from_is_refused(world: Config) -> None:
    wanted = world.model_copy(update={"min_positives": 10_000})
    with (
        connect(wanted) as con,
        pytest.raises(
            InputError,
            match=r"at least 10,000 positive labels before 2026-02-02 to train on, on items with a "
            r"vector, got \d+ \(in all \d+, of \d+ members\); .*lower min_positives in activity",
        ),
    ):
        train(replace(TASTE, version=9), wanted, con, UNTIL)


def test_a_formula_has_nothing_to_train(world: Config) -> None:
    with connect(world) as con, pytest.raises(InputError, match="decay_v1 has nothing to train"):
        train(GeometricDecay(version=1, decay=0.8), world, con, UNTIL)


def test_half_precision_ends_in_float32(world: Config) -> None:
    """What a GPU computes in is not what is packaged."""
    with connect(world) as con:
        data = gather(TASTE, world, con, UNTIL)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        fitting, state = _phase(
            TASTE, world, data, "select", (EPOCH, UNTIL - RECIPE.validation), None, None
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert state.history[-1]["val_loss"] < state.history[0]["val_loss"] + 0.1
    whole = build(TASTE, world)
    whole.set_weights(fitting.aggregator.get_weights())
    assert {output.dtype for output in whole.outputs} == {"float32"}
    assert {w.dtype.name for w in whole.get_weights()} == {"float32"}


# As a stage of a run.


def stages(config: Config) -> Stages:
    ledger = Ledger(config)
    console = Console(record=True, width=100, file=StringIO())
    return Stages(console, ledger, ledger.start("train", UNTIL))


def test_a_line_is_trained_packaged_and_registered(tmp_path: Path) -> None:
    config = taste_world(tmp_path)
    with connect(config) as con:
        shown = stages(config)
        folder, registered = train_line(config, con, TASTE, UNTIL, shown)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["trained_until"] == UNTIL.isoformat()
        assert manifest["recipe"]["validation"] == "8d"
        assert manifest["recipe"]["examples"]["min_actions"] == 2
        assert manifest["figures"]["windows"] > 0
        assert manifest["history"]["select"][0]["val_loss"] > 0
        assert registered.uri == "models:/taste/1"
        text = shown.console.export_text()
        assert re.search(r"positive : negative\W+[\d,]+ : [\d,]+", text)
        assert "random negatives per day" in text
        assert re.search(r"epochs, validation loss [\d.]+, recall_at_10 [\d.]+", text)
    assert load(TASTE, config).model_version.startswith("taste_v1/")
    other = replace(TASTE, recipe=replace(RECIPE, learning_rate=0.1))
    with pytest.raises(InputError, match=r'recipe: packaged .*"learning_rate": 0.05.*expected'):
        package(other, config)


def test_a_new_line_is_trained_by_the_daily_run(tmp_path: Path) -> None:
    """On what lies before what is held back, so that the days since can be backfilled."""
    config = taste_world(tmp_path, fit_holdback="10d")
    until, shown = fit_until(config, UNTIL), stages(config)
    formula = GeometricDecay(version=1, decay=0.5)
    assert prepare(config, UNTIL, [formula, TASTE], shown) == [TASTE]
    assert formula.is_packaged(config)
    with connect(config) as con:
        train_line(config, con, TASTE, until, shown)
    assert TASTE.manifest(config)["trained_until"] == (UNTIL - timedelta(days=10)).isoformat()
    assert prepare(config, UNTIL, [formula, TASTE], shown) == []


def test_a_line_is_written_as_in_the_catalogue() -> None:
    assert line_of(TASTE) == "Taste(version=1)"
    line = replace(TASTE, scale=0.5, recipe=Recipe(examples=replace(Recipe().examples, stride=2)))
    assert line_of(line) == (
        "Taste(version=1, recipe=Recipe(examples=ExampleSettings(stride=2)), scale=0.5)"
    )


def test_tuning_leaves_no_trace_of_a_training(world: Config) -> None:
    with connect(world) as con:
        data = gather(TASTE, world, con, UNTIL)
    train_on(replace(TASTE, version=8), world, data, resume=False)
    folder = world.layout.state / "training"
    assert not folder.exists() or not list(folder.glob("taste_v8*"))
