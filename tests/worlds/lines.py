"""Three lines in one item space, for worlds that write item vectors of text by hand."""

from pathlib import Path

from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8, stream=True),
    LearnedDecay(version=1, stream=True),
)
TEXT = """from models.spec import Average, GeometricDecay, LearnedDecay

AGGREGATORS = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8, stream=True),
    LearnedDecay(version=1, stream=True),
)
"""


def write_catalogue(root: Path) -> None:
    """Make these the lines of a workspace."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "catalog.py").write_text(TEXT)
