"""The effect of random negatives: the post's aggregator with and without them.

On the simulated market its labels are 97 positive to 3 dismissed. The benchmark simulates a market,
trains, evaluates, and keeps the result as evaluation_ablation.json in benchmarks/results.
"""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.evaluation import keep
from models.spec import Cnn, GeometricDecay
from models.training.recipe import Recipe
from operations.ledger import Ledger
from pipelines.daily import stage_events
from pipelines.datasets.simulate import Size, simulate
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.protocol import Protocol
from pipelines.progress import Stages
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.example_settings import ExampleSettings

END = datetime(2026, 11, 1, tzinfo=UTC)
LINES = (
    GeometricDecay(version=1, decay=0.8),
    Cnn(version=1, recipe=Recipe(objective="next_action")),
    Cnn(
        name="cnn_without_random",
        version=1,
        recipe=Recipe(objective="next_action", examples=ExampleSettings(random_negatives=0)),
    ),
)


def market(folder: Path, size: Size) -> Config:
    """Simulate a market in `folder`; return a configuration that reads it."""
    simulate(folder / "simulated", size, end=END)
    config = load_config()
    return config.model_copy(
        update={
            "data_dir": str(folder / "data"),
            "events": config.events.model_copy(
                update={"source": str(folder / "simulated" / "events")}
            ),
            "items": config.items.model_copy(
                update={"source": str(folder / "simulated" / "items.parquet")}
            ),
        }
    )


def main() -> None:
    """Run both and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--max-labels", type=int, default=8_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = market(Path(name), Size(members=options.members))
        ledger = Ledger(config)
        with ledger.run("evaluate", None) as run_id:
            stages = Stages(Console(), ledger, run_id)
            with connect(config) as con:
                stage_events(config, con, END, stages)
            protocol = Protocol(seeds=options.seeds, max_labels=options.max_labels, decays=(0.8,))
            command = "python -m benchmarks.random_negatives"
            file = evaluate(config, stages, protocol, command, LINES)
        print(f"kept {keep('ablation', file).name}")


if __name__ == "__main__":
    main()
