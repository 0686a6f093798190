"""How long item encoders that read activity are fitted, and how fast they fold items in.

Simulated: members with a few topics act on items of them, popular ones more often, and on any item
now and then. Each part runs in a process of its own, whose peak of memory is its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "items.json"
MEMBERS, LENGTH, ITEMS, DIM = 1_000_000, 32, 50_000, 64
TOPICS, TOPICS_EACH, ANY_ITEM, EPOCHS = 200, 3, 0.3, 3
MINUTE_US = 60_000_000
PARTS = ("co_actions", "skip_gram", "bare_gensim")


def simulated(members: int) -> Any:
    """Return a corpus without texts: `members` sequences of LENGTH actions on ITEMS items."""
    import pyarrow as pa

    from models.items.protocol import Behaviour, Corpus, Document

    rng = np.random.default_rng(0)
    per_topic = ITEMS // TOPICS
    popular = np.cumsum(1 / np.arange(1, per_topic + 1) ** 0.8)
    items = np.empty((members, LENGTH), np.int32)
    at_once = 100_000
    for start in range(0, members, at_once):
        rows = items[start : start + at_once]
        own = rng.integers(0, TOPICS, (len(rows), TOPICS_EACH))
        topic = np.take_along_axis(own, rng.integers(0, TOPICS_EACH, rows.shape), axis=1)
        inner = np.searchsorted(popular, rng.random(rows.shape) * popular[-1])
        anything = rng.random(rows.shape) < ANY_ITEM
        rows[:] = np.where(anything, rng.integers(0, ITEMS, rows.shape), per_topic * topic + inner)
    ids = pa.array(range(ITEMS), pa.int64())
    n = items.size
    behaviour = Behaviour(
        members=np.repeat(np.arange(members), LENGTH),
        items=items.ravel(),
        item_ids=ids,
        timestamps=np.tile(np.arange(LENGTH) * MINUTE_US, members),
        signs=np.ones(n, np.int8),
        codes=np.ones(n, np.int16),
        actions=("APPLY",),
    )
    return Corpus([Document(None, None)] * ITEMS, ids, np.zeros(ITEMS, np.int64), behaviour)


def part(name: str, members: int) -> dict[str, Any]:
    """Run one part in this process; return seconds and the peak of memory."""
    corpus = simulated(members)
    if name == "bare_gensim":
        seconds = {"fit": _bare(corpus)}
    else:
        from models.items.spec import CoActions, SkipGram, fitted_class

        lines = {
            "co_actions": CoActions(version=1),
            "skip_gram": SkipGram(version=1, epochs=EPOCHS),
        }
        began = time.perf_counter()
        encoder = fitted_class(name).fit(lines[name], corpus, DIM)
        fitted = time.perf_counter()
        encoder.encode(corpus)
        seconds = {"fit": fitted - began, "fold_in": time.perf_counter() - fitted}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": {what: round(took, 1) for what, took in seconds.items()},
        "cpu_seconds": round(time.process_time(), 1),
        "peak_mb": peak // 1024,
    }


def _bare(corpus: Any) -> float:
    """Return how long gensim alone takes on the same sentences, given as lists of words."""
    from gensim.models import Word2Vec

    words = corpus.behaviour.items.reshape(-1, LENGTH).astype(str).tolist()
    began = time.perf_counter()
    Word2Vec(words, vector_size=DIM, window=5, min_count=1, sg=1, epochs=EPOCHS, seed=0, workers=1)
    return time.perf_counter() - began


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument("--part", choices=PARTS, help="run this part only, and print its JSON")
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(part(asked.part, asked.members)))
        return
    measured = {}
    for name in PARTS:
        command = [sys.executable, "-m", "benchmarks.items", "--part", name]
        command += ["--members", str(asked.members)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured[name] = json.loads(done.stdout.splitlines()[-1])
    table = Table(title=f"{asked.members:,} sequences of {LENGTH} over {ITEMS:,} items")
    for column in ("what", "fit", "items folded in per minute", "peak"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, figures in measured.items():
        seconds = figures["seconds"]
        rate = f"{60 * ITEMS / seconds['fold_in']:,.0f}" if "fold_in" in seconds else ""
        table.add_row(name, f"{seconds['fit']:.0f} s", rate, f"{figures['peak_mb']:,} MB")
    Console().print(table)
    result = {
        "machine": {"cores": os.cpu_count()},
        "members": asked.members,
        "length": LENGTH,
        "items": ITEMS,
        "dim": DIM,
        "parts": measured,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
