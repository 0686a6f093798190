"""`activity evaluate recommender`: choices on the validation, the test, figures as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.evaluation.bootstrap import Estimate, Interval, Resamples
from models.evaluation.cohorts import cohorts, levels_of
from models.evaluation.compare import estimates
from models.evaluation.metrics import auc
from models.evaluation.scoring import LabelScores
from models.items.similarity import unit
from models.lines import candidate_lines, catalogue_lines, ranker_lines
from models.rankers.spec import Ranker
from models.spec import Aggregator
from operations.fits import Fits
from operations.readers import Lines, incremental
from operations.trials import Trial, note_trial
from pipelines.daily import stage_the_members
from pipelines.evaluation.choices import Choices, Measured, Trying, choose_references, untuned
from pipelines.evaluation.comparison import references
from pipelines.evaluation.evaluate import chosen_lines, open_bench
from pipelines.evaluation.labels import cohort_columns, positive_times
from pipelines.evaluation.protocol import LIVE, Protocol
from pipelines.evaluation.recommender import WITHOUT, RecommenderBench, Served
from pipelines.evaluation.variants import CHOSEN_BY
from pipelines.evaluation.world import World, encode_in, train_lines
from pipelines.progress import Stages
from transformations import clock
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.files import replacing

RESULT = "recommender.json"
METRICS = ("ndcg10", "hr10", "mrr")
APART = 2_000
"""Labels of the sample on which the full catalogue and what an input is worth are measured."""
POPULAR = 0.1
"""The share of items with the most positive actions that counts as popular."""


def evaluate_recommender(config: Config, stages: Stages, protocol: Protocol, command: str) -> Path:
    """Measure every line of RANKERS end to end; return the file of the figures.

    The events must be staged. The validation chooses the references' settings and the line that is
    taken apart; then the test is opened.

    Raises:
        InputError: the catalogue has no ranker or no candidate source, or there is too little.
    """
    rankers = ranker_lines(config)
    if not rankers:
        raise InputError(
            f"expected RANKERS in {config.catalogue} to evaluate, such as RANKERS = "
            "(Linear(version=1),), got none"
        )
    aggregators = chosen_lines(catalogue_lines(config), ())
    with connect(config) as con:
        times = positive_times(config, con, protocol.predicts)
    chosen, choices = rankers[0], None
    if protocol.tuned:
        bench = open_bench(config, "validation", times, protocol, aggregators, stages)
        own = bench.world.bound(aggregators)
        train_lines(bench.world, stages, own)
        trials = len(protocol.popular_days) + len(protocol.half_lives) + len(rankers)
        with connect(bench.world.config) as con, stages.stage("validation", trials) as stage:
            measured = Measured(bench)
            trying = Trying(measured, stages, stage)
            popular, knn, ease, als = choose_references(trying, protocol)
            _prepare(bench.world, con, own, stages)
            recommender = RecommenderBench.of(bench, con, own)
            by_name = {str(line): line for line in rankers}
            best = trying.best(
                "ranker",
                {name: {"line": name} for name in by_name},
                lambda name: measured.reference(
                    f"recommender.{name}",
                    {"parameters": by_name[name].parameters()},
                    lambda: recommender.serve(by_name[name], 0).scores,
                ),
            )
            chosen = by_name[best]
            stage.note = f"best: {chosen}"
        choices = replace(
            untuned(config, own, protocol), popular_days=popular, knn=knn, ease=ease, als=als
        )
    bench = open_bench(config, "test", times, protocol, aggregators, stages)
    own = bench.world.bound(aggregators)
    train_lines(bench.world, stages, own)
    choices = choices or untuned(bench.world.config, own, protocol)
    bench.knn = choices.knn
    note_trial(stages.ledger, stages.run_id, Trial("test", "recommender", {"command": command}))
    with connect(bench.world.config) as con:
        _prepare(bench.world, con, own, stages)
        recommender = RecommenderBench.of(bench, con, own)
        result = _measured(recommender, rankers, chosen, choices, protocol, stages)
    result |= {"command": command, "created": clock.now().isoformat(timespec="seconds")}
    file = config.layout.evaluation / RESULT
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    return file


def _prepare(world: World, con: Connection, lines: Sequence[Aggregator], stages: Stages) -> None:
    """Stage profiles, and encode items in spaces that candidate sources alone read."""
    stage_the_members(world.config, con, world.split.until, stages)
    config = world.config
    read = {line.config_of(config).space for line in lines}
    named = {source.space for source in candidate_lines(config) if source.space is not None}
    spaces = [Fits(config).spaces[name] for name in sorted(named)]
    missing = [config.in_space(space) for space in spaces if space not in read]
    if missing:
        encode_in(world, con, stages, missing)


def _measured(
    recommender: RecommenderBench,
    rankers: Sequence[Ranker],
    chosen: Ranker,
    choices: Choices,
    protocol: Protocol,
    stages: Stages,
) -> dict[str, Any]:
    """Measure references, rankers, the full catalogue and ablations on the test."""
    bench = recommender.bench
    resamples = bench.resamples(protocol.seeds, protocol.resamples, items=len(bench.data.item_ids))
    found: dict[str, dict[str, Estimate]] = {}
    others = references(Measured(bench), protocol.freshness[0], choices, protocol.without)
    for name, scores in others.items():
        found[name] = _estimates([scores], recommender, resamples)
    steps: dict[str, tuple[Ranker, int, dict[str, Any]]] = {}
    for line in rankers:
        for seed in range(protocol.seeds):
            steps[f"{line} {seed}"] = (line, seed, {})
    some = _sample(bench.labels.positive)
    steps["everything"] = (chosen, 0, {"everything": True, "only": some})
    for name, change in WITHOUT.items():
        if (changed := change(chosen)) != chosen:
            steps[f"without {name}"] = (changed, 0, {"only": some})
    for source in recommender.brought():
        steps[f"without {source}"] = (chosen, 0, {"without": source, "only": some})
    served: dict[str, Served] = {}
    with stages.stage("test", len(steps), "recommenders") as stage:
        for name, (line, seed, how) in steps.items():
            stage.doing = name
            served[name] = recommender.serve(line, seed, **how)
            stage.advance(1)
    for line in rankers:
        own = [served[f"{line} {seed}"].scores for seed in range(protocol.seeds)]
        found[str(line)] = _estimates(own, recommender, resamples)
    first = served[f"{chosen} 0"]
    one = (
        resamples
        if protocol.seeds == 1
        else bench.resamples(1, protocol.resamples, items=len(bench.data.item_ids))
    )
    base = _estimates([first.scores], recommender, one, some)
    apart = {
        name: _estimates([each.scores], recommender, one, some)
        for name, each in served.items()
        if name == "everything" or name.startswith("without")
    }
    went = {
        str(line): _went_on(recommender, line, served[f"{line} 0"], one)
        for line in rankers
        if str(line) in incremental(recommender.config, Lines.of(recommender.config))
    }
    best = max(others, key=lambda name: found[name][CHOSEN_BY].value)
    full = apart["everything"]["hr10"].value
    return {
        "chosen": str(chosen),
        "labels": int(bench.measured.task.labels.positive.sum()),
        "metrics": {name: _intervals(each) for name, each in found.items()},
        "best_reference": best,
        "minus_best_reference": {
            str(line): _intervals(_minus(found[str(line)], found[best])) for line in rankers
        },
        "sources": {
            name: {"recall": alone, "adds": adds}
            for name, (alone, adds) in recommender.brought().items()
        },
        "recall": first.recall,
        "labels_apart": int(some.sum()),
        "candidates_share_of_full_hr10": base["hr10"].value / full if full else None,
        "apart": {name: _intervals(_minus(each, base)) for name, each in apart.items()},
        "heads": _heads(recommender, chosen, first),
        "lists": _lists(recommender, first),
        "cohorts": _cohorts(recommender, first.scores, one),
        **({"incremental": went} if went else {}),
    }


def _went_on(
    recommender: RecommenderBench, line: Ranker, full: Served, resamples: Resamples
) -> dict[str, Any]:
    """Compare a fit that went on over the buffer with the full one, on the same later labels."""
    try:
        scores = recommender.serve(line, 0, goes_on=True).scores
    except InputError as error:
        return {"why": str(error)}
    own, other = (_estimates([each], recommender, resamples) for each in (scores, full.scores))
    return {"metrics": _intervals(own), "minus_full": _intervals(_minus(own, other))}


def _estimates(
    scores: list[LabelScores],
    recommender: RecommenderBench,
    resamples: Resamples,
    only: NDArray[np.bool_] | None = None,
) -> dict[str, Estimate]:
    labels = recommender.bench.labels
    return estimates(scores, labels, resamples, only, metrics=METRICS, over_items=True)


def _sample(positive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return about APART of the positive labels, by chance."""
    chosen = np.zeros(len(positive), bool)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(positive))[:APART]
    chosen[rows] = True
    return chosen


def _minus(one: Mapping[str, Estimate], other: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name: one[name] - other[name] for name in one if name in other}


def _intervals(found: Mapping[str, Estimate]) -> dict[str, Any]:
    def rounded(interval: Interval) -> list[float]:
        return [round(float(v), 5) for v in (interval.low, interval.high)]

    return {
        name: {
            "value": round(float(each.value), 5),
            "members": rounded(each.interval()),
            "items": rounded(each.interval_over_items()),
        }
        for name, each in found.items()
    }


def _heads(recommender: RecommenderBench, line: Ranker, served: Served) -> dict[str, Any]:
    """Return each head's AUC among what members acted on, and how well it is calibrated."""
    actions = recommender.bench.measured.frame["action"].to_numpy()
    positive = recommender.bench.measured.task.labels.positive
    found = {}
    for column, (head, weight) in enumerate(line.heads(recommender.config.rules).items()):
        came = (actions == head) & (positive == (weight > 0))
        likely = served.likely[:, column]
        if came.any() and not came.all():
            found[head] = {
                "auc": round(float(auc(likely, came)), 5),
                "mean_probability": round(float(likely.mean()), 5),
                "share": round(float(came.mean()), 5),
            }
    return found


def _lists(recommender: RecommenderBench, served: Served) -> dict[str, float]:
    """Return what the first ten are like: coverage, novelty, diversity, share of popular items."""
    bench = recommender.bench
    labels = bench.measured.task.labels
    lists = served.lists[labels.positive]
    days = labels.days[labels.positive]
    shown = lists[lists >= 0]
    if not len(shown):
        return {}
    known = bench.measured.task.item_days.known(int(days.max()))
    counts = bench.measured.task.item_days.so_far(int(days.min()))[:, 0]
    share = (counts + 1) / (counts.sum() + len(counts))
    popular = np.argsort(-counts, kind="stable")[: max(int(POPULAR * known.sum()), 1)]
    vectors = unit(bench.item_vectors(bench.world.config.space).at(int(days.max())))
    return {
        "coverage": round(len(np.unique(shown)) / max(int(known.sum()), 1), 5),
        "novelty_bits": round(float(-np.log2(share[shown]).mean()), 4),
        "diversity": round(_diversity(lists, vectors), 5),
        "popular_share": round(float(np.isin(shown, popular).mean()), 5),
    }


def _diversity(lists: NDArray[np.int64], vectors: NDArray[np.float32]) -> float:
    """Return one minus the mean cosine of two items of a list, over lists."""
    found = []
    for row in lists[:: max(len(lists) // 2_000, 1)]:
        own = vectors[row[row >= 0]]
        if len(own) > 1:
            together = own @ own.T
            pairs = len(own) * (len(own) - 1)
            found.append(1 - (together.sum() - np.trace(together)) / pairs)
    return float(np.mean(found)) if found else float("nan")


def _cohorts(
    recommender: RecommenderBench, scores: LabelScores, resamples: Resamples
) -> dict[str, Any]:
    """Return NDCG@10 by cohort."""
    bench = recommender.bench
    split = bench.world.split
    history = bench.histories(bench.world.name, LIVE).history
    frame = pd.concat([cohort_columns(bench.measured, bench.data), history], axis=1)
    by_cohort = cohorts(frame, split.train_until, split.fit_until)
    for name, (values, there) in recommender.pairs.profiles(bench.world.name).items():
        by_cohort[f"members.{name}"] = levels_of(values, there)
    found: dict[str, Any] = {}
    for cohort, levels in by_cohort.items():
        for level, mask in levels.items():
            if (mask & bench.labels.positive).sum() >= 20:
                own = estimates(
                    [scores], bench.labels, resamples, mask, metrics=(CHOSEN_BY,), over_items=True
                )
                found.setdefault(cohort, {})[level] = {
                    "labels": int((mask & bench.labels.positive).sum()),
                    **_intervals(own),
                }
    return found
