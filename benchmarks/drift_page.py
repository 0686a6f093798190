"""What docs/operations.md says of benchmarks/results/drift.json, as its lines."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "drift.json"
NAMED = 4
"""Measures that are named of a fault, those that stopped most often first."""
BESIDE = (
    *("stability", "chi-square", "ks distance", "mean", "session actions", "session minutes"),
    *("norm", "centroid shift", "kept neighbours", "told apart"),
)
"""Measures of which each is shown with what it finds."""


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page that hold figures, in their order."""
    ordinary = list(results["ordinary"].values())
    days, judged, stopped, warned = (
        sum(market[name] for market in ordinary)
        for name in ("days", "measures", "days_with_a_stop", "days_with_a_warning")
    )
    yield (
        f"Of {days} ordinary days ({len(ordinary)} markets, {judged:,} judged measures), {stopped} "
        f"had a stop and {warned} a warning."
    )
    yield "| fault of one day | stopped | told | by, first |"
    yield "|---|---|---|---|"
    for fault, row in results["faults"].items():
        by = row["stop"] or row["warning"]
        order = sorted(by, key=lambda name: (-by[name], len(name)))
        named = ", ".join(f"`{name}`" for name in [*dict.fromkeys(map(_short, order))][:NAMED])
        yield f"| {fault} | {row['stopped']} of {row['days']} | {row['told']} | {named} |"
    yield "| measure | faults with a stop by it | days with a warning or stop, of the ordinary |"
    yield "|---|---|---|"
    for measure in BESIDE:
        faults = sum(any(_is_of(measure, name) for name in row["stop"]) for row in
                     results["faults"].values())  # fmt: skip
        alarms = sum(
            count
            for market in ordinary
            for told in ("warnings", "stops")
            for name, count in market[told].items()
            if _is_of(measure, name)
        )
        yield f"| `{measure}` | {faults} of {len(results['faults'])} | {alarms} |"
    if "large" in results:
        yield cost(results["large"])


def cost(large: Mapping[str, Any]) -> str:
    """Return the sentence of what the measures of a large market take."""
    return (
        f"With {large['members']:,} members, {large['actions'] / 1e6:.0f} million actions in 31 "
        f"days and one vector field, they took {large['seconds']:.0f} s on two cores "
        f"({large['processor_seconds']:.0f} s of processor time), and {large['peak_gb']:.1f} GB "
        f"where `duckdb.memory_limit` is {large['memory_limit']}: it spills beyond."
    )


def _short(name: str) -> str:
    """Leave the view out of a measure of vectors."""
    return re.sub(r" of member_activity_\S+", "", name)


def _is_of(measure: str, name: str) -> bool:
    return name.rpartition(": ")[2].partition(" of ")[0] == measure


def read() -> Mapping[str, Any]:
    """Return the results."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


if __name__ == "__main__":
    print("\n".join(lines(read())))
