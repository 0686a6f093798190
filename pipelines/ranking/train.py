"""Fitting a ranker: what was readable at each label's time, drawn negatives, a package."""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.evaluation.metrics import auc
from models.lines import candidate_lines, ranker_lines
from models.rankers.columns import ranker_columns
from models.rankers.inputs import Floats, Labelled
from models.rankers.item_categories import items_known, read_categories
from models.rankers.labels import gains, sizes, starts
from models.rankers.package import package
from models.rankers.protocol import FittedRanker
from models.rankers.reading import Needs
from models.rankers.spec import Ranker
from models.spec import Aggregator
from operations.drift import pauses_fitting
from operations.fits import Fits, made_lines, seen_until
from operations.rankers import made_fits, next_fit, note_made
from pipelines.drift.watch import say_paused
from pipelines.incremental import Begun, begin_ranker, days_of, note
from pipelines.progress import Stages
from pipelines.ranking.dataset import Known
from pipelines.ranking.labels import Labels, label_weights, read_labels
from pipelines.ranking.shown import Shown, shown_labels
from pipelines.terminal import escape
from serving import publish
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, TooFewError
from transformations.layout import earliest, partition_files
from transformations.timestamps import timestamp_of

VALIDATION = 0.15
"""The newest share of the labels, for early stopping and the figures."""
LEAST = 50
"""Positive labels without which nothing is fitted."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Pairs for a ranker, from labels before a timestamp.

    Attributes:
        key: What they depend on: rankers that agree in it share them.
        times: Of the labels, in order: microseconds since 1970, int64. A group of the training
            pairs is the number of its label, one of the validation's counts on from `border`.
        members: Of the labels, ids.
        weights: What pairs count by beside the label's weight, in words.
    """

    key: Hashable
    needs: Needs
    times: NDArray[np.int64]
    members: NDArray[Any]
    train: Labelled
    validation: Labelled
    weights: str = "none, since they were not shown"

    @property
    def validated_since(self) -> datetime:
        """The time of the first label of the validation."""
        return timestamp_of(int(self.times[border_of(self.times, 1 - VALIDATION)]))


def train_ranker(
    config: Config,
    line: Ranker,
    until: datetime,
    stages: Stages,
    seed: int = 0,
    made: Examples | None = None,
) -> tuple[Ranker, Path, Examples]:
    """Fit a ranker to labels before a timestamp, package it, and note its fit.

    Args:
        made: Examples of another line, which are used where they are what this one needs.

    It goes on from the fit before it where `train` of activity.yaml says so, that can be opened,
    and its buffer holds enough.

    Returns:
        The fit, its folder, and the examples.

    Raises:
        InputError: an aggregator that it reads is not made, or there are too few labels.
    """
    line, config = next_fit(config, line), config.in_space(Fits(config).space)
    begun, examples = _begun(config, line, until, stages, seed, made)
    train, validation, heads = examples.train, examples.validation, line.heads(config.rules)
    note(config, begun, stages)
    with stages.stage(f"train {line}") as stage:
        code: type[FittedRanker] = line.fitted_class()
        if begun.parent is None:
            fitted = code.fit(line, heads, train, validation, seed)
        else:
            fitted = begun.parent.go_on(train, validation, seed)
        metrics = judged(fitted, validation, heads)
        stage.rows_in, stage.note = len(train), say(metrics)
    needs = examples.needs
    notes = {
        "needs": needs.noted(),
        "fits": {one.line: {"view": one.view, "space": one.space} for one in needs.vectors},
        "candidates": list(needs.sources),
        "trained_until": until.isoformat(),
        # From here on labels only said when to stop: a gate may judge by them.
        "validated_since": examples.validated_since.isoformat(),
        "labels": len(examples.times),
        "pair_weights": examples.weights,
        "metrics": metrics,
        "importance": dict(fitted.importance()),
        **begun.notes(),
    }
    with stages.stage("package") as stage:
        folder = package(line, heads, config, fitted, notes)
        note_made(config, line)
        stage.note = str(line)
    with stages.stage("feast apply") as stage:
        stage.note = f"{publish.apply(config, publish.open_store(config))} objects"
    return line, folder, examples


def _begun(
    config: Config, line: Ranker, until: datetime, stages: Stages, seed: int, made: Examples | None
) -> tuple[Begun[Any], Examples]:
    """Return where a fit begins, and what it learns from."""
    needs, _ = needs_of(config, line)
    begun = begin_ranker(config, line, needs.vectors, until)
    if begun.parent is not None:
        days = days_of(begun, until, line.days)
        try:
            newest = replace(line, days=days).of_fit(line.fit)
            examples = examples_of(config, newest, until, stages, seed, made)
            begun.parent.check(examples.train.inputs)
            return begun, examples
        except TooFewError as error:
            begun = begun.in_full("its buffer holds too little")
            stages.console.print(f"[yellow]•[/] {escape(str(error))}", highlight=False)
        except InputError as error:
            begun = begun.in_full(str(error))
    return begun, examples_of(config, line, until, stages, seed, made)


def examples_of(
    config: Config,
    line: Ranker,
    until: datetime,
    stages: Stages,
    seed: int = 0,
    made: Examples | None = None,
) -> Examples:
    """Return the pairs that a line learns from, read and drawn, or `made` where that is the same.

    Args:
        config: In the space of the catalogue's first encoder.

    Raises:
        InputError: an aggregator that it reads is not made, or there are too few labels.
    """
    needs, aggregators = needs_of(config, line)
    heads = line.heads(config.rules)
    settings = (line.hard, line.easy, line.days, line.labels, line.learns_from, *heads.items())
    key = (until, seed, settings, json.dumps(needs.noted(), sort_keys=True))
    if made is not None and made.key == key:
        return made
    with connect(config) as con:
        items_known(config, con)
        known = Known.of(config, publish.open_store(config), needs, read_categories(con))
        with stages.stage("ranking_labels") as stage:
            seen = [moment for one in aggregators if (moment := seen_until(one, config))]
            since = max([until - timedelta(days=line.days), *seen, readable_since(config, until)])
            shown = _shown(config, con, line, since, until)
            if shown is None:
                labels = read_labels(config, con, since, until, line.labels)
                _refuse_few(line, labels, since, until)
            else:
                labels = shown.labels
            stage.rows_out = len(labels)
            what = "actions" if shown is None else "answers"
            stage.note = f"{what} from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
            weights = Examples.weights if shown is None else shown.weighted
        with stages.stage("ranking_pairs", len(labels), "labels") as stage:
            factors = label_weights(config, con, labels, until)
            train, validation = split(known, con, line, labels, factors, shown, heads, seed, stage)
            stage.rows_in, stage.rows_out = len(labels), len(train) + len(validation)
            stage.note = f"{len(train.inputs.names('numbers'))} numbers; weights: {weights}"
    return Examples(key, needs, labels.times, labels.members, train, validation, weights)


def train_rankers(config: Config, until: datetime, stages: Stages) -> None:
    """Fit the lines of RANKERS that no fit was made of yet; who has too little is named.

    A later fit is asked for: `activity train ranker NAME`. None is made while drift pauses fitting.
    """
    made: Examples | None = None
    waiting = untrained(config)
    if waiting and pauses_fitting(stages.ledger, until):
        say_paused(stages, waiting)
        return
    for line in waiting:
        try:
            _, _, made = train_ranker(config, line, until, stages, made=made)
        except TooFewError as error:
            said = f"[yellow]•[/] {line} is not trained: {escape(str(error))}"
            stages.console.print(said, highlight=False, soft_wrap=True)


def untrained(config: Config) -> list[Ranker]:
    """Return the lines of RANKERS that no fit was made of yet."""
    return [line for line in ranker_lines(config) if not made_fits(config, line)]


def needs_of(config: Config, line: Ranker) -> tuple[Needs, list[Aggregator]]:
    """Return what a line reads, and the fits of its aggregators.

    Raises:
        InputError: an aggregator is not made.
    """
    made = {f"{one.name}_v{one.version}": one for one in made_lines(config)}
    missing = [name for name in line.aggregators if name not in made]
    if missing:
        raise InputError(
            f"{line} reads {', '.join(missing)}, which no run has made; first: activity run"
        )
    aggregators = [made[name] for name in line.aggregators]
    sources = [source.full_name for source in candidate_lines(config)]
    context = dict(config.recommend.context)
    return (
        Needs.of(config, line, aggregators, sources, ranker_columns(config), context),
        aggregators,
    )


def readable_since(config: Config, until: datetime) -> datetime:
    """Return when the first snapshot could be read: at an earlier label nothing would be known.

    Raises:
        TooFewError: none could be read before `until`, as after a first run.
    """
    first = earliest(partition_files(config.layout.sequences), "created_timestamp")
    if first is None or first >= until:
        raise TooFewError(
            f"expected a snapshot that could be read before {until:%Y-%m-%d %H:%M} UTC, so that "
            "there is something to learn from, found none. `activity backfill --from DAY` makes "
            "those of past days, and `activity train ranker` learns from them; or wait for the "
            "next days' runs"
        )
    return first


def _shown(
    config: Config, con: Connection, line: Ranker, since: datetime, until: datetime
) -> Shown | None:
    """Return what was shown, where the line learns from it and enough came of it."""
    if line.learns_from == "actions":
        return None
    shown = shown_labels(config, con, since, until, line.labels)
    positive = 0 if shown is None else int((shown.labels.signs > 0).sum())
    if positive >= LEAST:
        return shown
    if line.learns_from == "shown":
        raise TooFewError(
            f"expected at least {LEAST} positive actions on what was shown from "
            f"{since:%Y-%m-%d} to {until:%Y-%m-%d} for {line} to learn from, got {positive}; "
            "serve longer, or set learns_from to either"
        )
    return None


def split(
    known: Known,
    con: Connection,
    line: Ranker,
    labels: Labels,
    factors: Floats,
    shown: Shown | None,
    heads: dict[str, float],
    seed: int,
    stage: Any,
) -> tuple[Labelled, Labelled]:
    """Return the labels as pairs; the newest VALIDATION of them apart.

    Of what was shown the pairs are the answers' items; of other labels negatives are drawn.

    Args:
        factors: Of each label's weight [labels]. All of its pairs have it, so that what was to
            choose from at one moment keeps its proportions.
    """
    border = border_of(labels.times, 1 - VALIDATION)
    parts = []
    for number, part in enumerate((slice(0, border), slice(border, len(labels)))):
        some, own = labels.take(part), shown.take(part) if shown else None
        read = known.read(some)
        members = known.members(some, read)
        candidates = known.candidates(con, some, read, members)
        pairs = own.pairs if own else known.drawn(line, some, members, candidates, seed + number)
        made = known.labelled(some, members, pairs, candidates, heads)
        weights = factors[part][pairs.labels] * (own.weights if own else 1)
        made = replace(made, weights=weights.astype(np.float32))
        parts.append(replace(made, positions=own.positions) if own else made)
        stage.advance(len(some))
    return parts[0], parts[1]


def border_of(times: NDArray[np.int64], share: float) -> int:
    """Return how many of the labels are the first `share` of them, not to divide one moment.

    >>> border_of(np.array([10, 20, 20, 30]), 0.5)
    1

    Args:
        times: Ascending.
    """
    return int(np.searchsorted(times, times[int(len(times) * share)]))


def judged(fitted: FittedRanker, pairs: Labelled, heads: Mapping[str, float]) -> dict[str, float]:
    """Return the AUC of each head, and how often a label's liked item comes first of its pairs.

    Args:
        heads: Actions with their weights in the score.
    """
    if not len(pairs):
        return {}
    likely = fitted.probabilities(pairs.inputs)
    metrics = {}
    for column, head in enumerate(heads):
        positive = pairs.targets[:, column] > 0
        if positive.any() and not positive.all():
            metrics[f"auc_{head.lower()}"] = float(auc(likely[:, column], positive))
    scores = fitted.scores(pairs.inputs)
    first, many = starts(pairs.groups), sizes(pairs.groups)
    best = np.maximum.reduceat(scores, first)
    chosen = (many > 1) & (gains(pairs.targets, [*heads.values()])[first] > 0)
    if chosen.any():
        # Of several that score alike each comes first as often.
        alike = np.add.reduceat((scores == np.repeat(best, many)).astype(np.int64), first)
        metrics["first"] = float(((scores[first] >= best) / alike)[chosen].mean())
    return metrics


def say(metrics: dict[str, float]) -> str:
    """Say how good a fit is.

    >>> say({"auc_apply": 0.8123, "first": 0.25})
    'on validation: auc_apply 0.812, first 0.250'
    """
    return "on validation: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())


def _refuse_few(line: Ranker, labels: Labels, since: datetime, until: datetime) -> None:
    positive = int((labels.signs > 0).sum())
    if positive < LEAST or len(np.unique(labels.times)) < 2:
        raise TooFewError(
            f"expected at least {LEAST} positive actions from {since:%Y-%m-%d} to {until:%Y-%m-%d} "
            f"for {line} to learn from, on items new to their member; got {positive}. A longer "
            "fit_holdback, more `days`, or `activity backfill` of days before gives more"
        )
