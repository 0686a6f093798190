"""What a variant's vectors cost: bytes per member by dtype, members per second, cold start."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.embed import together
from models.evaluation.compare import estimates
from models.evaluation.scoring import LabelScores
from models.packaging import load
from models.quantization import DTYPES, Quantization, bytes_per_member, stored
from models.sequences import Padded
from models.spec import Aggregator
from pipelines.evaluation.features import EvaluationData, Floats
from pipelines.evaluation.variants import CHOSEN_BY, Comparison, Variant, in_process, measure_one
from transformations.config import Config

COLD = {"0 actions": (0, 0), "1 to 3 actions": (1, 3)}
COLD_METRICS = ("hr10_recent", CHOSEN_BY, "auc_random")


def serving_costs(comparison: Comparison) -> dict[str, Any]:
    """Return every cost as JSON values."""
    config, data = comparison.world.config, comparison.data
    return {
        "members_per_second": {
            name: _members_per_second(line, config, data, comparison.sequences.padded)
            for name, line in comparison.lines.items()
        },
        "storage": [
            row
            for variant in (comparison.baseline, comparison.challenger)
            for row in _storage(variant, comparison)
        ],
        "cold_start": list(_cold_start(comparison)),
    }


def _storage(variant: Variant, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Measure the ranker on vectors after a round trip through each dtype."""
    assert variant.line is not None
    config = comparison.world.config
    features, fields = variant.features["test"], variant.line.vectors(config)
    float32 = _chosen_by(variant.scores, comparison)
    scales = _scales(variant, config)
    for dtype in DTYPES:
        if dtype == "int8" and without_scale(variant, config):
            continue
        vectors = features.vectors.copy()
        for index, name in enumerate(fields):
            before = features.vectors[:, index]
            # Zeros stand for null, which stays null in any dtype.
            there = before.any(axis=1, keepdims=True)
            if there.any():
                kept = stored(before, dtype, scales.get(name))
                vectors[:, index] = np.where(there, kept, 0.0)
        got = _chosen_by(_with_vectors(variant, comparison, vectors), comparison)
        yield {
            "variant": variant.name,
            "dtype": dtype,
            "bytes_per_member": bytes_per_member(len(fields), config.dim, dtype),
            "ndcg10": got.interval(),
            "difference": None if dtype == "float32" else (got - float32).interval(),
        }


def _chosen_by(scores: Sequence[LabelScores], comparison: Comparison) -> Any:
    labels = comparison.data.periods["test"].task.labels
    return estimates(scores, labels, comparison.resamples, metrics=[CHOSEN_BY])[CHOSEN_BY]


def _scales(variant: Variant, config: Config) -> Mapping[str, Quantization]:
    """Return the scales of each field: the manifest's, or a formula's from the train period.

    A field that no member has in the train period has none.
    """
    assert variant.line is not None
    kept = variant.line.manifest(config).get("quantization") or {}
    scales = {name: Quantization.from_json(saved) for name, saved in kept.items()}
    for index, name in enumerate(variant.line.vectors(config)):
        known = variant.features["train"].vectors[:, index]
        known = known[known.any(axis=1)]
        if name not in scales and len(known):
            scales[name] = Quantization.fit(known)
    return scales


def without_scale(variant: Variant, config: Config) -> list[str]:
    """Return the fields that members have in the test period, but none had in the train period."""
    assert variant.line is not None
    scales, vectors = _scales(variant, config), variant.features["test"].vectors
    return [
        name
        for index, name in enumerate(variant.line.vectors(config))
        if name not in scales and vectors[:, index].any()
    ]


def _members_per_second(
    line: Aggregator, config: Config, data: EvaluationData, padded: Padded
) -> float:
    """Time one embedding of all these sequences, after a first one for tracing and warm-up."""
    run = together([load(line, config)], data.items, config.rules)
    run(padded)
    began = time.perf_counter()
    run(padded)
    return len(padded.rows) / (time.perf_counter() - began)


def _cold_start(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Compare ways to serve members with little history."""
    config, learned = comparison.world.config, comparison.challenger
    assert learned.line is not None
    labels = comparison.data.periods["test"].task.labels
    counts = (comparison.sequences.padded.actions != 0).sum(axis=1)
    vectors, empty = learned.features["test"].vectors, (counts == 0)[:, None, None]
    default = in_process(learned.line, config, comparison.data, _empty(config))[0]
    nothing = next(variant for variant in comparison.variants if variant.line is None)
    approaches: dict[str, Sequence[LabelScores]] = {
        f"{learned.name}, its default vector": _with_vectors(
            learned, comparison, np.where(empty, default, vectors)
        ),
        f"{learned.name}, zeros": _with_vectors(
            learned, comparison, np.where(empty, np.float32(0.0), vectors)
        ),
        "no activity: popularity": nothing.scores,
    }
    for members, (least, most) in COLD.items():
        mask = (counts >= least) & (counts <= most)
        for approach, scores in approaches.items():
            found = estimates(scores, labels, comparison.resamples, mask, COLD_METRICS)
            yield {
                "members": members,
                "labels": int((mask & labels.positive).sum()),
                "approach": approach,
                "metrics": {name: one.interval() for name, one in found.items()},
            }


def _with_vectors(variant: Variant, comparison: Comparison, vectors: Floats) -> list[LabelScores]:
    """Measure the variant's rankers on the test period with other vectors."""
    features = replace(variant.features["test"], vectors=vectors)
    return [measure_one(ranker, features, comparison.data) for ranker in variant.rankers]


def _empty(config: Config) -> Padded:
    """Return one sequence without actions."""
    integers = np.zeros((1, config.length), np.int32)
    return Padded(integers, integers, integers.astype(np.float32), 0, 0)
