"""The switch that removes the class paths from the test worlds' settings, as a user may.

Under `ACTIVITY_PLAIN_FEAST=1` (`make test-plain`) every feature_store.yaml that a test writes names
Feast's own stores and engine, and a test marked `mended_trap` is expected to fail. Tests of the
plug-ins themselves name them in Python, and run unchanged.
"""

import os
from pathlib import Path

from tests.worlds.kinds import KINDS

SWITCH = "ACTIVITY_PLAIN_FEAST"

FEASTS = {
    "stores.duckdb_asof.DuckDBAsofOfflineStore": "duckdb",
    "stores.columnar.ColumnarComputeEngine": "local",
    **{kind.ours: kind.feasts for kind in KINDS.values()},
}


def switched_on() -> bool:
    """Whether the worlds use plain Feast."""
    return os.environ.get(SWITCH) == "1"


def without_class_paths(text: str) -> str:
    """Name Feast's own kinds in the text of a feature_store.yaml."""
    for ours, feasts in FEASTS.items():
        text = text.replace(ours, feasts)
    return text


def settings(text: str) -> str:
    """Return the text of a feature_store.yaml as the switch wants it."""
    return without_class_paths(text) if switched_on() else text


def rewrite(root: Path) -> None:
    """Remove the class paths from every feature_store.yaml of a copy of the repository."""
    for file in (root / "feature_store.yaml", *(root / "examples").glob("feature_store.*.yaml")):
        file.write_text(without_class_paths(file.read_text()))
