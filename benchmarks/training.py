"""How long the default learned aggregator trains on MovieTweetings, and what feeds it.

Examples per second of the input pipeline alone should be well above those of the training step:
then the model is never starved.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from transformations.config import ROOT, load_config

RESULTS = Path(__file__).parent / "results" / "training.json"
SOURCE = ROOT.parent / "shared" / "data" / "movietweetings"
PASSES = 3


def run(source: Path) -> dict[str, Any]:
    """Import the data into a fresh folder, train once, then time input and step separately."""
    from models.spec import LearnedDecay
    from models.training.train import gather, train_on
    from pipelines.daily import end_of_last_day, last_midnight
    from pipelines.datasets.movietweetings import import_movietweetings
    from pipelines.init.command import Asked, run_init
    from transformations.duck import connect
    from transformations.sources import stage_activity, stage_items

    line = LearnedDecay(version=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        import_movietweetings(source, folder)
        asked = Asked(str(folder / "events.parquet"), str(folder / "items.parquet"))
        config = load_config(run_init(Console(quiet=True), str(folder / "workspace"), asked))
        with connect(config) as con:
            from models.items.build import build_items

            stage_activity(config, con, last_midnight())
            until = end_of_last_day(config)
            stage_items(config, con, until)
            build_items(config, con, until, until - config.window)
            began = time.perf_counter()
            data = gather(line, config, con, until)
            examples_seconds = time.perf_counter() - began
        began = time.perf_counter()
        trained = train_on(line, config, data, resume=False)
        train_seconds = time.perf_counter() - began
        rates = _rates(line, config, data)
    return {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor()},
        "examples": data.figures["examples"],
        "positives": data.figures["positives"],
        "seconds_examples": round(examples_seconds, 2),
        "seconds_training": round(train_seconds, 2),
        "passes": {phase: len(passes) for phase, passes in trained.history.items()},
        "metrics": trained.metrics,
        "examples_a_second": rates,
    }


def _rates(line: Any, config: Any, data: Any) -> dict[str, int]:
    """Return examples per second of the input alone, of the step alone, and of both together."""
    from models.backend import tf
    from models.layers.build import build
    from models.training.fitting import Fitting
    from models.training.objectives import OBJECTIVES
    from models.training.train import epoch_batches, popularity_of
    from transformations.timestamps import EPOCH

    recipe = replace(line.recipe, epochs=1)
    between = (EPOCH, data.until)
    popularity, steps = popularity_of(data, config, recipe, between)
    objective = OBJECTIVES[recipe.objective]
    fitting = Fitting(build(line, config), objective, recipe, data.items.vectors, popularity)
    batches = epoch_batches(data, config, recipe, between, seed=0)
    fitting.prepare(batches)
    examples = int(popularity.sum())
    held = next(iter(batches))
    step = tf.function(fitting.train_step, autograph=False)
    step(held)

    def of(what: Any) -> float:
        """Return the best of a few, since other work on the machine only slows it."""
        seconds = []
        for _ in range(PASSES):
            began = time.perf_counter()
            what()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    def only_input() -> None:
        for _ in epoch_batches(data, config, recipe, between, seed=1):
            pass

    def only_steps() -> None:
        for _ in range(steps):
            step(held)

    def both() -> None:
        for batch in epoch_batches(data, config, recipe, between, seed=1):
            step(batch)

    return {
        "input": round(examples / of(only_input)),
        "step": round(examples / of(only_steps)),
        "both": round(examples / of(both)),
    }


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE)
    result = run(parser.parse_args().source)
    table = Table(title=f"Training on {result['positives']:,} positives of MovieTweetings")
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_row("building the examples", f"{result['seconds_examples']:.1f} s")
    table.add_row(f"training, epochs {result['passes']}", f"{result['seconds_training']:.1f} s")
    for name, rate in result["examples_a_second"].items():
        table.add_row(f"examples per second, {name}", f"{rate:,}")
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
