"""Experiments with a known outcome, which show that the evaluation can be trusted."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from models.evaluation.bootstrap import Interval, Resamples
from models.evaluation.compare import estimates
from models.evaluation.promises import (
    Control,
    chance_auc,
    permuted_labels_auc,
    suspicious,
    with_bounds,
)
from models.sequences import Padded
from models.spec import Learned
from pipelines.evaluation.features import EvaluationData
from pipelines.evaluation.variants import Comparison, Variant, fit_one, in_process, measure_one
from transformations.config import Config

AGREE = 1e-5
MARGIN = 0.1
"""An AUC this far above the leak-free baseline is suspicious."""


def same_in_process(
    variant: Variant, config: Config, data: EvaluationData, padded: Padded
) -> Control:
    """Control that the model computes Feast's vectors from Feast's sequences."""
    assert variant.line is not None
    there = (padded.actions != 0).any(axis=1)
    served = variant.features["test"].vectors[there]
    computed = in_process(variant.line, config, data, padded)[there]
    apart = float(np.abs(served - computed).max(initial=0.0))
    return Control(
        f"one definition, {variant.name}",
        "The vectors of the training join, against the packaged model on the sequences of the "
        "training join.",
        f"equal to {AGREE:g}",
        f"at most {apart:.1e} apart",
        apart <= AGREE,
    )


def shuffled(
    variant: Variant, config: Config, data: EvaluationData, padded: Padded, resamples: Resamples
) -> Control:
    """Control what the order of the actions is worth: sequences shuffled in time, same rankers."""
    assert variant.line is not None
    features = variant.features["test"]
    vectors = in_process(variant.line, config, data, _shuffle(padded))
    # A member without a row in the store keeps its zeros.
    vectors[~features.vectors.any(axis=(1, 2))] = 0.0
    changed = replace(features, vectors=vectors)
    scores = [measure_one(ranker, changed, data) for ranker in variant.rankers]
    after, before = (
        estimates(some, data.periods["test"].task.labels, resamples, metrics=["auc_random"])
        for some in (scores, variant.scores)
    )
    change = (after["auc_random"] - before["auc_random"]).interval()
    if variant.line.order_matters:
        expected, passed = "no gain", change.low <= 0
    else:
        expected, passed = "no change", abs(change.estimate) <= AGREE
    return Control(
        f"shuffled in time, {variant.name}",
        "AUC against a random item with each sequence's actions shuffled among its timestamps, "
        "minus the AUC with the sequences as they are.",
        expected,
        with_bounds(change),
        passed,
    )


def permuted(variant: Variant, data: EvaluationData) -> Control:
    """Control that a ranker fitted to permuted labels judges no better than chance."""
    permutation = np.random.default_rng(0).permutation(data.periods["train"].task.labels.positive)
    ranker = fit_one(variant, data, seed=0, settings=variant.settings, positive=permutation)
    scores = measure_one(ranker, variant.features["test"], data)
    assert scores.judged is not None
    positive = data.periods["test"].task.labels.positive
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


def controls(comparison: Comparison) -> Iterator[Control]:
    """Run every control except `too_good`, on the test period."""
    config, data = comparison.world.config, comparison.data
    padded = comparison.sequences.padded
    variants = [variant for variant in comparison.variants if variant.line is not None]
    for variant in variants:
        yield same_in_process(variant, config, data, padded)
    for variant in variants:
        # It takes as long as the test itself, so the challenger is the only learned one.
        if variant is comparison.challenger or not isinstance(variant.line, Learned):
            yield shuffled(variant, config, data, padded, comparison.resamples)
    if len(np.unique(data.periods["test"].task.labels.positive)) == 2:
        yield permuted(comparison.challenger, data)


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
