"""Keras fits an aggregator with an objective's head, epoch by epoch, and survives being killed.

Everything random follows from the seed and the progress: a step's negatives from the optimizer's
count of steps, the order of examples from the epoch. So a killed run that resumes after its last
whole epoch ends with the same weights as one that was not killed.
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
from models.training.objectives import Labels, Objective, Outcome
from models.training.popularity import RecentPopularity
from models.training.recipe import Recipe
from transformations.errors import RunFailedError
from transformations.files import replacing
from transformations.timestamps import DAY_US

ops = keras.ops

# One draw for all of validation, so epochs compare, and recipes with other numbers or kinds of
# training negatives: against uniform ones alone any recipe would look better.
VALIDATION_NEGATIVES = 1_000
VALIDATION_SHARE = 0.5
VALIDATION_SEED = (2_026, 1)


@dataclass(frozen=True)
class Step:
    """Progress of a training.

    Attributes:
        phase: `select` while the number of epochs is chosen, then `refit` on all examples.
        epoch: Epochs done in this phase.
        epochs: Epochs at most.
        logs: Losses and metrics of this epoch: loss, and in `select` val_loss and val_<metric>.
    """

    phase: str
    epoch: int
    epochs: int
    logs: Mapping[str, float]


Progress = Callable[[Step], object]


@dataclass
class State:
    """Losses and metrics of each epoch, and the best weights so far."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best: list[NDArray[Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


class Fitting(keras.Model):
    """An aggregator with the head of an objective, as Keras trains it.

    Batches are those of `models.training.examples.dataset`. The item vectors are not weights: they
    are looked up in `table`, float32 [items + 1, dim], as in serving.
    """

    def __init__(
        self,
        aggregator: Any,
        objective: Objective,
        recipe: Recipe,
        table: NDArray[np.float32],
        popularity: NDArray[np.float32],
        recent: RecentPopularity | None = None,
        candidates: NDArray[np.int32] | None = None,
    ) -> None:
        super().__init__()
        self.aggregator = aggregator
        fields = len(aggregator.outputs)
        self.head = objective.head(recipe, fields, popularity, recent, candidates)
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
        """Return the batch's labels and the head's outcome."""
        rows, actions = batch["rows"], batch["actions"]
        if training and self.blanked:
            masked = tf.random.stateless_uniform((tf.shape(rows)[0], 1), seed + 2) < self.blanked
            rows, actions = tf.where(masked, 0, rows), tf.where(masked, 0, actions)
        vectors = self.aggregator(
            {
                "item_embeddings": tf.gather(self.table, rows),
                "actions": actions,
                "ages": batch["ages"],
                **batch.get("further", {}),
            },
            training=training,
        )
        days = tf.cast(batch["happened_at"] // DAY_US, tf.int32)
        labels = Labels(
            batch["label_rows"], batch["positive"], batch["random"], batch["weight"], days
        )
        stacked = ops.stack(list(vectors.values()), axis=1)
        share = None if training else VALIDATION_SHARE
        return labels, self.head(
            stacked, labels, self.table, negatives=negatives, seed=seed, share=share
        )

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Take one step of the optimizer; return the mean loss of the epoch so far."""
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
        """The metrics that Keras resets in every epoch."""
        return [self.total, self.head.metric]

    def prepare(self, batches: Any) -> None:
        """Create every weight, also the optimizer's, before saved ones are restored."""
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
    """Train until the validation loss has not fallen for `patience` epochs; keep the best weights.

    Args:
        batches: Epoch (0, 1, …) → its tf.data.Dataset, in that epoch's order.
        validation: Batches for early stopping; without them, exactly `epochs` epochs run.
        epochs: Epochs at most; default: the recipe's.
        saved: A file written after each epoch; if it exists, training resumes from it.

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
                f"the loss was no longer a number in epoch {state.epoch + 1}, got {logs}; try a "
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
    progress = asdict(state) | {"best": len(state.best)}
    arrays: dict[str, Any] = {f"now_{i}": np.asarray(v) for i, v in enumerate(_variables(fitting))}
    arrays |= {f"best_{i}": weights for i, weights in enumerate(state.best)}
    with replacing(file) as temporary, temporary.open("wb") as handle:
        np.savez(handle, facts=np.array(json.dumps(progress)), **arrays)


def _restore(fitting: Fitting, file: Path) -> State:
    with np.load(file) as arrays:
        progress = json.loads(str(arrays["facts"]))
        for i, variable in enumerate(_variables(fitting)):
            variable.assign(arrays[f"now_{i}"])
        best = [arrays[f"best_{i}"] for i in range(progress["best"])]
    return State(progress["history"], progress["best_loss"], progress["best_epoch"], best)
