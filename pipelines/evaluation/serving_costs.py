"""What a variant's vectors cost: bytes a member by type of number, members a second, cold start."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.embed import together
from models.evaluation.bootstrap import Resamples
from models.evaluation.compare import estimates
from models.packaging import load
from models.quantization import DTYPES, Quantization, bytes_per_member, stored
from models.sequences import Padded
from pipelines.evaluation.features import Floats, Ground, Period
from pipelines.evaluation.variants import CHOSEN_BY, Variant, in_process, measure_one
from transformations.config import Config

COLD = {"0 actions": (0, 0), "1 to 3 actions": (1, 3)}
COLD_METRICS = ("hr10_recent", CHOSEN_BY, "auc_random")


def storage(
    variant: Variant,
    config: Config,
    ground: Ground,
    periods: dict[str, Period],
    resamples: Resamples,
) -> Iterator[dict[str, Any]]:
    """Measure the ranker on vectors as they come back from each type of number."""
    assert variant.line is not None
    test, labels = periods["test"], periods["test"].task.labels
    given = variant.given[test.name]
    fields = variant.line.vectors(config)
    whole = estimates(variant.outcomes, labels, resamples, metrics=[CHOSEN_BY])[CHOSEN_BY]
    for dtype in DTYPES:
        vectors = given.vectors.copy()
        for slot, name in enumerate(fields):
            known = variant.given["train"].vectors[:, slot]
            scales = _quantization(variant, config, name, known) if dtype == "int8" else None
            back = stored(given.vectors[:, slot], dtype, scales)
            # A null stays a null in any type.
            there = given.vectors[:, slot].any(axis=1, keepdims=True)
            vectors[:, slot] = np.where(there, back, 0.0)
        outcomes = [measure_one(one, given, ground, test, vectors) for one in variant.rankers]
        got = estimates(outcomes, labels, resamples, metrics=[CHOSEN_BY])[CHOSEN_BY]
        yield {
            "variant": variant.name,
            "dtype": dtype,
            "bytes_per_member": bytes_per_member(len(fields), config.dim, dtype),
            "ndcg10": got.interval(),
            "difference": None if dtype == "float32" else (got - whole).interval(),
        }


def _quantization(variant: Variant, config: Config, field: str, known: Floats) -> Quantization:
    """Return the scales of the manifest; of a formula, which has none, those of what was seen."""
    assert variant.line is not None
    kept = variant.line.manifest(config).get("quantization") or {}
    if field in kept:
        return Quantization.from_json(kept[field])
    return Quantization.fit(known[known.any(axis=1)])


def members_per_second(variant: Variant, config: Config, ground: Ground, padded: Padded) -> float:
    """Time one embedding of all these sequences, after one that traces and warms."""
    assert variant.line is not None
    run = together([load(variant.line, config)], ground.items, config.rules)
    run(padded)
    began = time.perf_counter()
    run(padded)
    return len(padded.rows) / (time.perf_counter() - began)


def cold_start(
    learned: Variant,
    none: Variant,
    config: Config,
    ground: Ground,
    period: Period,
    counts: NDArray[np.int64],
    resamples: Resamples,
) -> Iterator[dict[str, Any]]:
    """Compare ways to serve members of little history.

    Args:
        counts: Actions in each label's sequence.
    """
    assert learned.line is not None
    labels, given = period.task.labels, learned.given[period.name]
    nothing = counts == 0
    default = in_process(learned.line, config, ground, _empty(config))[0]
    nobody = nothing[:, None, None]
    ways: dict[str, Sequence[Any]] = {
        f"{learned.name}, its default vector": _with(
            learned, ground, period, np.where(nobody, default, given.vectors)
        ),
        f"{learned.name}, zeros": _with(
            learned, ground, period, np.where(nobody, 0.0, given.vectors)
        ),
        "no activity: popularity": none.outcomes,
    }
    for members, (least, most) in COLD.items():
        mask = (counts >= least) & (counts <= most)
        for approach, outcomes in ways.items():
            found = estimates(outcomes, labels, resamples, mask, COLD_METRICS)
            yield {
                "members": members,
                "labels": int((mask & labels.positive).sum()),
                "approach": approach,
                "metrics": {name: one.interval() for name, one in found.items()},
            }


def _with(variant: Variant, ground: Ground, period: Period, vectors: Floats) -> list[Any]:
    given = variant.given[period.name]
    return [
        measure_one(ranker, given, ground, period, vectors.astype(np.float32))
        for ranker in variant.rankers
    ]


def _empty(config: Config) -> Padded:
    shape = (1, config.length)
    return Padded(
        np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32), 0, 0
    )
