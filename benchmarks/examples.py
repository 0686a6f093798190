"""Training examples per second: made by the SQL, and read by the input pipeline; and memory.

The pipeline is measured with the examples kept in memory and read row group by row group, beside a
training step of the default learned aggregator.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from transformations.config import ROOT, Config
from transformations.example_settings import ExampleSettings
from transformations.layout import period_file
from transformations.timestamps import DAY_US

RESULTS = Path(__file__).parent / "results" / "examples.json"
UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", tz="UTC")
DAYS = 60
ITEMS = 20_000
EVENTS_PER_MEMBER = 25
BATCH = 256
PASSES = 3

SETTINGS = {
    "next, right before the label": ExampleSettings(),
    "next, of the daily snapshot": ExampleSettings(inputs="snapshot"),
    "next, random negatives in inputs": ExampleSettings(random_negatives_in_inputs=True),
    "all of 7 days, every 4th window": ExampleSettings(labels="all", stride=4, random_negatives=0),
}


def write_world(folder: Path, events: int) -> Config:
    """Write activity: log-normal numbers of actions, and one member with a thousandth of all."""
    config = _config(folder)
    rng = np.random.default_rng(0)
    members = events // EVENTS_PER_MEMBER
    weights = rng.lognormal(0, 1.2, members)
    weights[0] = weights.sum() / 1_000
    owner = rng.choice(members, events, p=weights / weights.sum())
    span = DAYS * 86_400_000_000
    end = int(UNTIL.timestamp() * 1e6)
    timestamps = end - span + np.sort(rng.integers(0, span, events))
    names = pa.array(list(config.actions))
    columns = {
        "member_id": pa.array(owner),
        "item_id": pa.array((ITEMS * rng.random(events) ** 2).astype(np.int64)),
        "action": names.take(pa.array(rng.choice(len(names), events, p=[0.15, 0.25, 0.6]))),
        "event_timestamp": pa.array(timestamps).cast(UTC_US),
        "ingested_at": pa.nulls(events, UTC_US),
    }
    table = pa.table(columns)
    days = timestamps // DAY_US
    for day in np.unique(days):
        first, last = np.searchsorted(days, [day, day + 1])
        date = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(day))).date()
        file = period_file(config.layout.activity, date)
        file.parent.mkdir(parents=True)
        part = table.slice(first, last - first)
        # The same action twice in a microsecond is a duplicate, which `activity` holds once.
        part = part.group_by(part.column_names, use_threads=False).aggregate([])
        pq.write_table(part.sort_by("member_id"), file, compression="zstd")
    return config


def build_world(folder: Path, name: str) -> dict[str, Any]:
    """Build the examples of one setting in this process; return rows, seconds, peak RSS, file."""
    from transformations.duck import connect
    from transformations.examples import build_training_examples

    config = _config(folder)
    with connect(config) as con:
        began = time.perf_counter()
        report = build_training_examples(config, con, SETTINGS[name], UNTIL)
        seconds = time.perf_counter() - began
    return {
        "examples": report.examples,
        "seconds": seconds,
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "bytes": report.file.stat().st_size,
        "file": str(report.file),
    }


def run(events: int) -> dict[str, Any]:
    """Measure the SQL with each of SETTINGS, and the pipeline on the examples of the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder, events)
        made = {}
        for setting in SETTINGS:
            # A separate process, so its peak is its own.
            command = [sys.executable, "-m", "benchmarks.examples", "--build", str(folder), setting]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            made[setting] = json.loads(done.stdout)
        file = Path(made["next, right before the label"]["file"])
        rates = _pipeline(_config(folder), file)
    for facts in made.values():
        del facts["file"]
        facts["seconds"] = round(facts["seconds"], 2)
    return {
        "events": events,
        "sql": made,
        "examples_a_second": {what: round(rate) for what, rate in rates.items()},
    }


def _pipeline(config: Config, file: Path) -> dict[str, float]:
    from models.sequences import ItemTable
    from models.training import examples

    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((ITEMS + 1, config.dim)).astype(np.float32)
    items = ItemTable(pa.array(np.arange(ITEMS)), vectors)
    kept = examples.KEPT_BYTES
    rates = {}
    for what, limit in (("kept in memory", sys.maxsize), ("read row group by row group", 0)):
        examples.KEPT_BYTES = limit
        stream = examples.dataset(file, items, config, BATCH, seed=0)
        rates[what] = _rate(stream, warm=limit > 0)
    examples.KEPT_BYTES = kept
    rates["training step alone"] = _training(config, file, items)
    return rates


def _rate(stream: Any, warm: bool) -> float:
    """Return examples per second of the best epoch."""
    best = 0.0
    for _ in range(PASSES + warm):
        began, seen = time.perf_counter(), 0
        for batch in stream:
            seen += len(batch["weight"])
        best = max(best, seen / (time.perf_counter() - began))
    return best


def _training(config: Config, file: Path, items: Any) -> float:
    """Return examples per second of the default learned aggregator's step, on batches in memory."""
    from models.layers.build import build
    from models.spec import LearnedDecay
    from models.training.examples import dataset
    from models.training.fitting import Fitting
    from models.training.objectives import OBJECTIVES

    line = LearnedDecay(version=1)
    recipe = line.recipe
    popularity = np.ones(len(items.vectors), np.float32)
    popularity[0] = 0
    fitting = Fitting(
        build(line, config), OBJECTIVES[recipe.objective], recipe, items.vectors, popularity
    )
    batches = dataset(file, items, config, recipe.batch_size, seed=0).take(200).cache()
    fitting.fit(batches, shuffle=False, verbose=0)
    began = time.perf_counter()
    fitting.fit(batches, shuffle=False, verbose=0)
    return 200 * recipe.batch_size / (time.perf_counter() - began)


def _config(folder: Path) -> Config:
    return Config.model_validate({"data_dir": str(folder), "items": {"text": ["title"]}})


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        folder, setting = arguments.build
        print(json.dumps(build_world(Path(folder), setting)))
        return
    results = run(arguments.events)
    made = Table(title=f"Training examples made of {results['events']:,} actions")
    for column in ("setting", "examples", "seconds", "examples/s", "peak RSS, MB", "file, MB"):
        made.add_column(column, justify="left" if column == "setting" else "right")
    for setting, facts in results["sql"].items():
        made.add_row(
            setting,
            f"{facts['examples']:,}",
            f"{facts['seconds']:.1f}",
            f"{facts['examples'] / facts['seconds']:,.0f}",
            f"{facts['peak_rss'] / 2**20:,.0f}",
            f"{facts['bytes'] / 2**20:,.0f}",
        )
    read = Table(title=f"Examples per second of the input pipeline, {BATCH} per batch")
    read.add_column("what")
    read.add_column("examples/s", justify="right")
    for what, rate in results["examples_a_second"].items():
        read.add_row(what, f"{rate:,}")
    console = Console()
    console.print(made)
    console.print(read)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
