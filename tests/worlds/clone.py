"""A copy of the repository in a fresh folder, used as a user would: through its commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

from tests.worlds import plain_feast
from transformations.config import ROOT

LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    "data",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "*.tmp",
    "build",
)
# The catalogue of a workspace whose run trains nothing.
AVERAGE_ONLY = (
    "from models.spec import Aggregator, Average\n\n"
    "AGGREGATORS: tuple[Aggregator, ...] = (Average(version=1),)\n"
)
READ = """
import json, sys, warnings
warnings.filterwarnings("ignore")
from feast import FeatureStore
store = FeatureStore(".")
member, item = json.loads(sys.argv[1])
answer = store.get_online_features(
    features=store.get_feature_service("ranker_average_v1"),
    entity_rows=[{"member_id": member, "item_id": item}],
).to_dict()
print(json.dumps({name: values[0] for name, values in answer.items()}, default=str))
"""


SMALL = "\nmin_positives: 1\nrelease: {promote: automatic}\n"
"""Settings of worlds that are small: gates have tests of their own."""


class Clone:
    """A folder with the repository's files, and an empty HOME."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT)
        settings = self.root / "activity.yaml"
        settings.write_text(settings.read_text() + SMALL)
        if plain_feast.switched_on():
            plain_feast.rewrite(self.root)
        (folder / "home").mkdir()
        self.environment = {
            name: value for name, value in os.environ.items() if name != "ACTIVITY_CONFIG"
        } | {"HOME": str(folder / "home"), "COLUMNS": "140", "PYTHONPATH": str(self.root)}

    def train_once(self, catalogue: Path) -> None:
        """Train the space of a catalogue for one epoch: nobody asks how good a vector is."""
        text = catalogue.read_text()
        assert "Trained(version=1)" in text
        catalogue.write_text(text.replace("Trained(version=1)", "Trained(version=1, epochs=1)"))

    def activity(self, *arguments: str, fails: int = 0) -> str:
        """Run the command line; return what it printed; assert its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == fails, (
            f"{done.stdout}\n{done.stderr}\nexit code {done.returncode}"
        )
        assert "Warning" not in done.stderr, done.stderr
        assert "leaked" not in done.stderr, done.stderr  # what nanobind finds alive at the end
        return done.stdout if fails == 0 else done.stderr

    def python(self, code: str, *arguments: str, folder: str = ".") -> str:
        """Run Python code in a folder of the clone; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.root / folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def ranker(self, workspace: str, member: object, item: object) -> dict[str, Any]:
        """Return what a ranker reads online of the average's service, in a workspace by name."""
        asked = json.dumps([member, item])
        answer: dict[str, Any] = json.loads(
            self.python(READ, asked, folder=f"workspaces/{workspace}")
        )
        return answer

    def rows(self, query: str, data: str = "data") -> list[tuple]:
        """Run SQL with {data} standing for the clone's data folder."""
        with duckdb.connect() as con:
            con.execute("set TimeZone = 'UTC'")
            return con.execute(query.replace("{data}", str(self.root / data))).fetchall()

    def tables(self) -> dict[str, list[tuple]]:
        """Return every table's rows, in order, but for the times that a run took.

        Quarantine lies in folders by the day of the run: its rows count without it.
        """
        found: dict[str, list[tuple]] = {}
        with duckdb.connect() as con:
            con.execute("set TimeZone = 'UTC'")
            for folder in (
                "activity",
                "quarantine",
                "member_sequences",
                "member_stats",
                "item_stats",
                "member_embeddings",
                "items",
            ):
                for file in sorted((self.root / "data" / folder).rglob("*.parquet")):
                    name = folder if folder == "quarantine" else str(file.relative_to(self.root))
                    rows = con.execute(
                        "select columns(lambda c: c <> 'created_timestamp') from "
                        f"read_parquet('{file}', hive_partitioning = false) order by all"
                    ).fetchall()
                    found.setdefault(name, []).extend(tuple(map(_comparable, row)) for row in rows)
        return found


def _comparable(value: object) -> object:
    """Return a list with None for each NaN, which equals nothing."""
    if not isinstance(value, list):
        return value
    return [None if isinstance(one, float) and one != one else one for one in value]
