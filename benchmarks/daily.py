"""Where the time of a whole `activity run` goes, at 20,000 and 200,000 simulated members."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "daily.json"


def run(members: list[int], jobs: int = 5_000) -> dict[str, dict[str, float]]:
    """Time one whole run per size, each in a fresh data folder; return seconds by stage."""
    return {str(count): _one(count, jobs) for count in members}


def _one(members: int, jobs: int) -> dict[str, float]:
    from operations.ledger import Ledger
    from transformations.config import ROOT, load_config

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = (ROOT / "feature_store.yaml").read_text()
        # The same settings, but for where the registry and the online store lie.
        (folder / "feature_store.yaml").write_text(store.replace("data/", f"{folder}/data/"))
        config = folder / "activity.yaml"
        text = (ROOT / "activity.yaml").read_text().replace("data/", f"{folder}/data/")
        config.write_text(
            f"data_dir: {folder}/data\nfeature_store: {folder}/feature_store.yaml\n{text}"
        )
        environment = os.environ | {"ACTIVITY_CONFIG": str(config)}
        activity = [sys.executable, "-m", "pipelines.cli"]
        size = ["--members", str(members), "--jobs", str(jobs)]
        subprocess.run([*activity, "simulate", *size], env=environment, check=True)
        began = time.perf_counter()
        subprocess.run([*activity, "run", "--as-of", "last"], env=environment, check=True)
        whole = time.perf_counter() - began
        (last,) = Ledger(load_config(config)).last_runs(1)
        seconds = {stage["stage"]: round(stage["seconds"], 2) for stage in last["stages"]}
        seconds["imports and the rest"] = round(whole - sum(seconds.values()), 2)
        seconds["whole run"] = round(whole, 2)
        return seconds


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[20_000, 200_000])
    sizes = run(parser.parse_args().members)
    table = Table(title="Seconds of one `activity run`, by stage")
    table.add_column("stage")
    for size in sizes:
        table.add_column(f"{int(size):,} members", justify="right")
    for stage in next(iter(sizes.values())):
        table.add_row(stage, *(f"{seconds[stage]:.1f}" for seconds in sizes.values()))
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(sizes, indent=2) + "\n")


if __name__ == "__main__":
    main()
