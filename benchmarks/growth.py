"""How time and memory of a run's steps grow with what a member, a day and a folder hold.

Three shapes, each doubled a few times: one member with most of the actions; one day with half of
them; many small files. An exponent of 1 means twice the time (or memory beyond the smallest size's)
for twice the input. CPU seconds, which other work on the machine changes little.

    python -m benchmarks.growth
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from transformations.config import Config
from transformations.duck import connect
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples
from transformations.sources import stage_activity
from transformations.tables import build_sequences

RESULTS = Path(__file__).parent / "results" / "growth.json"
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
OTHERS = 1_000  # further members
SIZES = {
    "actions of one member": (12_500, 25_000, 50_000, 100_000),
    "actions, half of them on one day": (250_000, 500_000, 1_000_000, 2_000_000),
    "files of 20 actions": (1_250, 2_500, 5_000, 10_000),
}
ACTION = "['APPLY', 'SAVE', 'DISMISS'][1 + i % 3] as action"
SPREAD = "timestamptz '2026-03-01' - to_seconds(1 + hash(i) % 2000000)"
EVENTS = {
    "actions of one member": f"""
        select case when i < $size then 0 else 1 + i % {OTHERS} end as member_id,
        hash(i) % 5000 as item_id, {ACTION}, {SPREAD} as event_timestamp
        from range($size + 20 * {OTHERS}) r(i)""",
    "actions, half of them on one day": f"""
        select hash(i, 1) % ($size // 20) as member_id, hash(i) % 5000 as item_id, {ACTION},
        case when i % 2 = 0 then timestamptz '2026-02-20' + to_seconds(hash(i) % 86400)
        else {SPREAD} end as event_timestamp from range($size) r(i)""",
    "files of 20 actions": f"""
        select hash(i, 1) % {OTHERS} as member_id, hash(i) % 5000 as item_id, {ACTION},
        {SPREAD} as event_timestamp from range($size, $size + 20) r(i)""",
}


def measure(shape: str, size: int) -> dict[str, float]:
    """Run the steps on one source; return CPU seconds of each, and the peak memory in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(shape, size, folder / "source")
        config = Config.model_validate(
            {
                "data_dir": str(folder / "data"),
                "events": {"source": str(folder / "source"), "columns": {"ingested_at": None}},
                "items": {"text": ["title"]},
                "duckdb": {"memory_limit": "1GB", "threads": 2},
            }
        )
        found = {}
        settings = ExampleSettings()
        steps: dict[str, Callable[[Any], object]] = {
            "read the sources": lambda con: stage_activity(config, con, AS_OF),
            "read them again": lambda con: stage_activity(config, con, AS_OF),
            "sequences": lambda con: build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF),
            "training examples": lambda con: build_training_examples(config, con, settings, AS_OF),
        }
        for step, work in steps.items():
            with connect(config) as con:
                began = time.process_time()
                work(con)
                found[step] = round(time.process_time() - began, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**found, "peak MB": round(peak)}


def _write(shape: str, size: int, folder: Path) -> None:
    folder.mkdir()
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        files = size if shape.startswith("files") else 1
        for number in range(files):
            first = number * 20 if files > 1 else size
            con.execute(
                f"copy ({EVENTS[shape]}) to '{folder}/{number:06}.parquet' (format parquet)",
                {"size": first},
            )


def run() -> dict[str, Any]:
    """Measure every shape and size, each in a process of its own."""
    results: dict[str, Any] = {}
    for shape, sizes in SIZES.items():
        results[shape] = {
            "sizes": {size: _apart(shape, size) for size in sizes},
        }
        of = results[shape]["sizes"]
        results[shape]["exponents"] = {
            step: _exponent(sizes, [of[size][step] for size in sizes]) for step in of[sizes[0]]
        }
    return results


def _exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Return log2 of the growth from the second largest to the largest size."""
    last, before = max(values[-1], 0.01), max(values[-2], 0.01)
    return round(math.log(last / before) / math.log(sizes[-1] / sizes[-2]), 2)


def _apart(shape: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.growth", "--measure", shape, str(size)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a table of exponents and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        shape, size = arguments.measure
        print(json.dumps(measure(shape, int(size))))
        return
    results = run()
    for shape, result in results.items():
        table = Table(title=shape)
        steps = list(result["exponents"])
        for heading in ("size", *steps):
            table.add_column(heading, justify="right")
        for size, of in result["sizes"].items():
            table.add_row(f"{size:,}", *(f"{of[step]:,}" for step in steps))
        table.add_row("exponent", *(f"{result['exponents'][step]}" for step in steps))
        Console().print(table)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
