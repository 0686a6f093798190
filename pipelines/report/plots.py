"""The report's plots, as SVG inside the page.

Colours are the page's (`var(--good, #1a7f4b)`), so a plot follows the page into the dark scheme;
the names are those in report.css. One unit is one CSS pixel.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pipelines.report.result import DecayPoint, Histogram, Interval, MemberMap, Training
from pipelines.report.words import number, shown_by, tick
from pipelines.terminal import visible
from transformations.timestamps import as_utc

WIDTH, WIDE = 420, 450
INK = {
    "card": "#ffffff",
    "ink": "#1c2733",
    "muted": "#64707d",
    "line": "#d3d9df",
    "accent": "#1f6f8b",
    "good": "#1a7f4b",
    "bad": "#b3402b",
}
# Ten that are distinct on white and on black; the last is for `other`.
SERIES = {
    "c0": "#3b6ea6",
    "c1": "#d98033",
    "c2": "#4c9a6b",
    "c3": "#c4554e",
    "c4": "#8a6bb9",
    "c5": "#2b9db1",
    "c6": "#cf7fb1",
    "c7": "#86893a",
    "c8": "#8c6d56",
    "c9": "#a5adb6",
}
OTHER = "other"

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.edgecolor": INK["line"],
    "axes.labelcolor": INK["muted"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,
    "text.color": INK["ink"],
    # An item's title may have a dollar sign.
    "text.parse_math": False,
    "xtick.color": INK["line"],
    "xtick.labelcolor": INK["muted"],
    "ytick.color": INK["line"],
    "ytick.labelcolor": INK["ink"],
    "svg.fonttype": "none",
}


# Texts read their style when they are created, so the whole plot is drawn within it.
styled = mpl.rc_context(STYLE)


@styled
def forest(
    rows: Sequence[tuple[str, Interval, bool]], what: str, challenger: str | None = None
) -> str:
    """Draw differences with their intervals around zero, the first row on top.

    Args:
        rows: Label, difference, and whether higher is better; NaN leaves a row empty.
        what: What is shown, for screen readers.
        challenger: The label in bold.
    """
    colours = {"better": INK["good"], "worse": INK["bad"], "open": INK["muted"]}
    figure, axes, names = _rows([label for label, *_ in rows], 28, WIDTH)
    axes.axvline(0, color=INK["muted"], linewidth=1)
    for row, (_, difference, higher_is_better) in enumerate(rows):
        colour = colours[shown_by(difference, higher_is_better)]
        axes.plot([difference.low, difference.high], [row] * 2, color=colour, linewidth=2.5)
        axes.plot([difference.estimate], [row], "o", color=colour, markersize=7)
    for (label, *_), lines in zip(rows, names, strict=True):
        for line in lines:
            line.set_fontweight("bold" if label == challenger else "normal")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=INK["line"], linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    return _svg(figure, f"forest {what}", f"Forest plot: {what}")


@styled
def training_curves(name: str, training: Training) -> dict[str, str]:
    """Draw each curve of a training beside its validation: {loss: svg, ndcg10: svg}."""
    bases = dict.fromkeys(curve.removeprefix("val_") for curve in training.curves)
    plots = {}
    for base in sorted(bases, key=lambda base: base != "loss"):
        figure, axes = _axes(210)
        for curve, label, colour, style in (
            (base, "training", INK["muted"], "--"),
            (f"val_{base}", "validation", INK["accent"], "-"),
        ):
            if curve in training.curves:
                numbers = [float("nan") if y is None else y for y in training.curves[curve]]
                axes.plot(
                    training.epochs, numbers, style, color=colour, label=label, marker="o", ms=3
                )
        if training.best_epoch is not None:
            axes.axvline(training.best_epoch, color=INK["good"], linewidth=1.5, linestyle=":")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _finish(axes)
        plots[base] = _svg(figure, f"{name} {base}", f"{base} of {name} by epoch")
    return plots


@styled
def decay_curve(points: Sequence[DecayPoint], label: str) -> str:
    """Draw a metric on validation against r: one line per action, and one for a shared r."""
    figure, axes = _axes(280, WIDE)
    series: dict[str | None, list[DecayPoint]] = {}
    for point in sorted(points, key=lambda point: point.decay):
        series.setdefault(point.action, []).append(point)
    for (action, line), colour in zip(series.items(), _cycle(len(series)), strict=True):
        axes.plot(
            [point.decay for point in line],
            [point.value for point in line],
            color=colour,
            marker="o",
            ms=4,
            label=textwrap.fill(f"{action} alone" if action else "all actions", 22),
        )
        for point in line:
            if point.chosen:
                axes.plot([point.decay], [point.value], "o", color=colour, ms=11, mfc="none")
    axes.set_xlabel("r (circled: chosen)")
    _finish(axes)
    return _svg(figure, f"decay {label}", f"{label} on validation against the decay r")


@styled
def histogram(counts: Histogram, what: str) -> str:
    """Draw counts between edges."""
    figure, axes = _axes(260, WIDE)
    axes.stairs(counts.counts, counts.edges, fill=True, color=INK["accent"])
    axes.set_xlabel(what)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _finish(axes)
    return _svg(figure, f"histogram {what}", f"Histogram: {what}")


@styled
def bars(counts: Mapping[str, int], what: str) -> str:
    """Draw named counts, the largest on top, with their shares."""
    return _named(dict(sorted(counts.items(), key=lambda pair: -pair[1])), what, 44)


@styled
def columns(counts: Mapping[str, int], what: str) -> str:
    """Draw named counts in their order, the first on top, with their shares of all."""
    return _named(counts, what, 28)


@styled
def over_time(
    starts: Sequence[datetime], length: timedelta, counts: Mapping[str, Sequence[int]], what: str
) -> str:
    """Draw counts by time, one on the other, in the colours of `series_colours`.

    Args:
        starts: Where each bin begins, ascending; bins between them hold nothing.
        length: Of a bin.
        counts: Series → one count per bin.
    """
    figure, axes = _axes(260, WIDE)
    below = np.zeros(len(starts))
    # Wider than a bin of the calendar: the next one covers what is too much.
    left = np.array([as_utc(start).replace(tzinfo=None) for start in starts], "datetime64[us]")
    width = np.minimum(
        np.diff(left, append=left[-1:] + np.timedelta64(length)), np.timedelta64(length)
    )
    for name, colour in series_colours(counts).items():
        heights = np.asarray(counts[name])
        axes.bar(left, heights, width, bottom=below, align="edge", color=SERIES[colour], lw=0)
        below = below + heights
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    _finish(axes)
    return _svg(figure, f"over time {what}", f"Over time: {what}")


def series_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each series a colour of SERIES, in their order."""
    return dict(zip(names, cycle(SERIES)))


@styled
def shares(rows: Sequence[tuple[str, float, str]], what: str, marked: str = "") -> str:
    """Draw shares of a whole, the first on top.

    Args:
        rows: Label, share from 0 to 1, and what is written beside it.
        marked: The label in bold.
    """
    figure, axes, names = _rows([label for label, *_ in rows], 36, WIDE)
    axes.barh(range(len(rows)), [1.0] * len(rows), color=INK["line"], height=0.5, alpha=0.4)
    drawn = axes.barh(
        range(len(rows)), [share for _, share, _ in rows], color=INK["accent"], height=0.5
    )
    axes.bar_label(drawn, [text for *_, text in rows], padding=5, color=INK["ink"])
    for (label, *_), lines in zip(rows, names, strict=True):
        for line in lines:
            line.set_fontweight("bold" if label == marked else "normal")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines["left"].set_visible(False)
    return _svg(figure, f"shares {what}", f"Shares: {what}")


def category_colours(categories: Sequence[str]) -> dict[str, str]:
    """Give each category a colour of SERIES by its name, the commonest first, `other` last."""
    counts = {name: categories.count(name) for name in set(categories)}
    order = sorted(counts, key=lambda name: (name == OTHER, -counts[name], name))
    named = [name for name in SERIES if name != "c9"]
    return {
        name: "c9" if name == OTHER else named[index % len(named)]
        for index, name in enumerate(order)
    }


@styled
def member_map(members: MemberMap) -> str:
    """Draw the members as points coloured by their category."""
    figure, axes = _axes(480, width=960)
    draw_map(axes, members.x, members.y, members.category)
    return _svg(figure, "map", "Map of the members' vectors, coloured by category")


@styled
def item_map(points: NDArray[Any], category: Sequence[str], marked: int, space: str) -> str:
    """Draw the items of a space as points coloured by their category.

    Args:
        points: float [items, 2].
        marked: The first ones are circled, and numbered from 1.
    """
    figure, axes = _axes(420, width=560)
    x, y = points.T.tolist()
    draw_map(axes, x, y, category, size=4.5, marked=marked)
    return _svg(figure, f"map {space}", f"Map of the items' vectors in {space}, by category")


def draw_map(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    category: Sequence[str],
    size: float = 5.5,
    marked: int = 0,
) -> None:
    """Draw points in the colours of `category_colours`; the first `marked` ones get a number."""
    colours = category_colours(category)
    for name in reversed(colours):
        chosen = [index for index, own in enumerate(category) if own == name]
        axes.plot(
            [x[index] for index in chosen],
            [y[index] for index in chosen],
            "o",
            color=SERIES[colours[name]],
            ms=size,
            mec="none",
            alpha=0.75,
        )
    for index in range(marked):
        point = (x[index], y[index])
        axes.plot(*point, "o", ms=4 * size, mfc="none", mec=INK["ink"], mew=1.5)
        axes.annotate(
            str(index + 1),
            point,
            xytext=(2.6 * size, 2.6 * size),
            textcoords="offset points",
            fontweight="bold",
            color=INK["card"],
            bbox={"boxstyle": "circle,pad=0.15", "fc": INK["ink"], "ec": "none"},
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _named(counts: Mapping[str, int], what: str, height: float) -> str:
    total = sum(counts.values()) or 1
    figure, axes, _ = _rows(list(counts), height, WIDE)
    drawn = axes.barh(range(len(counts)), list(counts.values()), color=INK["accent"], height=0.6)
    texts = [f"{count:,} ({count / total:.1%})" for count in counts.values()]
    axes.bar_label(drawn, texts, padding=5, color=INK["muted"])
    axes.set_xlim(0, (max(counts.values(), default=0) or 1) * 1.45)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, f"bars {what}", f"Bars: {what}")


def _cycle(count: int) -> list[str]:
    return [list(SERIES.values())[index % len(SERIES)] for index in range(count)]


def _axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def _rows(
    labels: Sequence[str], height: float, width: float
) -> tuple[Figure, Axes, list[list[Annotation]]]:
    """Make axes of named rows, the first on top; return them with the lines of each name.

    Each line is a separate text, so the browser aligns it in its own font.
    """
    wrapped = [textwrap.wrap(label, 22) for label in labels]
    deepest = max(map(len, wrapped), default=1)
    figure, axes = _axes(40 + max(height, 15 * deepest + 4) * len(labels), width)
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    names = [
        [
            axes.annotate(
                line,
                (0, row),
                xycoords=axes.get_yaxis_transform(),
                xytext=(-8, 14 * ((len(lines) - 1) / 2 - nth)),
                textcoords="offset points",
                ha="right",
                va="center",
            )
            for nth, line in enumerate(lines)
        ]
        for row, lines in enumerate(wrapped)
    ]
    return figure, axes, names


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", color=INK["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    if axes.get_legend_handles_labels()[1]:
        # It is drawn inside the axes, so it must not shrink them.
        axes.legend(frameon=False, fontsize=12).set_in_layout(False)


def _svg(figure: Figure, salt: str, label: str) -> str:
    """Write a figure as one <svg> element, with ids made from `salt`."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        # The browser has glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn = file.getvalue()
    found = re.search(r'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>', drawn)
    assert found is not None, "matplotlib wrote an <svg> without a viewBox"
    width, height = found.groups()
    head = (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}">'
    )
    drawn = head + drawn[found.end() :].rstrip()
    # In a page, one plot's style would apply to all, and ids of groups would be repeated.
    drawn = re.sub(r"<style.*?</style>", "", drawn, count=1, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*">', "<g>", drawn)
    for name, colour in (INK | SERIES).items():
        drawn = drawn.replace(f": {colour}", f": var(--{name}, {colour})")
    return visible(drawn)
