"""Benchmark of the market that answers: how agreement is counted and written."""

import json
from typing import Any

from benchmarks.closed_loop import result_of

Three = tuple[float, float, float]


def market(seed: int, offline: Three, online: Three) -> dict[str, Any]:
    names = (("estimate", "low", "high"), ("lift", "low", "high"))
    found = [
        dict(zip(name, each, strict=True))
        for name, each in zip(names, (offline, online), strict=True)
    ]
    pair = {"offline": {"members": found[0]}, "online": found[1]}
    return {"seed": seed, "seconds": 1.0, "pairs": {"a against b": pair}}


def test_agreement_counts_signs_and_those_that_are_sure() -> None:
    markets = [
        market(1, (0.1, 0.05, 0.2), (0.2, 0.1, 0.3)),
        market(2, (0.1, -0.05, 0.2), (0.2, 0.1, 0.3)),
        market(3, (-0.1, -0.2, -0.05), (0.2, 0.1, 0.3)),
    ]
    found = json.loads(json.dumps(result_of(markets, 3.0)))["agreement"]["a against b"]
    assert (found["all"]["agree"], found["all"]["of"]) == (2, 3)
    assert (found["sure"]["agree"], found["sure"]["of"]) == (1, 2)
    assert found["all"]["interval"] == [0.208, 0.939]
