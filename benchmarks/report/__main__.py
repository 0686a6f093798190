"""`python -m benchmarks.report`: write docs/performance.md and its plot.

No number is typed by hand: what a JSON does not hold, the page does not say.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.report import batch, recommend, serving
from benchmarks.report.section import Section

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = DOCS / "performance.md", DOCS / "performance.png"
SECTIONS = (
    batch.sequences,
    batch.items,
    batch.embedding,
    batch.training_join,
    batch.training,
    serving.materialize,
    serving.stored_bytes,
    serving.read,
    serving.stream,
    serving.request_time,
    recommend.service,
    recommend.faults,
    recommend.rankers,
    recommend.neighbours,
    serving.feast,
    batch.daily,
    batch.own_data,
    batch.growth,
)
HEADER = """# Performance

Made by `python -m benchmarks.report` from the JSON in `benchmarks/results/`, which `make bench`
writes. One machine of 2 cores; ratios are between sides of the same run. The machine is a shared
one, so single seconds vary from run to run by a third and more; the ratios vary less.

![How many times faster than what a user would do otherwise](performance.png)
"""


def main() -> None:
    """Write the page and the plot."""
    text, ratios = page()
    PAGE.write_text(text)
    _plot(ratios)
    print(f"wrote {PAGE.name} and {PLOT.name}")


def page() -> Section:
    """Return the text of the page, and what the plot shows."""
    found = [make() for make in SECTIONS]
    ratios = {name: ratio for _, of_section in found for name, ratio in of_section.items()}
    return "\n".join([HEADER, *(text for text, _ in found if text)]), ratios


def _plot(ratios: dict[str, float]) -> None:
    names, values = list(ratios), list(ratios.values())
    figure, axes = plt.subplots(figsize=(9, 0.7 * len(names) + 1.2), layout="constrained")
    bars = axes.barh(names, values, color="#3b6ea5")
    axes.bar_label(bars, [f"{value:.1f} times" for value in values], padding=4)
    axes.axvline(1, color="#888888", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.2)
    axes.set_xlabel("times faster, same machine, same run")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
