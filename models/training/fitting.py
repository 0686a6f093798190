"""Keras fits an aggregator with an objective's head, pass by pass, and survives being killed.

Everything random is a function of the seed and of how far training is: the negatives of a step of
the optimizer's own count, the order of the examples of the pass. So a run that was killed and goes
on from its last whole pass ends with the weights of one that was not.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import keras, tf
from models.sequences import DAY
from models.training.objectives import Labels, Objective, Outcome
from models.training.popularity import RecentPopularity
from models.training.recipe import Recipe
from transformations.errors import RunFailedError
from transformations.files import replacing

ops = keras.ops

# Drawn once for all of validation, so that one pass compares with another, and one number or kind
# of training negatives with another: against uniform ones alone any recipe would look better.
VALIDATION_NEGATIVES = 1_000
VALIDATION_SHARE = 0.5
VALIDATION_SEED = (2_026, 1)


@dataclass(frozen=True)
class Step:
    """How far training is, for who watches it.

    Attributes:
        phase: `select` while the number of passes is chosen, `refit` on all examples afterwards.
        epoch: Passes done in this phase.
        epochs: Passes at most.
        logs: Losses and metrics of this pass: loss, and in `select` val_loss and val_<metric>.
    """

    phase: str
    epoch: int
    epochs: int
    logs: Mapping[str, float]


Progress = Callable[[Step], object]


@dataclass
class State:
    """What was reached: losses and metrics pass by pass, and the best weights so far."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best: list[NDArray[Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Passes done."""
        return len(self.history)


class Fitting(keras.Model):
    """An aggregator with the head of an objective, as Keras trains it.

    Batches are dicts as `models.training.examples.dataset` gives them. The item vectors are not
    weights: they are looked up in `table`, float32 [items + 1, dim], as serving does.
    """

    def __init__(
        self,
        aggregator: Any,
        objective: Objective,
        recipe: Recipe,
        table: NDArray[np.float32],
        popularity: NDArray[np.float32],
        recent: RecentPopularity | None = None,
    ) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.head = objective.head(recipe, len(aggregator.outputs), popularity, recent)
        self.negatives = recipe.negatives
        self.blanked = recipe.blanked
        self.seed = recipe.seed
        self.table = tf.constant(table)
        self.total = keras.metrics.Mean(name="loss")
        self.compile(
            optimizer=keras.optimizers.Adam(
                recipe.learning_rate, weight_decay=recipe.weight_decay or None
            ),
            jit_compile=False,
        )

    def outcome(self, batch: Mapping[str, Any], negatives: int, seed: Any, training: bool) -> Any:
        """Return the batch's labels and what the head makes of them."""
        rows, actions = batch["rows"], batch["actions"]
        if training and self.blanked:
            blank = tf.random.stateless_uniform((tf.shape(rows)[0], 1), seed + 2) < self.blanked
            rows, actions = tf.where(blank, 0, rows), tf.where(blank, 0, actions)
        vectors = self.aggregator(
            {
                "item_embeddings": tf.gather(self.table, rows),
                "actions": actions,
                "ages": batch["ages"],
            },
            training=training,
        )
        days = tf.cast(batch["happened_at"] // DAY, tf.int32)
        labels = Labels(
            batch["label_rows"], batch["positive"], batch["random"], batch["weight"], days
        )
        stacked = ops.stack(list(vectors.values()), axis=1)
        share = None if training else VALIDATION_SHARE
        return labels, self.head(
            stacked, labels, self.table, negatives=negatives, seed=seed, share=share
        )

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Take one step of the optimizer; return the mean loss of the pass so far."""
        seed = tf.stack([tf.constant(self.seed), tf.cast(self.optimizer.iterations, tf.int32)])
        with tf.GradientTape() as tape:
            _, outcome = self.outcome(batch, self.negatives, seed, training=True)
            loss = _mean(outcome)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.total.update_state(outcome.loss, outcome.weight)
        return {"loss": self.total.result()}

    def test_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean loss and the metric so far, against the same negatives every time."""
        seed = tf.constant(VALIDATION_SEED)
        labels, outcome = self.outcome(batch, VALIDATION_NEGATIVES, seed, training=False)
        self.total.update_state(outcome.loss, outcome.weight)
        self.head.measure(labels, outcome)
        metric = self.head.metric
        return {"loss": self.total.result(), metric.name: metric.result()}

    @property
    def metrics(self) -> list[Any]:
        """The metrics that start anew with every pass."""
        return [self.total, self.head.metric]

    def prepare(self, batches: Any) -> None:
        """Create every weight, also the optimizer's, so that saved ones have a place."""
        for batch in batches.take(1):
            self.outcome(batch, 1, tf.constant(VALIDATION_SEED), training=False)
        self.built = True
        self.optimizer.build(self.trainable_weights)


def fit(
    fitting: Fitting,
    batches: Callable[[int], Any],
    recipe: Recipe,
    phase: str,
    validation: Any = None,
    epochs: int | None = None,
    saved: Path | None = None,
    progress: Progress | None = None,
) -> State:
    """Train until the validation loss has not fallen for `patience` passes; keep the best weights.

    Args:
        batches: Pass (0, 1, …) → its tf.data.Dataset, in that pass's order.
        validation: Batches to stop by; without them, exactly `epochs` passes are made.
        epochs: At most so many passes; default: the recipe's.
        saved: A file that is written after each pass; where it exists, training goes on from it.

    Raises:
        RunFailedError: the loss is no longer a number.
    """
    epochs = epochs or recipe.epochs
    fitting.prepare(batches(0))
    state = _restore(fitting, saved) if saved is not None and saved.exists() else State()
    while state.epoch < epochs and (
        validation is None or state.epoch - state.best_epoch < recipe.patience
    ):
        result = fitting.fit(
            batches(state.epoch), validation_data=validation, shuffle=False, verbose=0
        )
        logs = {name: float(values[-1]) for name, values in result.history.items()}
        if not all(map(math.isfinite, logs.values())):
            raise RunFailedError(
                f"the loss was no longer a number in pass {state.epoch + 1}, got {logs}; try a "
                f"lower learning_rate than {recipe.learning_rate}"
            )
        state.history.append(logs)
        if validation is None or logs["val_loss"] < state.best_loss:
            state.best_loss = logs.get("val_loss", math.inf)
            state.best_epoch = state.epoch
            state.best = fitting.get_weights()
        if saved is not None:
            _save(fitting, state, saved)
        if progress is not None:
            progress(Step(phase, state.epoch, epochs, logs))
    fitting.set_weights(state.best)
    return state


def _mean(outcome: Outcome) -> Any:
    total = ops.sum(outcome.weight)
    return ops.sum(outcome.loss * outcome.weight) / ops.maximum(total, 1e-6)


def _variables(fitting: Fitting) -> list[Any]:
    return [*fitting.variables, *fitting.optimizer.variables]


def _save(fitting: Fitting, state: State, file: Path) -> None:
    facts = asdict(state) | {"best": len(state.best)}
    arrays: dict[str, Any] = {f"now_{i}": np.asarray(v) for i, v in enumerate(_variables(fitting))}
    arrays |= {f"best_{i}": weights for i, weights in enumerate(state.best)}
    with replacing(file) as temporary, temporary.open("wb") as handle:
        np.savez(handle, facts=np.array(json.dumps(facts)), **arrays)


def _restore(fitting: Fitting, file: Path) -> State:
    with np.load(file) as arrays:
        facts = json.loads(str(arrays["facts"]))
        for i, variable in enumerate(_variables(fitting)):
            variable.assign(arrays[f"now_{i}"])
        best = [arrays[f"best_{i}"] for i in range(facts["best"])]
    return State(facts["history"], facts["best_loss"], facts["best_epoch"], best)
