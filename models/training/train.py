"""Training an aggregator: examples split by time, epochs chosen on the newest examples."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.inputs import NOTHING, Inputs, measured
from models.kinds import candidate_rows
from models.layers.build import build
from models.packaging import described
from models.sequences import ItemTable
from models.spec import Aggregator, Learned
from models.training.before import Before
from models.training.examples import dataset, read
from models.training.fitting import Fitting, Progress, State, fit
from models.training.objectives import OBJECTIVES, Objective
from models.training.popularity import RecentPopularity
from models.training.recipe import Recipe
from transformations.config import Config
from transformations.errors import InputError, TooFewError
from transformations.examples import build_training_examples
from transformations.layout import files_between
from transformations.tables import activity_query
from transformations.tasks import Engine
from transformations.timestamps import EPOCH

NEWEST = 0.25
"""At most this share of a buffer chooses the number of epochs."""


@dataclass(frozen=True)
class Data:
    """Training data of one kind of examples; built once, used by any number of aggregators.

    Attributes:
        file: The training examples.
        figures: Figures of the examples, shown before training and kept in the manifest.
        items: The item vectors as of `until`.
        until: All events are before it.
        further: What the line reads beside items, actions and ages, with these events' statistics.
        candidates: Rows of the items that may be predicted, int32; None for all.
        since: Labels are not before it.
        before: The weights that training goes on from; None where it begins from nothing.
    """

    file: Path
    figures: dict[str, Any]
    items: ItemTable
    until: datetime
    further: Inputs = NOTHING
    candidates: NDArray[np.int32] | None = None
    since: datetime = EPOCH
    before: Before | None = None


@dataclass(frozen=True)
class Trained:
    """A trained aggregator, ready for packaging.

    Attributes:
        model: The Keras model, as `models.layers.build.build` makes it; float32, without the head.
        trained_until: All events that influenced the weights are before it.
        metrics: Of the chosen epoch, on the validation period: loss, the objective's metric, and
            the epoch's number.
        history: Losses and metrics per epoch of each phase.
        figures: Figures of the examples.
        head: Weights of the objective's head, which a training that goes on from this one begins
            with: name → number or list.
    """

    model: Any
    trained_until: datetime
    metrics: dict[str, float]
    history: dict[str, list[dict[str, float]]]
    figures: dict[str, Any]
    head: dict[str, Any] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """Return what the manifest keeps besides the metrics."""
        return {
            "figures": self.figures,
            "history": self.history,
            **({"head": self.head} if self.head else {}),
        }


def train(
    aggregator: Aggregator,
    config: Config,
    con: duckdb.DuckDBPyConnection,
    until: datetime,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Trained:
    """Train a line of the catalogue on the activity before `until`.

    The same seed on the same machine gives the same weights, even after a kill: called again with
    the same line and `until`, training resumes after its last whole epoch.

    Args:
        engine: Who builds the examples of buckets; the weights are trained here.

    Raises:
        InputError: the line has no recipe, or there is too little to train or to validate on.
        RunFailedError: the loss is no longer a number.
    """
    data = gather(aggregator, config, con, until, engine=engine)
    return train_on(aggregator, config, data, progress)


def gather(
    aggregator: Aggregator,
    config: Config,
    con: duckdb.DuckDBPyConnection,
    until: datetime,
    since: datetime | None = None,
    before: Before | None = None,
    engine: Engine | None = None,
) -> Data:
    """Build the training examples of a line's recipe, and read the item vectors as of `until`.

    Args:
        since: Labels before it are left out.
        before: The weights that training goes on from.
        engine: Who builds the examples of buckets; default: this connection.

    Raises:
        InputError: the line has no recipe, or there is no item vector.
    """
    recipe = recipe_of(aggregator)
    settings = replace(recipe.examples, labels=_objective(recipe).labels)
    predicts = aggregator.predicts if isinstance(aggregator, Learned) else ()
    report = build_training_examples(config, con, settings, until, since, predicts, engine)
    items = ItemTable.read(config, con, until)
    activity = activity_query(config, con, files_between(config.layout.activity, EPOCH, until))
    # Isoformat: a parameter would have to travel through both queries.
    seen = (
        f"select * from ({activity}) where event_timestamp < timestamptz '{until.isoformat()}' "
        f"and coalesce(ingested_at < timestamptz '{until.isoformat()}', true)"
    )
    further = before.further if before else measured(aggregator, config, con, seen)
    candidates = candidate_rows(config, con, items, predicts)
    figures = report.figures()
    return Data(report.file, figures, items, until, further, candidates, since or EPOCH, before)


def train_on(
    aggregator: Aggregator,
    config: Config,
    data: Data,
    progress: Progress | None = None,
    resume: bool = True,
) -> Trained:
    """Train a line of the catalogue on existing examples.

    The number of epochs is the one with the lowest validation loss, on the examples of the last
    `recipe.validation` before `until`. With `refit`, training then starts again from the first
    weights and runs that many epochs on all examples.

    Args:
        resume: Save each epoch, and resume if an earlier call was killed.

    Raises:
        InputError: there is too little to train or to validate on.
        RunFailedError: the loss is no longer a number.
    """
    recipe = recipe_of(aggregator)
    validation = recipe.validation
    if data.before is not None:  # a buffer may be shorter than the recipe's validation
        validation = min(validation, (data.until - data.since) * NEWEST)
    split = data.until - validation
    saved = _saved(aggregator, config, data) if resume else None
    with _precision():
        between = (data.since, split)
        fitting, chosen = _phase(aggregator, config, data, "select", between, saved, progress)
        history = {"select": chosen.history}
        if recipe.refit:
            fitting, again = _phase(
                aggregator,
                config,
                data,
                "refit",
                (data.since, data.until),
                saved,
                progress,
                epochs=chosen.best_epoch,
            )
            history["refit"] = again.history
    whole = build(aggregator, config, data.further)
    whole.set_weights(fitting.aggregator.get_weights())
    if saved is not None:
        for file in saved.parent.glob(f"{saved.stem}.*"):
            file.unlink()
    best = chosen.history[chosen.best_epoch - 1]
    metric = _objective(recipe).metric
    return Trained(
        model=whole,
        # Even without `refit`, validation data influenced the weights: it chose the epoch.
        trained_until=data.until,
        metrics={
            "val_loss": best["val_loss"],
            metric: best[f"val_{metric}"],
            "epochs": chosen.best_epoch,
        },
        history=history,
        figures=data.figures,
        head={w.name: np.asarray(w).tolist() for w in fitting.head.trainable_weights},
    )


def recipe_of(aggregator: Aggregator) -> Recipe:
    """Return how a line is trained.

    Raises:
        InputError: it is a formula or was made elsewhere, so there is nothing to train.
    """
    if not isinstance(aggregator, Learned):
        raise InputError(
            f"{aggregator} has nothing to train: expected a line of the catalogue "
            f"with a recipe, such as LearnedDecay(version=1)"
        )
    return aggregator.recipe


def _objective(recipe: Recipe) -> Objective:
    return OBJECTIVES[recipe.objective]


def _phase(
    aggregator: Aggregator,
    config: Config,
    data: Data,
    phase: str,
    between: tuple[datetime, datetime],
    saved: Path | None,
    progress: Progress | None,
    epochs: int | None = None,
) -> tuple[Fitting, State]:
    """Train from the first weights, or those of before, on the labels in `between`.

    It is validated on those after them.
    """
    recipe = recipe_of(aggregator)
    objective = _objective(recipe)
    popularity, steps = popularity_of(data, config, recipe, between)
    keras.utils.set_random_seed(recipe.seed)
    model = build(aggregator, config, data.further)
    for layer in model.layers:
        # Half precision would lose the minutes of ages; layers that multiply matrices cast inside.
        layer.autocast = False
    recent = _recent(data, config)
    fitting = Fitting(
        model, objective, recipe, data.items.vectors, popularity, recent, data.candidates
    )
    if data.before is not None:
        data.before.give(model, fitting.head)
    after = (between[1], data.until)
    validation = None
    if epochs is None:
        validation = _validation(data, config, recipe, after)
    state = fit(
        fitting,
        # Keras warns where it does not know the number of batches.
        lambda epoch: epoch_batches(
            data, config, recipe, between, seed=1_000 * recipe.seed + epoch
        ).apply(tf.data.experimental.assert_cardinality(steps)),
        recipe,
        phase,
        validation=validation,
        epochs=epochs,
        saved=saved.with_name(f"{saved.name}.{phase}.npz") if saved is not None else None,
        progress=progress,
    )
    return fitting, state


def epoch_batches(
    data: Data, config: Config, recipe: Recipe, between: tuple[datetime, datetime], seed: int
) -> Any:
    """Return one epoch's batches of the examples between two timestamps, as a tf.data.Dataset."""
    objective = _objective(recipe)
    return dataset(
        data.file,
        data.items,
        config,
        batch_size=recipe.batch_size,
        seed=seed,
        between=between,
        only_positive=not (objective.reads_random or recipe.dismissed_weight),
        with_random=objective.reads_random,
        further=data.further,
    )


def popularity_of(
    data: Data, config: Config, recipe: Recipe, between: tuple[datetime, datetime]
) -> tuple[NDArray[np.float32], int]:
    """Return how often each item is a positive label, float32 [items + 1], and how many batches.

    Raises:
        TooFewError: there are fewer positive labels than `min_positives`.
    """
    counts, steps = np.zeros(len(data.items.vectors), np.int64), 0
    for batch in epoch_batches(data, config, recipe, between, seed=0).as_numpy_iterator():
        counts += np.bincount(batch["label_rows"][batch["positive"]], minlength=len(counts))
        steps += 1
    if counts.sum() < config.min_positives:
        raise TooFewError(
            f"expected at least {config.min_positives:,} positive labels before "
            f"{between[1]:%Y-%m-%d} to train on, on items with a vector, got {counts.sum():,} (in "
            f"all {data.figures['positives']:,}, of {data.figures['members']:,} members); choose a "
            "later --until, or a recipe with fewer min_actions or a shorter validation; leave the "
            f"line out of the catalogue; or lower min_positives in {config.file.name}, if so few "
            "are enough for you"
        )
    return counts.astype(np.float32), steps


def _recent(data: Data, config: Config) -> RecentPopularity | None:
    """Return how popular items were before each day, from the labels of all days."""
    examples = read(data.file, data.items, config)
    done = examples.positive & ~examples.random
    if not done.any():
        return None
    items = len(data.items)
    return RecentPopularity.count(examples.label_rows[done], examples.happened_at[done], items)


def _validation(
    data: Data, config: Config, recipe: Recipe, after: tuple[datetime, datetime]
) -> Any:
    """Return the batches for early stopping, kept in memory."""
    batches = epoch_batches(data, config, recipe, after, seed=0).cache()
    seen, steps = set(), 0
    for batch in batches.as_numpy_iterator():
        seen |= {bool(positive) for positive in batch["positive"]}
        steps += 1
    needed = {True, False} if _objective(recipe).reads_random else {True}
    if not needed <= seen:
        kinds = " and ".join("positive" if kind else "negative" for kind in sorted(needed - seen))
        raise InputError(
            f"expected labels from {after[0]:%Y-%m-%d} to {after[1]:%Y-%m-%d} to validate on "
            f"(recipe.validation is {recipe.validation.days} days), found no {kinds} one; choose "
            "another --until or a longer validation"
        )
    return batches.apply(tf.data.experimental.assert_cardinality(steps))


@contextmanager
def _precision() -> Iterator[None]:
    """Compute in bfloat16 on a GPU; the weights stay float32."""
    before = keras.config.dtype_policy()
    if tf.config.list_physical_devices("GPU"):
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _saved(aggregator: Aggregator, config: Config, data: Data) -> Path:
    """Name the files of an unfinished training; another line, time or data has other files."""
    inputs: Mapping[str, Any] = {
        "kind": aggregator.kind,
        "parameters": aggregator.parameters(),
        "recipe": described(recipe_of(aggregator)),
        "settings": [config.dim, config.length, list(config.actions)],
        "until": data.until.isoformat(),
        "reads": aggregator.reads,
        "further": repr(data.further),
        "figures": data.figures,
        "items": hashlib.sha256(data.items.vectors.tobytes()).hexdigest(),
        "before": data.before.digest() if data.before else "",
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
    return config.layout.state / "training" / f"{aggregator}.{digest[:16]}"
