"""What every section of the page is made with."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
Section = tuple[str, dict[str, float]]
"""The text, empty where nothing was measured; and what the plot shows: name → times faster."""


def load(name: str) -> Any:
    """Return what a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(markdown(("side", "seconds"), [("ours", "2")]))
    | side | seconds |
    | --- | --- |
    | ours | 2 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
