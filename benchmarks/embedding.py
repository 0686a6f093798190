"""Members embedded per second, beside Keras's predict over preassembled tensors; and memory.

predict gets every member's item vectors in one tensor, which the daily job must first make.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from transformations import names
from transformations.config import ROOT, Config
from transformations.layout import partition

RESULTS = Path(__file__).parent / "results" / "embedding.json"
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", tz="UTC")
CHUNK = 50_000
MEAN_LENGTH = 12
UNKNOWN = 0.02
ROUNDS = 3


def write_world(folder: Path, members: int, items: int, dim: int, length: int) -> Config:
    """Write a snapshot: geometric lengths (mean 12), 2% of the actions on items without vector."""
    config = Config.model_validate(
        {"data_dir": str(folder), "items": {"text": ["title"]}, "dim": dim, "length": length}
    )
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((items, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    config.items_dir.mkdir(parents=True)
    pq.write_table(
        pa.table(
            {
                "item_id": np.arange(items),
                "embedding": _lists(pa.array(vectors.ravel()), np.full(items, dim)),
                "available_at": pa.array([AS_OF - timedelta(days=40)] * items, UTC_US),
                "encoder": ["tfidf_svd"] * items,
                "encoder_version": np.ones(items, np.int64),
            }
        ),
        config.items_dir / "part-a.parquet",
    )
    file = partition(config.layout.sequences, AS_OF)
    file.parent.mkdir(parents=True)
    writer = None
    for first in range(0, members, CHUNK):
        table = _sequences(config, rng, first, min(CHUNK, members - first), items)
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return config


def _sequences(
    config: Config, rng: np.random.Generator, first: int, members: int, items: int
) -> pa.Table:
    lengths = np.minimum(rng.geometric(1 / MEAN_LENGTH, members), config.length)
    owner = np.repeat(np.arange(members), lengths)
    window = int(config.window / timedelta(microseconds=1))
    end = int(AS_OF.timestamp() * 1e6)
    times = end - rng.integers(1, window, len(owner))
    times = times[np.lexsort((times, owner))]
    codes = rng.choice(len(config.actions), len(owner), p=[0.15, 0.25, 0.6])
    words = pa.array(list(config.actions))
    chosen = rng.integers(0, int(items / (1 - UNKNOWN)), len(owner))
    return pa.table(
        {
            "member_id": np.arange(first, first + members),
            "event_timestamp": pa.array([AS_OF] * members, UTC_US),
            "created_timestamp": pa.array([AS_OF] * members, UTC_US),
            "item_ids": _lists(pa.array(chosen), lengths),
            "actions": _lists(words.take(pa.array(codes)), lengths),
            "event_timestamps": _lists(pa.array(times).cast(UTC_US), lengths),
            "n_actions": lengths,
            **{
                names.count_column(action): np.bincount(owner[codes == code], minlength=members)
                for code, action in enumerate(config.actions)
            },
            "last_action_at": pa.array(times[np.cumsum(lengths) - 1]).cast(UTC_US),
        }
    )


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values)


def embed_world(config: Config, aggregators: Sequence[Any] | None = None) -> dict[str, float]:
    """Embed the snapshot in this process; return members, seconds and the peak RSS in bytes."""
    from models.catalog import AGGREGATORS
    from models.embed import embed_snapshot
    from transformations.duck import connect

    lines = AGGREGATORS if aggregators is None else aggregators
    for line in lines:
        package_untrained(line, config)
    with connect(config) as con:
        began = time.perf_counter()
        report = embed_snapshot(config, con, AS_OF, AS_OF, lines)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"members": report.members, "seconds": seconds, "peak_rss": peak}


def package_untrained(line: Any, config: Config) -> None:
    """Package a line; a learned one with its initial weights, which take the same time."""
    from models.layers.build import build
    from models.manifest import MANIFEST
    from models.packaging import package
    from models.spec import Learned

    packaged = (line.artifact(config) / MANIFEST).exists()
    learns = isinstance(line, Learned) and not packaged
    package(line, config, build(line, config) if learns else None, AS_OF if learns else None)


def run(members: int = 200_000, items: int = 5_000, predicted: int = 40_000) -> dict[str, Any]:
    """Measure throughput at `members`, and memory there and at four times as many.

    Args:
        predicted: Members that predict is given at once: 8 kB each, in one tensor.
    """
    from models.catalog import AGGREGATORS

    with tempfile.TemporaryDirectory() as name:
        sizes = {}
        for times in (1, 4):
            folder = Path(name) / str(times)
            write_world(folder, times * members, items, dim=64, length=32)
            # A separate process, so its peak is its own.
            command = [sys.executable, "-m", "benchmarks.embedding", "--measure", str(folder)]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            sizes[f"{times}x"] = json.loads(done.stdout)
        config = _config(Path(name) / "1")
        rates: dict[str, float] = {}
        for line in AGGREGATORS:
            rates[f"{line.name}, embed_snapshot"] = _best(
                members, partial(embed_world, config, [line])
            )
            rates |= _models_alone(config, line, predicted)
        together = " + ".join(line.name for line in AGGREGATORS)
        rates[f"{together}, embed_snapshot"] = _best(members, lambda: embed_world(config))
    return {
        "members": members,
        "items": items,
        "members_a_second": {name: round(rate) for name, rate in rates.items()},
        "memory": sizes,
    }


def _models_alone(config: Config, line: Any, members: int) -> dict[str, float]:
    """Return the rates of embed_snapshot's parts and of predict, without files."""
    from models.embed import together
    from models.layers.build import build
    from models.packaging import load
    from models.sequences import ItemTable, pad
    from transformations.duck import connect

    with connect(config) as con:
        items = ItemTable.read(config, con, AS_OF)
    sequences = pq.ParquetFile(partition(config.layout.sequences, AS_OF))
    padded = pad(next(sequences.iter_batches(members)), items, config.rules, AS_OF)
    embed = together([load(line, config)], items, config.rules)
    model = build(line, config)
    tensors = {
        "item_embeddings": items.vectors[padded.rows],
        "actions": padded.actions,
        "ages": padded.ages,
    }
    return {
        f"{line.name}, gathered and embedded": _best(len(padded.rows), lambda: embed(padded)),
        f"{line.name}, predict(batch_size=2048)": _best(
            len(padded.rows), lambda: model.predict(tensors, batch_size=2_048, verbose=0)
        ),
    }


def _best(members: int, work: Callable[[], object]) -> float:
    """Return members per second in the best of some rounds, after one that traces and warms up."""
    work()
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return members / best


def _config(folder: Path) -> Config:
    return Config.model_validate({"data_dir": str(folder), "items": {"text": ["title"]}})


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(embed_world(_config(arguments.measure))))
        return
    results = run(arguments.members, arguments.items, min(40_000, arguments.members))
    table = Table(title=f"Members embedded per second ({results['members']:,} members)")
    table.add_column("what")
    table.add_column("members/s", justify="right")
    for what, rate in results["members_a_second"].items():
        table.add_row(what, f"{rate:,}")
    memory = Table(title="One embed_snapshot of all aggregators, in its own process")
    for column in ("members", "seconds", "peak RSS, MB"):
        memory.add_column(column, justify="right")
    for size in results["memory"].values():
        peak = f"{size['peak_rss'] / 2**20:,.0f}"
        memory.add_row(f"{size['members']:,}", f"{size['seconds']:.1f}", peak)
    console = Console()
    console.print(table)
    console.print(memory)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
