"""Rankers: how fast WideAndDeep trains beside bare Keras, and what scoring a member takes.

Bare Keras is `model.fit` with AdamW of the same layers on arrays that lie in memory, laid out for
each pair beforehand, with one cross-entropy an action. Ours gathers each batch of whole groups from
tables that hold a member or an item once, and learns the order inside each group besides. The aim:
0.7 of its examples a second, and 500 pairs of one member scored in 1 to 3 ms on one core.

    python -m benchmarks.rankers [--labels 1000000]
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from models.rankers.inputs import Columns, Inputs, Labelled
from models.rankers.lines import BoostedTrees, Linear, WideAndDeep

RESULTS = Path(__file__).parent / "results" / "rankers.json"
HEADS = {"APPLY": 1.0, "SAVE": 0.5, "DISMISS": -0.5}
GROUP = 17
DIM = 64
SPACES = 2
MEMBER_NUMBERS, ITEM_NUMBERS, PAIR_NUMBERS = 24, 16, 16
PAIRS = 500
PASSES = 3
CALLS = 200


def market(labels: int, seed: int = 0) -> Labelled:
    """Return labels in groups of 17: a member as of a time, an action and 16 drawn pairs."""
    rng = np.random.default_rng(seed)
    groups = max(labels // GROUP, 1)
    n, items = groups * GROUP, max(min(groups, 20_000), 500)

    def numbers(side: str, count: int, rows: int) -> dict[str, Any]:
        found = rng.normal(size=(count, rows)).astype(np.float32)
        found[rng.random((count, rows)) < 0.1] = np.nan
        return {f"{side}.number_{index}": column for index, column in enumerate(found)}

    def kinds(side: str, count: int, rows: int) -> dict[str, Any]:
        names = np.array([*(f"kind {number}" for number in range(40)), None], dtype=object)
        return {f"{side}.category_{index}": rng.choice(names, rows) for index in range(count)}

    def vectors(side: str, rows: int) -> dict[str, Any]:
        return {
            f"{side}.space_{index}": rng.normal(size=(rows, DIM)).astype(np.float32)
            for index in range(SPACES)
        }

    members = Columns(
        numbers("member", MEMBER_NUMBERS, groups),
        kinds("member", 3, groups),
        vectors("member", groups),
    )
    of_items = Columns(
        numbers("item", ITEM_NUMBERS, items), kinds("item", 2, items), vectors("item", items)
    )
    member_rows, item_rows = np.repeat(np.arange(groups), GROUP), rng.integers(0, items, n)
    targets = np.zeros((n, len(HEADS)), np.float32)
    targets[::GROUP, 0] = 1.0
    targets[rng.random(n) < 0.02, 1] = 1.0
    targets[rng.random(n) < 0.02, 2] = 1.0
    return Labelled(
        Inputs(
            members,
            of_items,
            Columns(numbers("pair", PAIR_NUMBERS, n)),
            member_rows,
            item_rows,
            {f"member.space_{index}": f"item.space_{index}" for index in range(SPACES)},
        ),
        targets,
        np.ones(n, np.float32),
        member_rows,
        np.full(n, -1),
    )


def training(labels: int) -> dict[str, Any]:
    """Return examples a second of an epoch of ours, and of bare Keras, in turns."""
    from models.rankers.deep.learning import Examples, Fitting, positive_weights
    from models.rankers.deep.network import Network, Sizes
    from models.rankers.preprocessing import Preprocessing
    from models.rankers.wide_and_deep import wide_of

    line = WideAndDeep(version=1)
    began = time.perf_counter()
    data = market(labels)
    print(f"{len(data):,} labels made in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    made = Preprocessing.fit(data.inputs)
    encoded = made.encode(data.inputs)
    preprocessing = time.perf_counter() - began
    columns, fields = wide_of(line, made)
    offsets = tuple(made.offsets.tolist())
    sizes = Sizes(len(made.columns), offsets, len(HEADS), columns, fields)
    fitting = Fitting(Network(line, sizes), HEADS, positive_weights(line, data))
    examples = Examples.of(encoded, data)
    step = fitting.step_on(examples)
    rng = np.random.default_rng(0)

    def ours() -> None:
        losses = [step(*batch) for batch in examples.batches(line.batch_size, rng)]
        float(losses[-1][0])

    sides = [(table.dense[rows], table.codes[rows]) for table, rows in encoded.sides]
    dense = np.concatenate([*(d for d, _ in sides), encoded.products()], axis=1)
    codes = np.concatenate([c for _, c in sides], axis=1)
    model = bare(line, sizes)

    def theirs() -> None:
        model.fit([dense, codes], data.targets, batch_size=line.batch_size, epochs=1, verbose=0)

    seconds = in_turns({"ours": ours, "bare Keras": theirs})
    return {
        "labels": len(data),
        "columns": dense.shape[1],
        "categories": codes.shape[1],
        "laid_out_mb": round((dense.nbytes + codes.nbytes) / 1e6),
        "tables_mb": round(sum(t.dense.nbytes + t.codes.nbytes for t, _ in encoded.sides) / 1e6),
        "seconds_preprocessing": round(preprocessing, 2),
        "examples_a_second": {name: round(len(data) / best) for name, best in seconds.items()},
        "ratio": round(seconds["bare Keras"] / seconds["ours"], 3),
    }


def bare(line: WideAndDeep, sizes: Any) -> Any:
    """Return the same layers as a functional Keras model, compiled."""
    from models.backend import keras

    layers, ops, dim = keras.layers, keras.ops, line.embedding_dim
    dense = keras.Input((sizes.width,))
    codes = keras.Input((sizes.fields,), dtype="int32")
    linear = layers.Dense(sizes.heads)(dense)
    linear += ops.sum(layers.Embedding(sizes.codes, sizes.heads)(codes), axis=1)
    factors = layers.Dense(dim, use_bias=False)
    vectors = layers.Embedding(sizes.codes, dim)(codes)
    sums = factors(dense) + ops.sum(vectors, axis=1)
    squared = layers.Dense(dim, use_bias=False)(ops.square(dense))
    squares = squared + ops.sum(ops.square(vectors), axis=1)
    machine = layers.Dense(sizes.heads, use_bias=False)(0.5 * (ops.square(sums) - squares))
    looked_up = layers.Flatten()(layers.Embedding(sizes.codes, dim)(codes))
    x = layers.Concatenate()([dense, looked_up])
    for units in line.deep:
        x = layers.Dropout(line.dropout)(layers.Dense(units, activation="relu")(x))
    logits = linear + machine + layers.Dense(sizes.heads)(x)
    model = keras.Model([dense, codes], logits)
    model.compile(
        keras.optimizers.AdamW(line.learning_rate, weight_decay=line.weight_decay),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def in_turns(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the best seconds of each way, after one pass that does not count."""
    best: dict[str, float] = {}
    for turn in range(PASSES + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
    return best


def scoring(labels: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds that 500 pairs of one member take, of each kind."""
    from threadpoolctl import threadpool_limits

    data = market(labels)
    nothing = data.take(np.zeros(0, np.int64))
    some = market(PAIRS * GROUP, seed=1).inputs
    inputs = Inputs(
        some.members.take(np.zeros(1, np.int64)),
        some.items.take(np.arange(PAIRS)),
        some.pairs.take(np.arange(PAIRS)),
        np.zeros(PAIRS, np.int64),
        np.arange(PAIRS),
        some.spaces,
    )
    found = {}
    lines = (Linear(version=1), BoostedTrees(version=1), WideAndDeep(version=1, epochs=1))
    for line in lines:
        ranker = line.fitted_class().fit(replace(line), HEADS, data, nothing, seed=0)
        times = []
        with threadpool_limits(1):
            for _ in range(CALLS):
                began = time.perf_counter()
                ranker.scores(inputs)
                times.append((time.perf_counter() - began) * 1_000)
        median, high = np.percentile(times, [50, 99])
        found[line.kind] = {"median_ms": round(median, 3), "p99_ms": round(high, 3)}
    return found


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    result = {"machine": {"cores": os.cpu_count()}, "training": training(asked.labels)}
    result["scoring"] = {"pairs": PAIRS, **scoring(min(asked.labels, 100_000))}
    told = result["training"]
    title = f"WideAndDeep, {told['labels']:,} labels, {told['columns']} columns"
    table = Table(title=title)
    table.add_column("training")
    table.add_column("examples per second", justify="right")
    for name, rate in told["examples_a_second"].items():
        table.add_row(name, f"{rate:,}")
    table.add_row("ours / bare Keras", f"{told['ratio']:.2f}")
    Console().print(table)
    table = Table(title=f"{PAIRS} pairs of one member, one core")
    for name in ("kind", "median", "p99"):
        table.add_column(name, justify="right")
    for kind, times in result["scoring"].items():
        if isinstance(times, dict):
            table.add_row(kind, f"{times['median_ms']:.2f} ms", f"{times['p99_ms']:.2f} ms")
    Console().print(table)
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
