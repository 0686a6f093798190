"""How long `feast apply` and the import of `feature_repo` take, each in a fresh process."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "feast.json"
ROOT = Path(__file__).parent.parent
NEEDED = (".feastignore", "feature_store.yaml", "activity.yaml")
PACKAGES = ("feature_repo", "models", "stores", "transformations")


def run(repeats: int = 5) -> dict[str, dict[str, float]]:
    """Return seconds by what was run: the median and the worst of `repeats` fresh processes.

    `feast apply` runs in a copy without data, as in a clean clone; `import feast` and `feast
    --help` beside it are what nothing in this repository can take away.
    """
    python, feast = sys.executable, str(Path(sys.executable).with_name("feast"))
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            clone = Path(name)
            for file in NEEDED:
                shutil.copy(ROOT / file, clone)
            for package in PACKAGES:
                shutil.copytree(ROOT / package, clone / package)
            for what, command in {
                "import feast": [python, "-c", "import feast"],
                "import feature_repo.definitions": [
                    *(python, "-c", "import feature_repo.definitions"),
                ],
                "feast --help": [feast, "--help"],
                "feast apply, clean clone": [feast, "apply"],
                "feast apply, nothing changed": [feast, "apply"],
            }.items():
                began = time.perf_counter()
                subprocess.run(command, cwd=clone, check=True, capture_output=True)
                seconds.setdefault(what, []).append(time.perf_counter() - began)
    return {
        what: {"median": round(statistics.median(times), 2), "worst": round(max(times), 2)}
        for what, times in seconds.items()
    }


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    results = run(parser.parse_args().repeats)
    table = Table(title="Seconds in a fresh process")
    for column in ("what", "median", "worst"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, times in results.items():
        table.add_row(what, f"{times['median']:.1f}", f"{times['worst']:.1f}")
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
