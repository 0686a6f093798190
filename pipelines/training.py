"""Training as stages: figures of the data, epochs with loss and metric, SavedModel, registry."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection as Connection
from rich.console import Console

from models.packaging import package
from models.rankers.spec import Ranker
from models.registry import Registered, register
from models.spec import Aggregator, Learned
from models.training.before import Before
from models.training.fitting import Step
from models.training.objectives import OBJECTIVES
from models.training.recipe import Recipe
from models.training.train import Trained, gather, train_on
from models.training.with_space import trained_with_space
from operations.fits import LINE
from pipelines.engine import engine_of
from pipelines.incremental import Begun, begin_line, note
from pipelines.progress import Stage, Stages, number
from pipelines.terminal import PlainTable
from transformations.config import Config
from transformations.errors import TooFewError
from transformations.example_settings import ExampleSettings


def train_line(
    config: Config, con: Connection, aggregator: Learned, until: datetime, stages: Stages
) -> tuple[Path, Registered]:
    """Train a line of the catalogue, package it, register it; return its folder and version.

    Args:
        aggregator: As the fit that is to be made; it is not packaged yet. It goes on from the fit
            before it where `train` of activity.yaml says so, that can be opened, and its buffer
            holds enough.

    Raises:
        InputError: there is nothing to train on.
        RunFailedError: the training went wrong.
    """
    config, name = aggregator.config_of(config), str(aggregator)
    begun: Begun[Before] = Begun((LINE, aggregator.name, aggregator.version, aggregator.fit))
    trained = trained_with_space(aggregator, config)
    if trained is None:
        begun, trained = _begun(config, con, aggregator, until, stages)
    with stages.stage("package") as stage:
        until, metrics = trained.trained_until, trained.metrics
        notes = trained.notes() | begun.notes()
        folder = package(aggregator, config, trained.model, until, metrics, notes)
        stage.note = name
    with stages.stage("register") as stage:
        registered = register(folder, config)
        stage.note = f"{registered.uri}"
    return folder, registered


def _begun(
    config: Config, con: Connection, aggregator: Learned, until: datetime, stages: Stages
) -> tuple[Begun[Before], Trained]:
    """Train a line from where its fit begins; where a buffer holds too little, in full."""
    begun = begin_line(config, aggregator, until)
    if begun.parent is not None:
        note(config, begun, stages)
        try:
            return begun, _train(config, con, aggregator, until, stages, begun)
        except TooFewError as error:
            begun = begun.in_full(f"its buffer holds too little: {error}")
    note(config, begun, stages)
    return begun, _train(config, con, aggregator, until, stages, begun)


def _train(
    config: Config,
    con: Connection,
    aggregator: Learned,
    until: datetime,
    stages: Stages,
    begun: Begun[Before],
) -> Trained:
    """Gather the examples and fit the weights, shown as two stages."""
    name = str(aggregator)
    with stages.stage("training_examples") as stage:
        stage.doing = f"of {name}"
        data = gather(aggregator, config, con, until, begun.since, begun.parent, engine_of(config))
        stage.rows_out = data.figures["examples"]
        stage.note = f"before {until:%Y-%m-%d %H:%M} UTC, for {name}"
    show_figures(stages.console, data.figures)
    with stages.stage("train", total=aggregator.recipe.epochs, unit="epochs") as stage:
        stage.doing = name
        trained = train_on(aggregator, config, data, lambda step: show_step(stage, name, step))
        stage.rows_in, stage.note = data.figures["examples"], summary(aggregator, trained)
    return trained


def trains(aggregator: Aggregator, config: Config) -> bool:
    """Whether a line has weights that are not trained yet."""
    return isinstance(aggregator, Learned) and not aggregator.is_packaged(config)


def show_figures(console: Console, figures: Mapping[str, Any]) -> None:
    """Print the figures of the examples."""
    lengths = {int(length): count for length, count in figures["sequence_lengths"].items()}
    table = PlainTable(title="Training examples", title_justify="left", show_header=False)
    table.add_column("figure", style="dim")
    table.add_column("value", justify="right")
    rows = [
        ("positive : negative", _ratio(figures["positives"], figures["negatives"])),
        ("random negatives", number(figures["random_negatives"])),
        ("random negatives per day", f"{figures['random_negatives_a_day']:,.1f}"),
        ("share of them acted on", f"{figures['random_negatives_acted_on']:.1%}"),
        ("members", number(figures["members"])),
        ("members with too few actions", number(figures["members_dropped"])),
        ("windows", number(figures["windows"])),
        ("windows per member, mean", f"{figures['windows_a_member']:.1f}"),
        ("windows per member, most", number(figures["windows_a_member_most"])),
        ("actions per window: 10% / 50% / 90%", " / ".join(map(str, _quantiles(lengths)))),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)


def summary(aggregator: Learned, trained: Trained) -> str:
    """Say in one line what it learned from, and how good the chosen epoch was on validation."""
    if "space" in trained.figures:
        return f"trained with {trained.figures['space']}, on {trained.figures['labels']:,} labels"
    metric, figures = OBJECTIVES[aggregator.recipe.objective].metric, trained.figures
    return (
        f"{figures['positives']:,} positives of {figures['members']:,} members, "
        f"{trained.metrics['epochs']:.0f} epochs, validation loss "
        f"{trained.metrics['val_loss']:.4f}, {metric} {trained.metrics[metric]:.4f}"
    )


def line_of(line: Aggregator | Ranker | Recipe | ExampleSettings) -> str:
    """Write a line, or the recipe of one, as in the catalogue, without defaults.

    >>> from models.spec import GeometricDecay
    >>> line_of(GeometricDecay(version=2, decay=0.5))
    'GeometricDecay(version=2, decay=0.5)'
    """
    given = []
    for f in fields(line):
        if not f.init:
            continue  # a fit is not part of the definition
        value = getattr(line, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if value != default:
            nested = isinstance(value, Recipe | ExampleSettings)
            given.append(f"{f.name}={line_of(value) if nested else repr_of(value)}")
    return f"{type(line).__name__}({', '.join(given)})"


def repr_of(value: object) -> str:
    """Write a setting as in the catalogue, which imports `timedelta` by name."""
    return repr(value).replace("datetime.timedelta", "timedelta")


def show_step(stage: Stage, name: str, step: Step) -> None:
    """Show an epoch that is done: of which line, in which phase, its losses and metrics."""
    stage.update(step.epoch, step.epochs, f"{name}, {step.phase}, {figures_of(step)}")


def figures_of(step: Step) -> str:
    """Write an epoch's losses and metrics."""
    return ", ".join(f"{key} {value:.4f}" for key, value in step.logs.items())


def _ratio(positives: int, negatives: int) -> str:
    total = positives + negatives
    if not total:
        return "none"
    share = 100 * positives / total
    return f"{number(positives)} : {number(negatives)} ({share:.0f} : {100 - share:.0f})"


def _quantiles(lengths: Mapping[int, int], at: Sequence[float] = (0.1, 0.5, 0.9)) -> list[int]:
    """Return the lengths at these quantiles of the windows."""
    total, seen = sum(lengths.values()), 0
    quantiles: list[int] = []
    for length in sorted(lengths):
        seen += lengths[length]
        while len(quantiles) < len(at) and seen >= at[len(quantiles)] * total:
            quantiles.append(length)
    return quantiles
