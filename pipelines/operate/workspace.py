"""The workspace of a market that answers: examples/operate, in a folder of its own."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.datasets.closed_loop import ClosedLoop
from transformations.config import CONFIG, ROOT, Config, load_config

EXAMPLE = ROOT / "examples" / "operate"
CATALOGUE = "catalog.py"
RANKERS = "RANKERS: tuple[Ranker, ...] = "


def write_workspace(
    root: Path, market: ClosedLoop, rankers: Sequence[str], changes: Mapping[str, Any] | None = None
) -> Config:
    """Write the sources and the workspace; return its configuration.

    Args:
        root: A folder that is not there yet.
        rankers: Names of the example's rankers; the first one answers.
        changes: Keys of activity.yaml with other values.
    """
    shutil.copytree(EXAMPLE, root, ignore=shutil.ignore_patterns("__pycache__"))
    settings = yaml.safe_load((root / CONFIG).read_text()) | dict(changes or {})
    (root / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
    market.write(root / "source")
    return only(root, *rankers)


def only(root: Path, *rankers: str) -> Config:
    """Let the catalogue name these rankers and no others; return the configuration."""
    file = root / CATALOGUE
    before, _, _ = file.read_text().partition(RANKERS)
    named = "".join(f"{name.upper()}, " for name in rankers)
    file.write_text(f"{before}{RANKERS}({named})\n")
    return load_config(root)
