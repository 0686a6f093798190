"""What a variant's vectors cost: bytes per member by dtype, members per second, cold start."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.embed import together
from models.evaluation.bootstrap import Estimate
from models.evaluation.compare import estimates
from models.evaluation.scoring import LabelScores
from models.packaging import load
from models.quantization import DTYPES, Dtype, bytes_per_member, stored
from models.sequences import Padded
from models.spec import Aggregator
from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.histories import Floats
from pipelines.evaluation.variants import CHOSEN_BY, Variant

COLD = {"0 actions": (0, 0), "1 to 3 actions": (1, 3)}
COLD_METRICS = ("hr10_recent", CHOSEN_BY, "auc_random")


def serving_costs(comparison: Comparison) -> dict[str, Any]:
    """Return every cost as JSON values; rankers are those of the first freshness and seed."""
    return {
        "members_per_second": {
            name: _members_per_second(line, comparison) for name, line in comparison.lines.items()
        },
        "storage": [
            row
            for variant in (comparison.baseline, comparison.challenger)
            for row in _storage(variant, comparison)
        ],
        "cold_start": list(_cold_start(comparison)),
    }


def _storage(variant: Variant, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Measure the ranker on vectors after a round trip through each dtype.

    Of a line that is kept as int8 there is nothing else to compare with: its vectors are int8's.
    """
    assert variant.line is not None
    config = comparison.bench.world.config
    before, fields = _vectors(variant, comparison), variant.line.vectors(config)
    kept_as = variant.line.stored_as(config)
    first = _chosen_by(variant, comparison, before)
    dtypes: Sequence[Dtype] = DTYPES if kept_as == "float32" else [kept_as]
    for dtype in dtypes:
        is_first = dtype == kept_as
        vectors = before if is_first else stored(before.reshape(-1, config.dim), dtype)
        got = _chosen_by(variant, comparison, vectors.reshape(before.shape))
        yield {
            "variant": variant.name,
            "dtype": dtype,
            "bytes_per_member": bytes_per_member(len(fields), config.dim, dtype),
            "ndcg10": got.interval(),
            "difference": None if is_first else (got - first).interval(),
        }


def _vectors(variant: Variant, comparison: Comparison) -> Floats:
    """Return a variant's vectors of the first freshness, of the measured period."""
    bench = comparison.bench
    return bench.features(variant, bench.world.name, comparison.freshness[0]).vectors


def _chosen_by(variant: Variant, comparison: Comparison, vectors: Floats) -> Estimate:
    labels = comparison.bench.labels
    scores = [_with_vectors(variant, comparison, vectors)]
    return estimates(scores, labels, comparison.resamples, metrics=[CHOSEN_BY])[CHOSEN_BY]


def _padded(line: Aggregator, comparison: Comparison) -> Padded:
    bench = comparison.bench
    embedder = bench.embedder(line.config_of(bench.world.config))
    histories = bench.histories(bench.world.name, comparison.freshness[0])
    return histories.padded(embedder.config, embedder.versions)


def _members_per_second(line: Aggregator, comparison: Comparison) -> float:
    """Time one embedding of all these sequences, after a first one for tracing and warm-up."""
    bench = comparison.bench
    embedder = bench.embedder(line.config_of(bench.world.config))
    padded = _padded(line, comparison)
    run = together([load(line, embedder.config)], embedder.versions, embedder.config.rules)
    run(padded)
    began = time.perf_counter()
    run(padded)
    return len(padded.rows) / (time.perf_counter() - began)


def _cold_start(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Compare ways to serve members with little history."""
    bench, learned = comparison.bench, comparison.challenger
    assert learned.line is not None
    labels = bench.labels
    counts = (_padded(learned.line, comparison).actions != 0).sum(axis=1)
    vectors, empty = _vectors(learned, comparison), (counts == 0)[:, None, None]
    nothing = next(variant for variant in comparison.variants if variant.line is None)
    approaches: dict[str, LabelScores] = {
        f"{learned.name}, its default vector": _with_vectors(learned, comparison, vectors),
        f"{learned.name}, zeros": _with_vectors(
            learned, comparison, np.where(empty, np.float32(0.0), vectors)
        ),
        "no activity: popularity": comparison.scores[comparison.freshness[0].name][nothing.name][0],
    }
    for members, (least, most) in COLD.items():
        mask = (counts >= least) & (counts <= most)
        for approach, scores in approaches.items():
            found = estimates([scores], labels, comparison.resamples, mask, COLD_METRICS)
            yield {
                "members": members,
                "labels": int((mask & labels.positive).sum()),
                "approach": approach,
                "metrics": {name: one.interval() for name, one in found.items()},
            }


def _with_vectors(variant: Variant, comparison: Comparison, vectors: Floats) -> LabelScores:
    """Measure a variant's ranker on the test with other vectors."""
    bench = comparison.bench
    features = bench.features(variant, bench.world.name, comparison.freshness[0])
    return bench.measure(comparison.ranker(variant), variant, replace(features, vectors=vectors))
