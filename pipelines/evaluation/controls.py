"""Experiments with a known outcome, which show that the evaluation can be trusted."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from models.evaluation.bootstrap import Interval
from models.evaluation.compare import estimates
from models.evaluation.promises import (
    Control,
    chance_auc,
    permuted_labels_auc,
    suspicious,
    with_bounds,
)
from models.sequences import Padded
from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.served import AGREE, served
from pipelines.evaluation.variants import Variant
from pipelines.progress import Stages

MARGIN = 0.1
"""An AUC this far above the leak-free baseline is suspicious."""


def shuffled(comparison: Comparison, variant: Variant) -> Control:
    """Control what the order of the actions is worth: sequences shuffled in time, same ranker."""
    bench, first = comparison.bench, comparison.freshness[0]
    assert variant.line is not None
    config = bench.world.config
    features = bench.features(variant, bench.world.name, first)
    embedder = bench.embedder(variant.line.config_of(config))
    padded = bench.histories(bench.world.name, first).padded(embedder.config, embedder.versions)
    changed = replace(features, vectors=embedder.vectors(variant.line, _shuffle(padded)))
    ranker = comparison.ranker(variant)
    after, before = (
        estimates(
            [bench.measure(ranker, variant, each)],
            bench.labels,
            comparison.resamples,
            metrics=["auc_random"],
        )["auc_random"]
        for each in (changed, features)
    )
    change = (after - before).interval()
    if variant.line.order_matters:
        expected, passed = "no gain", change.low <= 0
    else:
        expected, passed = "no change", abs(change.estimate) <= AGREE
    return Control(
        f"shuffled in time, {variant.name}",
        "AUC against a random item with each sequence's actions shuffled among its timestamps, "
        "minus the AUC with the sequences as they are; one seed.",
        expected,
        with_bounds(change),
        passed,
    )


def permuted(comparison: Comparison, variant: Variant) -> Control:
    """Control that a ranker fitted to permuted labels judges no better than chance."""
    bench, first = comparison.bench, comparison.freshness[0]
    permutation = np.random.default_rng(0).permutation(
        bench.data.periods["train"].task.labels.positive
    )
    settings = comparison.settings[variant.name]
    ranker = bench.fit(variant, first, settings, seed=0, positive=permutation)
    scores = bench.measure(ranker, variant, bench.features(variant, bench.world.name, first))
    assert scores.judged is not None
    positive = bench.measured.task.labels.positive
    return chance_auc(
        "labels permuted",
        f"AUC of positive against dismissed, {variant.name}, with labels permuted in train and "
        "test.",
        permuted_labels_auc(scores.judged, positive),
        int(positive.sum()),
        int((~positive).sum()),
    )


def too_good(variant: Variant, got: Interval, baseline: Interval) -> Control:
    """Control that a variant is not better than one without a leak can be."""
    what = f"AUC against a random item, {variant.name}"
    return suspicious("too good to be true", what, got, baseline.estimate + MARGIN)


def controls(comparison: Comparison, stages: Stages) -> Iterator[Control]:
    """Run every control except `too_good`, on the test."""
    yield from served(comparison, stages)
    for variant in (comparison.baseline, comparison.challenger):
        yield shuffled(comparison, variant)
    if len(np.unique(comparison.bench.measured.task.labels.positive)) == 2:
        yield permuted(comparison, comparison.challenger)


def _shuffle(padded: Padded, seed: int = 0) -> Padded:
    """Shuffle each member's actions and what they carry among its timestamps; PAD stays.

    One member with three actions; its ages stay, its items and actions move in pairs:

    >>> rows, actions = np.array([[0, 7, 8, 9]]), np.array([[0, 1, 2, 3]])
    >>> shuffled = _shuffle(Padded(rows, actions, np.array([[0.0, 3.0, 2.0, 1.0]]), 3, 0), seed=1)
    >>> shuffled.rows.tolist(), shuffled.actions.tolist(), shuffled.ages.tolist()
    ([[0, 8, 9, 7]], [[0, 2, 3, 1]], [[0.0, 3.0, 2.0, 1.0]])
    """
    used = padded.actions != 0
    keys = np.random.default_rng(seed).random(used.shape)[used]
    order = np.lexsort((keys, np.nonzero(used)[0]))  # random within each member
    rows, actions = np.zeros_like(padded.rows), np.zeros_like(padded.actions)
    rows[used], actions[used] = padded.rows[used][order], padded.actions[used][order]
    carried = padded.carried
    if carried is not None:
        places = np.flatnonzero(used)
        moved = np.arange(used.size)
        moved[places[order]] = places
        carried = replace(carried, slots=moved[carried.slots])
    return replace(padded, rows=rows, actions=actions, carried=carried)
