"""What docs/spark.md says of the benchmarks of Spark, from their JSON.

python -m benchmarks.spark_page     # writes it into the page
"""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.report.section import load, markdown
from benchmarks.spark_join import RESULTS as JOINED
from benchmarks.spark_memory import ONE_IN
from transformations.config import ROOT

PAGE = ROOT / "docs" / "spark.md"
MARKS = ("<!-- spark: figures -->\n", "<!-- spark: end -->")
WAYS = {
    "here": "local, one process",
    "pool": "local, a pool of two processes",
    "spark": "Spark, two workers",
    "spark, one worker": "Spark, one worker",
    "dataframe": "Spark DataFrames",
}
AT_MOST = 1.7
"""Spark's CPU seconds against those here, of sequences and of the join."""
OF_DATAFRAMES = 0.25
DATAFRAMES = (6.7 * 0.8, 6.7 * 1.2)
"""What the DataFrames' CPU seconds against those here should be, so that the first bounds mean
something: they were 6.7 when this was planned."""
LONGEST = 2.0
WORKERS = 1.15
SAME_PEAK = 1.1
ORDERED_MB = 3_000_000 * 70 / 1e6
"""What Python holds of the actions that a task orders at once: transformations/tables.py."""
MEMORY_MB = 1_000 + ORDERED_MB
"""Bound of a task: `engine.memory` of the benchmark, and those actions."""


def figures(spark: Mapping[str, Any], join: Mapping[str, Any]) -> str:
    """Return the section's figures."""
    return "\n\n".join([*_sequences(spark), *_joined(join), _bounds(spark, join)]) + "\n"


def _sequences(spark: Mapping[str, Any]) -> Iterator[str]:
    for size in spark["ways"].values():
        rows = [
            [
                WAYS[one["way"]],
                f"{one['cpu_s']:.1f}",
                f"{one['times_here']:.2f}",
                f"{one['tasks_cpu_s']:.1f}" if "tasks_cpu_s" in one else "",
                f"{one['start_cpu_s']:.0f}" if "Spark" in WAYS[one["way"]] else "",
            ]
            for one in size["ways"]
        ]
        yield (
            f"Sequences of {size['events'] / 1e6:.0f} million actions of {size['members']:,} "
            f"members, {size['buckets']} buckets:"
        )
        yield markdown(
            ["way", "CPU s", "times one process", "of it in tasks", "Spark's start, CPU s"], rows
        )
        (one,) = (one for one in size["ways"] if one["way"] == "spark")
        yield (
            f"Of the {one['cpu_s']:.1f} s of Spark, {one['tasks_cpu_s']:.1f} are the tasks' own, "
            f"{one['processes_cpu_s'] - one['tasks_cpu_s']:.1f} what else their Python does "
            f"(as imports), {one['cpu_s'] - one['processes_cpu_s']:.1f} the JVMs and the "
            "driver."
        )
    grown = [
        f"{one['events'] / 1e6:.0f} million actions in {one['buckets']} buckets: "
        + ", ".join(f"{way['way']} {way['peak_mb']:.0f} MB" for way in one["ways"])
        for one in spark.get("grown", {}).values()
    ]
    if grown:
        yield f"Most memory of a task's process: {'; '.join(grown)}."
    for one in spark.get("hot", {}).values():
        said = "; ".join(
            f"{WAYS[way['way']]} {way['peak_mb']:.0f} MB, {way['cpu_s']:.1f} CPU s "
            f"({way['wall_s']:.0f} s beside other work), its longest task "
            f"{max(cost['cpu_s'] for cost in way['costs']):.1f}"
            for way in one["ways"]
        )
        yield (
            f"One member with {one['events'] // ONE_IN:,} of {one['events']:,} actions, each other "
            f"one of a member of its own ({one['ways'][0]['members']:,} members, "
            f"{one['buckets']} buckets): {said}."
        )


def _joined(join: Mapping[str, Any]) -> Iterator[str]:
    for size in join.values():
        rows = []
        for side, one in size["sides"].items():
            if "cpu_s" in one:
                started = f"{one['start_cpu_s']:.0f}" if "Spark" in side else ""
                rows.append([side, f"{one['cpu_s']:.1f}", f"{_of_here(size, side):.2f}", started])
            else:
                rows.append([side, f"failed: `{one['failed']}`", "", ""])
        yield (
            f"A training join of {size['labels'] / 1e6:.0f} million labels with "
            f"{size['snapshots']} snapshots of {size['members']:,} members, {size['width']} floats "
            f"each, in {size['buckets']} buckets:"
        )
        yield markdown(["store", "CPU s", "times the DuckDB store", "Spark's start, CPU s"], rows)


def _of_here(size: Mapping[str, Any], side: str) -> float:
    sides = size["sides"]
    return float(sides[side]["cpu_s"] / sides["DuckDB store"]["cpu_s"])


def _bounds(spark: Mapping[str, Any], join: Mapping[str, Any]) -> str:
    """Return the table of what was asked."""
    rows: list[list[str]] = []

    def row(asked: str, found: float, low: float, high: float, digits: int = 2) -> None:
        rows.append([asked, f"{found:.{digits}f}", "yes" if low <= found <= high else "**no**"])

    for size in spark["ways"].values():
        ways = {one["way"]: one for one in size["ways"]}
        of = f", {size['events'] / 1e6:.0f} million"
        row(f"Spark to one process, CPU: {AT_MOST} at most{of}",
            ways["spark"]["times_here"], 0, AT_MOST)  # fmt: skip
        if "dataframe" in ways:
            row(f"Spark to DataFrames, CPU: {OF_DATAFRAMES} at most{of}",
                ways["spark"]["cpu_s"] / ways["dataframe"]["cpu_s"], 0, OF_DATAFRAMES)  # fmt: skip
            low, high = DATAFRAMES
            row(f"DataFrames to one process, CPU: {low:.1f} to {high:.1f}{of}",
                ways["dataframe"]["times_here"], low, high)  # fmt: skip
        row(f"longest task to the median one, CPU: {LONGEST:.0f} at most{of}",
            ways["spark"]["longest_to_median_cpu"], 0, LONGEST)  # fmt: skip
        if "spark, one worker" in ways:
            alone = ways["spark, one worker"]["cpu_s"]
            row(f"two workers to one, CPU: {WORKERS} at most{of}",
                ways["spark"]["cpu_s"] / alone, 0, WORKERS)  # fmt: skip
    grown = list(spark.get("grown", {}).values())
    for many in grown[1:]:
        for few, much in zip(grown[0]["ways"], many["ways"], strict=True):
            row(f"memory of a task with ten times the members, {few['way']}: {SAME_PEAK} at most",
                much["peak_mb"] / few["peak_mb"], 0, SAME_PEAK)  # fmt: skip
            row(f"longest task to the median one, CPU: {LONGEST:.0f} at most, {few['way']}, "
                f"{many['events'] / 1e6:.0f} million in {many['buckets']} buckets",
                much["longest_to_median_cpu"], 0, LONGEST)  # fmt: skip
    for one in spark.get("hot", {}).values():
        for way in one["ways"]:
            row(f"memory of a task with the busy member, {way['way']}: {MEMORY_MB:.0f} MB at most",
                way["peak_mb"], 0, MEMORY_MB, 0)  # fmt: skip
    for size in join.values():
        row(f"join in Spark to the DuckDB store, CPU: {AT_MOST} at most",
            _of_here(size, "store in Spark"), 0, AT_MOST)  # fmt: skip
    return markdown(["asked", "measured", "held"], rows)


def read() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the results of the engine and of the join."""
    return load("spark"), load("spark_join") if JOINED.exists() else {}


def write_page() -> None:
    """Put the figures into docs/spark.md, between its marks."""
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(before + MARKS[0] + figures(*read()) + MARKS[1] + after)


if __name__ == "__main__":
    write_page()
