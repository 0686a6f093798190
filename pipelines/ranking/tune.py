"""Better settings for a ranker's line: Optuna, judged on consecutive blocks of time (blocks.py).

Labels and drawn negatives are the same for every trial.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from models.lines import ranker_lines
from models.rankers.lines import BoostedTrees, Linear, WideAndDeep
from models.rankers.spec import Ranker
from models.training.tune import Trial, open_study
from operations.fits import Fits
from pipelines.progress import Stage, Stages
from pipelines.ranking.blocks import BLOCKS, Block, blocks_of
from pipelines.ranking.train import examples_of
from pipelines.terminal import escape
from pipelines.tuning import Rows, plot_trials, say, show_study
from transformations.config import Config
from transformations.errors import InputError

METRIC = "ndcg10"
Choose = Callable[[Any, str], Any]
Line = TypeVar("Line", bound=Ranker)


def _between(low: float, high: float) -> Choose:
    return lambda trial, name: float(f"{trial.suggest_float(name, low, high, log=True):.2g}")


def _whole(low: int, high: int) -> Choose:
    return lambda trial, name: trial.suggest_int(name, low, high, log=True)


def _one_of(*choices: Any) -> Choose:
    return lambda trial, name: trial.suggest_categorical(name, choices)


def _layers(trial: Any, name: str) -> tuple[int, ...]:
    # Optuna keeps texts.
    drawn = trial.suggest_categorical(name, ["32", "64 32", "128 64", "256 128", "128 64 32"])
    return tuple(map(int, drawn.split()))


SPACE: Mapping[type[Ranker], Mapping[str, Choose]] = {
    Linear: {"l2": _between(1e-6, 1.0)},
    BoostedTrees: {
        "trees": _whole(50, 800),
        "leaves": _whole(7, 127),
        "learning_rate": _between(0.01, 0.3),
        "min_rows": _whole(5, 500),
    },
    WideAndDeep: {
        "deep": _layers,
        "dropout": _one_of(0.0, 0.1, 0.2, 0.3, 0.5),
        "weight_decay": _one_of(0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0),
        "learning_rate": _between(3e-4, 3e-2),
        "listwise": _one_of(0.0, 0.3, 1.0, 3.0),
        "embedding_dim": _one_of(4, 8, 16, 32),
    },
}
"""Kind of a line → its settings that are searched, and how Optuna draws each."""


def tune_ranker(
    config: Config,
    line: Line,
    until: datetime,
    stages: Stages,
    trials: int = 20,
    sampler: str = "tpe",
    apply: bool = False,
    seed: int = 0,
) -> Line:
    """Search better settings of a ranker; return the line with the best ones, as a new version.

    Writes `ranker_<name>.csv`, `.md` and `.png` into the folder `tuning` of the data. The study is
    kept there too: called again, it resumes until it has `trials` in all. The line as it is is
    judged first; where no trial is better, its settings are the best ones.

    Args:
        until: No label at or after it is read.
        sampler: tpe or random.
        apply: Write the best into the catalogue.

    Raises:
        InputError: no such sampler, nothing is searched for lines of this kind, or there are too
            few labels.
    """
    import optuna  # 1 second

    if type(line) not in SPACE:
        raise InputError(f"{line} has nothing to tune")
    config = config.in_space(Fits(config).space)
    heads = line.heads(config.rules)
    made_of = f"{line!r} {until.isoformat()} {sampler} {BLOCKS} {seed}"
    study = open_study(config, f"ranker {line.name}", made_of, sampler, seed)
    examples = examples_of(config, line, until, stages, seed)
    blocks = blocks_of(examples, heads)
    done = sum(trial.state.is_finished() for trial in study.trials)
    with stages.stage(f"tune {line.name}", 1 + max(trials - done, 0), "trials") as stage:
        own = _mean([block.value(line, heads, seed) for block in blocks])
        stage.advance(1)

        def attempt(trial: Any) -> float:
            return _judged(trial, suggest(trial, line), heads, blocks, seed, stage, optuna)

        if done < trials:
            study.optimize(attempt, n_trials=trials - done)
        tried = [
            Trial(t.number, t.state.name.lower(), t.value, t.params, len(t.intermediate_values))
            for t in study.trials
        ]
        stage.rows_out = len(tried)
        stage.note = f"trials, before {until:%Y-%m-%d %H:%M} UTC; the line as it is: {own:.4f}"
    best = line
    if any(t.state == "complete" for t in tried) and study.best_value > own:
        best = suggest(optuna.trial.FixedTrial(study.best_params), line)
    else:
        said = f"No trial was better than {line} as it is ({METRIC} {own:.4f})."
        stages.console.print(escape(said), soft_wrap=True)
    stem = config.layout.tuning / f"ranker_{line.name}"
    show_study(stages.console, stem, rows_of(line, own, tried), plot_trials(METRIC, tried))
    if best is line:
        return line
    lines: list[Ranker] = [line, *ranker_lines(config)]
    newest = max(one.version for one in lines if one.name == line.name)
    best = replace(best, version=newest + 1)
    say(stages.console, config.catalogue, best, apply)
    stages.console.print("The first line of RANKERS that is trained serves.", soft_wrap=True)
    return best


def suggest(trial: Any, line: Line) -> Line:
    """Return the line with the settings that an Optuna trial draws.

    What has no network keeps none: it may be a matrix factorization.
    """
    wide_only = isinstance(line, WideAndDeep) and not line.deep
    left_out = {"deep", "dropout"} if wide_only else set()
    space = {name: own for name, own in SPACE[type(line)].items() if name not in left_out}
    return replace(line, **{name: choose(trial, name) for name, choose in space.items()})


def rows_of(line: Ranker, own: float, tried: Sequence[Trial]) -> Rows:
    """Return a row for each trial and one for the line as it is, the best first."""
    names = sorted({name for trial in tried for name in trial.settings})
    kept = {name: getattr(line, name) for name in names}
    if "deep" in kept:
        kept["deep"] = " ".join(map(str, kept["deep"]))
    every = [Trial(-1, "as it is", own, kept, BLOCKS), *tried]
    every.sort(key=lambda t: (t.state not in ("complete", "as it is"), -(t.value or 0.0)))
    return [
        {"trial": t.number if t.number >= 0 else "", "state": t.state, METRIC: t.value}
        | {"blocks": t.epochs}
        | {name: t.settings.get(name) for name in names}
        for t in every
    ]


def _judged(
    trial: Any,
    line: Ranker,
    heads: Mapping[str, float],
    blocks: Sequence[Block],
    seed: int,
    stage: Stage,
    optuna: Any,
) -> float:
    """Return the mean over the blocks; a trial that is worse than the median is stopped."""
    values: list[float] = []
    for block in blocks:
        values.append(block.value(line, heads, seed))
        trial.report(_mean(values), len(values))
        stage.doing = f"trial {trial.number}, block {len(values)}, {METRIC} {_mean(values):.4f}"
        if len(values) < len(blocks) and trial.should_prune():
            stage.advance(1)
            raise optuna.TrialPruned
    stage.advance(1)
    return _mean(values)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
