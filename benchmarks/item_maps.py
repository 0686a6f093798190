"""The maps and the neighbours of docs/items.md, from the Interactive Fiction Database.

    python -m benchmarks.item_maps

Writes docs/items.png, and the table between the marks of docs/items.md. It uses the workspace of
`python -m benchmarks.evaluation run ifdb`, and makes it where it is missing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from benchmarks.evaluation import activity, workspace_of
from pipelines.nearest import beginning
from pipelines.report.items import ItemSpaces, Relation, item_spaces
from pipelines.report.plots import INK, SERIES, STYLE, category_colours, draw_map
from transformations.config import load_config
from transformations.duck import connect, parquet
from transformations.layout import partitions

DOCS = Path(__file__).parents[1] / "docs"
PAGE, IMAGE = DOCS / "items.md", DOCS / "items.png"
SHOWN, TITLE, COLOURS = 3, 40, 256
CONTEST = re.compile(r"comp\w* (19|20)\d\d|\bjam\b", re.IGNORECASE)
"""Names a competition with its year, such as IFComp 2021, or a jam, in a game's categories."""
MARKS = re.compile(r"(?<=<!-- neighbours -->\n).*?(?=<!-- /neighbours -->)", re.DOTALL)


def main() -> None:
    """Make what the page shows, from the workspace's newest vectors."""
    config = load_config(workspace_of("ifdb"))
    if not partitions(config.layout.sequences):
        activity("run", "--config", str(config.root), "--as-of", "last")
    with connect(config) as con:
        found = item_spaces(config, con, datetime.now(UTC))
        rows = con.sql(f"select item_id, categories from {parquet([config.layout.staged_items])}")
        contests = contests_of(found, dict(rows.fetchall()))
    draw(found)
    text = PAGE.read_text()
    PAGE.write_text(MARKS.sub(lambda _: "\n".join([*table(found, contests), ""]), text, count=1))
    print(f"wrote {IMAGE.name} and the table of {PAGE.name}")


@mpl.rc_context(STYLE)
def draw(found: ItemSpaces) -> None:
    """Draw the spaces side by side, two in a row, with one legend."""
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    rows = -(-len(found.spaces) // 2)
    for space, axes in zip(found.spaces, figure.subplots(rows, 2).flat, strict=False):
        assert space.points is not None
        x, y = space.points.T.tolist()
        draw_map(axes, x, y, found.categories, size=3.5, marked=found.marked)
        axes.set_title(f"{space.name}, by {space.similarity}", loc="left", fontweight="bold")
    handles = [
        Line2D([], [], ls="", marker="o", color=SERIES[colour], label=name)
        for name, colour in category_colours(found.categories).items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, frameon=False, labelcolor=INK["ink"]
    )
    file = BytesIO()
    figure.savefig(file, dpi=80, facecolor="white")
    # The median cut makes colours of few points alike.
    few = (
        Image.open(file)
        .convert("RGB")
        .quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    few.save(IMAGE, optimize=True)


def contests_of(found: ItemSpaces, categories: Mapping[Any, Sequence[str]]) -> Relation:
    """Return which games entered the same competition of a year, or the same jam."""
    entered = [
        {each.lower() for each in categories.get(item) or () if CONTEST.search(each)}
        for item in found.items
    ]
    same = np.array([[bool(one & other) for other in entered] for one in entered], np.float32)
    about = "the share of the same year's competition, or jam"
    return Relation("of its contest", about, same, np.array([bool(each) for each in entered]))


def table(found: ItemSpaces, contests: Relation) -> Iterator[str]:
    """Yield a Markdown table: what is near in each space, and per example its nearest items."""
    yield f"| | {' | '.join(space.name for space in found.spaces)} |"
    yield f"|---|{'---|' * len(found.spaces)}"
    for relation in (*found.relations, contests):
        shares = (relation.over_nearest(space.vectors) for space in found.spaces)
        cells = " | ".join(f"{share:.1%}" for share in shares)
        about = f"of the ten nearest, {relation.about} ({relation.by_chance:.1%} by chance)"
        yield f"| {about} | {cells} |"
    for number, example in enumerate(found.examples, start=1):
        near = ("; ".join(_title(one.text) for one in each[:SHOWN]) for each in example.near)
        yield f"| {number}: *{_title(example.text)}*, {example.why} | {' | '.join(near)} |"


def _title(text: str) -> str:
    """Return a game's title, which its text names."""
    found = re.search(r"Title: (.+?)\. Author: ", text)
    return beginning(re.sub(r"([|*])", r"\\\1", found[1]), TITLE) if found else "(without text)"


if __name__ == "__main__":
    main()
