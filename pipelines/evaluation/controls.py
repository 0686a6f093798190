"""Experiments whose outcome is known beforehand: what the harness must show to be believed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.evaluation.bootstrap import Interval, Resamples
from models.evaluation.compare import estimates
from models.evaluation.gates import Control, chance_auc, permuted_labels_auc, suspicious
from models.sequences import Padded
from models.spec import Learned
from pipelines.evaluation.features import Ground, Period
from pipelines.evaluation.variants import Variant, fit_one, in_process, measure_one
from transformations.config import Config

AGREE = 1e-5
MARGIN = 0.1
"""How far above the leak-free baseline an AUC may lie before it looks like knowledge of the
future."""


def same_in_process(
    variant: Variant, config: Config, ground: Ground, period: Period, padded: Padded
) -> Control:
    """Control that Feast's vectors are those that the model makes of Feast's sequences."""
    assert variant.line is not None
    there = (padded.actions != 0).any(axis=1)
    served = variant.given[period.name].vectors[there]
    made = in_process(variant.line, config, ground, padded)[there]
    apart = float(np.abs(served - made).max(initial=0.0))
    return Control(
        f"one definition, {variant.name}",
        "The vectors of the training join, against the packaged model on the sequences of the "
        "training join.",
        f"equal to {AGREE:g}",
        f"{apart:.1e} apart at most",
        apart <= AGREE,
    )


def shuffled(
    variant: Variant,
    config: Config,
    ground: Ground,
    period: Period,
    padded: Padded,
    resamples: Resamples,
) -> Control:
    """Control what the order of the actions is worth: sequences shuffled in time, same rankers."""
    assert variant.line is not None
    vectors = in_process(variant.line, config, ground, _shuffle(padded))
    kept = variant.given[period.name].vectors
    # Who has no row in the store keeps having none.
    vectors[~kept.any(axis=(1, 2))] = 0.0
    labels = period.task.labels
    outcomes = [
        measure_one(ranker, variant.given[period.name], ground, period, vectors)
        for ranker in variant.rankers
    ]
    after = estimates(outcomes, labels, resamples, metrics=["auc_random"])["auc_random"]
    before = estimates(variant.outcomes, labels, resamples, metrics=["auc_random"])["auc_random"]
    change = (after - before).interval()
    if variant.line.order_matters:
        expected, passed = "no gain", change.low <= 0
    else:
        expected, passed = "no change", abs(change.estimate) <= AGREE
    return Control(
        f"shuffled in time, {variant.name}",
        "AUC against a random item with every sequence shuffled among its own times, less that "
        "with the sequences as they were.",
        expected,
        f"{change.estimate:+.4f} [{change.low:+.4f}, {change.high:+.4f}]",
        passed,
    )


def permuted(variant: Variant, ground: Ground, train: Period, test: Period) -> Control:
    """Control that a ranker fitted to labels dealt out anew judges no better than chance."""
    rng = np.random.default_rng(0)
    dealt = rng.permutation(train.task.labels.positive)
    ranker = fit_one(variant, ground, train, seed=0, settings=variant.settings, positive=dealt)
    outcome = measure_one(ranker, variant.given[test.name], ground, test)
    assert outcome.judged is not None
    positive = test.task.labels.positive
    return chance_auc(
        "labels permuted",
        f"AUC of positive against dismissed, {variant.name}, with labels dealt out anew in train "
        "and test.",
        permuted_labels_auc(outcome.judged, positive),
        int(positive.sum()),
        int((~positive).sum()),
    )


def too_good(variant: Variant, got: Interval, baseline: Interval) -> Control:
    """Control that a variant does not stand out as one that knows the future would."""
    what = f"AUC against a random item, {variant.name}"
    return suspicious("too good to be true", what, got, baseline.estimate + MARGIN)


def controls(
    variants: Sequence[Variant],
    challenger: Variant,
    config: Config,
    ground: Ground,
    periods: dict[str, Period],
    padded: Padded,
    resamples: Resamples,
) -> list[Control]:
    """Run every control but `too_good`, on the test period."""
    test = periods["test"]
    lines = [variant for variant in variants if variant.line is not None]
    return [
        *(same_in_process(variant, config, ground, test, padded) for variant in lines),
        *(
            shuffled(variant, config, ground, test, padded, resamples)
            for variant in lines
            # Of what is learned, the one that the gates are about: each takes as long as its test.
            if variant is challenger or not isinstance(variant.line, Learned)
        ),
        permuted(challenger, ground, periods["train"], test),
    ]


def _shuffle(padded: Padded, seed: int = 0) -> Padded:
    """Deal each member's items and actions out anew among its own times."""
    rng = np.random.default_rng(seed)
    used = padded.actions != 0
    # PAD keeps its place: its key lies before all others', in its own order.
    place = np.arange(used.shape[1]) - used.shape[1]
    order = np.argsort(np.where(used, rng.random(used.shape), place), axis=1)
    # Used slots stand where they stood; the j-th of them takes what the j-th of the order held.
    where = np.argsort(np.where(used, np.arange(used.shape[1]), place), axis=1)
    rows, actions = np.zeros_like(padded.rows), np.zeros_like(padded.actions)
    np.put_along_axis(rows, where, np.take_along_axis(padded.rows, order, axis=1), axis=1)
    np.put_along_axis(actions, where, np.take_along_axis(padded.actions, order, axis=1), axis=1)
    return replace(padded, rows=rows, actions=actions)
