"""The 20 nearest of each of a million items: a graph's time, memory and recall, beside two others.

    python -m benchmarks.neighbours --items 1000000

The vectors are simulated: unit, in topics of unlike size. Beside the graph that candidate sources
search: all items compared with a sample of them, and the rows of a full sparse product of
co-actions, which is what item-kNN is without vectors. Each part runs in a process of its own,
whose peak of memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

RESULT = Path(__file__).parent / "results" / "neighbours.json"
DIM, NEAREST, TOPICS, SPREAD = 64, 20, 2_000, 0.6
AT_ONCE, SAMPLE = 10_000, 2_000
ACTIONS_PER_ITEM, PER_MEMBER = 20, 32
PARTS = ("graph", "exact", "sparse_product")


def simulated(items: int) -> NDArray[np.float32]:
    """Return unit vectors, float32 [items, DIM]: around topics, the first of which are large."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(TOPICS, DIM)).astype(np.float32) / np.sqrt(DIM)
    share = 1 / np.arange(1, TOPICS + 1) ** 0.5
    of = rng.choice(TOPICS, items, p=share / share.sum())
    vectors = topics[of] + SPREAD * rng.normal(size=(items, DIM)).astype(np.float32) / np.sqrt(DIM)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def part(name: str, items: int) -> dict[str, float]:
    """Run one part in this process; return its seconds and peak of memory."""
    found = {"graph": _graph, "exact": _exact, "sparse_product": _sparse_product}[name](items)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return found | {"peak_gb": round(peak, 2)}


def _graph(items: int) -> dict[str, float]:
    from models.candidates.nearest import Nearest

    vectors = simulated(items)
    start = time.perf_counter()
    nearest = Nearest(vectors, "cosine", exact=0)
    built = time.perf_counter()
    for first in range(0, items, AT_ONCE):
        nearest.of(vectors[first : first + AT_ONCE], NEAREST + 1)
    end = time.perf_counter()
    some = np.random.default_rng(1).choice(items, SAMPLE, replace=False)
    found, _ = nearest.of(vectors[some], NEAREST)
    exact, _ = Nearest(vectors, "cosine", exact=items).of(vectors[some], NEAREST)
    recall = np.mean([len({*a} & {*b}) / NEAREST for a, b in zip(found, exact, strict=True)])
    return {
        "build_seconds": round(built - start, 1),
        "search_seconds": round(end - built, 1),
        "seconds": round(end - start, 1),
        "recall": round(float(recall), 4),
    }


def _exact(items: int) -> dict[str, float]:
    from models.candidates.nearest import Nearest

    vectors = simulated(items)
    nearest = Nearest(vectors, "cosine", exact=items)
    start = time.perf_counter()
    nearest.of(vectors[:SAMPLE], NEAREST + 1)
    return _of_all(time.perf_counter() - start, items)


def _sparse_product(items: int) -> dict[str, float]:
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    n = items * ACTIONS_PER_ITEM
    popular = np.cumsum(1 / np.arange(1, items + 1) ** 0.8)
    rows = np.arange(n) // PER_MEMBER
    columns = np.searchsorted(popular, rng.random(n) * popular[-1]).astype(np.int32)
    acted = csr_array((np.ones(n, np.float32), (rows, columns)), (rows[-1] + 1, items))
    of_items = acted.T.tocsr()
    some = of_items[rng.choice(items, SAMPLE, replace=False)]
    start = time.perf_counter()
    product = some @ acted
    for row in range(SAMPLE):
        own = product.data[product.indptr[row] : product.indptr[row + 1]]
        if len(own) > NEAREST:
            np.argpartition(-own, NEAREST)
    return _of_all(time.perf_counter() - start, items)


def _of_all(seconds: float, items: int) -> dict[str, float]:
    """Return what a sample took, and what all rows would at its rate."""
    return {
        "sample": SAMPLE,
        "sample_seconds": round(seconds, 2),
        "seconds": round(seconds * items / SAMPLE, 1),
    }


def main() -> None:
    """Measure the parts, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.part, options.items)))
        return
    result: dict[str, Any] = {"items": options.items, "dim": DIM, "nearest": NEAREST}
    for name in PARTS:
        command = [sys.executable, "-m", "benchmarks.neighbours", "--part", name]
        ran = subprocess.run(
            [*command, "--items", str(options.items)], capture_output=True, text=True, check=True
        )
        result[name] = json.loads(ran.stdout.splitlines()[-1])
    table = Table(title=f"{NEAREST} nearest of {options.items:,} items")
    for column in ("part", "seconds", "recall", "peak GB"):
        table.add_column(column)
    for name in PARTS:
        row = result[name]
        said = f"{row['seconds']:,.0f}" + (" at a sample's rate" if "sample" in row else "")
        table.add_row(name, said, f"{row.get('recall', '')}", f"{row['peak_gb']}")
    Console().print(table)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
