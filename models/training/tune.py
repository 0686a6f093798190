"""Better settings for learned lines: Optuna trains with other settings and keeps the study.

Nothing at or after `until` is read, so an evaluation's test period stays unseen if it begins there.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import duckdb

from models.spec import Learned
from models.training.fitting import VALIDATION_NEGATIVES, VALIDATION_SHARE, Step
from models.training.objectives import OBJECTIVES
from models.training.train import gather, train_on
from transformations.config import Config
from transformations.errors import InputError

Choose = Callable[[Any], Any]

# Recipe's setting → how Optuna draws it. Not dismissed_weight, which trades the validation metric
# for something that it does not measure; an evaluation does.
SPACE: Mapping[str, Choose] = {
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 3e-4, 3e-2, log=True),
    "weight_decay": lambda trial: trial.suggest_categorical(
        "weight_decay", [0.0, 1e-4, 1e-3, 1e-2]
    ),
    "batch_size": lambda trial: trial.suggest_categorical("batch_size", [256, 512, 1024]),
    "negatives": lambda trial: trial.suggest_categorical("negatives", [128, 256, 512, 1024]),
    "popular_share": lambda trial: trial.suggest_float("popular_share", 0.0, 1.0, step=0.25),
    "temperature": lambda trial: trial.suggest_float("temperature", 0.05, 2.0, log=True),
}


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        state: complete, pruned (the median of earlier ones was better) or fail (no valid line).
        value: The objective's metric on validation; of a pruned one, when it was stopped.
        settings: The drawn settings; the layer's own as layer_<name>.
        epochs: Epochs that ran.
    """

    number: int
    state: str
    value: float | None
    settings: dict[str, Any]
    epochs: int


@dataclass(frozen=True)
class Study:
    """The result of a study.

    Attributes:
        metric: What was maximized: the objective's metric on the validation period.
        trials: In the order in which they ran, those of earlier calls included.
        best: The line of the catalogue with the best settings, its version raised by one.
    """

    metric: str
    trials: list[Trial]
    best: Learned


def tune(
    aggregator: Learned,
    config: Config,
    con: duckdb.DuckDBPyConnection,
    until: datetime,
    trials: int = 20,
    sampler: str = "tpe",
    progress: Callable[[int, Step], object] | None = None,
) -> Study:
    """Train with other settings; return the study and what was best on the validation period.

    Optuna's tree-structured Parzen estimator (Bergstra et al., 2011) or random search (Bergstra &
    Bengio, 2012) draws the recipe's settings of SPACE that the objective reads, and the layer's
    own: booleans, and whole numbers from half to double. A training that is worse after an epoch
    than the median of earlier ones at that epoch is stopped. The study is kept in SQLite: called
    again, it resumes until it has `trials` in all.

    Args:
        sampler: tpe or random.
        progress: Called after each epoch with the trial's number.

    Raises:
        InputError: there is nothing to train on, or no such sampler.
    """
    import optuna  # 1 second

    data = gather(aggregator, config, con, until)
    metric = OBJECTIVES[aggregator.recipe.objective].metric
    # Another line, time or validation is another study.
    yardstick = f"{VALIDATION_NEGATIVES} {VALIDATION_SHARE}"
    made_of = f"{aggregator!r} {data.until.isoformat()} {sampler} {yardstick}"
    study = open_study(config, aggregator.name, made_of, sampler, aggregator.recipe.seed)

    def attempt(trial: Any) -> float:
        line = suggest(trial, aggregator)

        def watch(step: Step) -> None:
            trial.report(step.logs[f"val_{metric}"], step.epoch)
            trial.set_user_attr("epochs", step.epoch)
            if progress is not None:
                progress(trial.number, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        return train_on(line, config, data, watch, resume=False).metrics[metric]

    done = [trial for trial in study.trials if trial.state.is_finished()]
    if len(done) < trials:
        # A layer may refuse a setting, which fails the trial, not the study.
        study.optimize(attempt, n_trials=trials - len(done), catch=(InputError,))
    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        raise InputError(f"none of the {trials} trainings of {aggregator.name} finished")
    best = suggest(optuna.trial.FixedTrial(study.best_params), aggregator)
    return Study(
        metric=metric,
        trials=[
            Trial(t.number, t.state.name.lower(), t.value, t.params, t.user_attrs.get("epochs", 0))
            for t in study.trials
        ],
        best=replace(
            best,
            version=aggregator.version + 1,
            recipe=replace(best.recipe, refit=aggregator.recipe.refit),
        ),
    )


def suggest(trial: Any, aggregator: Learned) -> Learned:
    """Return the line with the settings that an Optuna trial draws, without refit."""
    objective = OBJECTIVES[aggregator.recipe.objective]
    others = {name for row in OBJECTIVES.values() for name in row.settings} - {*objective.settings}
    drawn = {name: choose(trial) for name, choose in SPACE.items() if name not in others}
    layer = {
        name: trial.suggest_categorical(f"layer_{name}", choices)
        for name, choices in _choices(aggregator)
    }
    rounded: dict[str, Any] = {
        n: float(f"{v:.2g}") if isinstance(v, float) else v for n, v in drawn.items()
    }
    return replace(aggregator, recipe=replace(aggregator.recipe, refit=False, **rounded), **layer)


def _choices(aggregator: Learned) -> Iterator[tuple[str, list[Any]]]:
    for name, value in aggregator.parameters().items():
        if isinstance(value, bool):
            yield name, [False, True]
        elif isinstance(value, int) and value > 0:
            yield name, sorted({max(1, value // 2), value, 2 * value})


def open_study(config: Config, name: str, made_of: str, sampler: str, seed: int) -> Any:
    """Return the Optuna study of a line, as far as earlier calls have brought it.

    Args:
        name: The beginning of its name.
        made_of: What it depends on: with another text it is another study.
        sampler: tpe or random.

    Raises:
        InputError: no such sampler.
    """
    import optuna  # 1 second

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    if sampler not in samplers:
        raise InputError(f"expected a sampler among {', '.join(samplers)}, got {sampler!r}")
    folder = config.layout.tuning
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{name} {hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    storage = f"sqlite:///{folder / 'studies.db'}"
    if name in optuna.get_all_study_names(storage):
        seed += len(optuna.load_study(study_name=name, storage=storage).trials)
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=samplers[sampler](seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        direction="maximize",
        load_if_exists=True,
    )
