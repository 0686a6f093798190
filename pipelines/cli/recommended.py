"""The tables of `activity evaluate recommender`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from pipelines.terminal import PlainTable, escape

METRICS = {"ndcg10": "NDCG@10", "hr10": "HR@10", "mrr": "MRR"}


def show_recommender(console: Console, result: Mapping[str, Any]) -> None:
    """Show what was measured: rankers and references, sources, what each input is worth."""
    best = result["best_reference"]
    table = PlainTable(
        title=f"Both stages on the test, {result['labels']:,} labels (in brackets: minus {best}, "
        "over members; over items)",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("what", min_width=16)
    for label in METRICS.values():
        table.add_column(label, justify="right")
    for name, metrics in result["metrics"].items():
        cells = []
        for key in METRICS:
            text = f"{metrics[key]['value']:.4f}"
            minus = result["minus_best_reference"].get(name)
            if minus and key == "ndcg10":
                spans = (minus[key]["members"], minus[key]["items"])
                text += "".join(f"\n{low:+.4f} to {high:+.4f}" for low, high in spans)
            cells.append(text)
        table.add_row(name, *cells)
    console.print()
    console.print(table)
    sources = PlainTable(title="Candidate sources", title_justify="left", header_style="bold")
    for column in ("source", "recall alone", "adds to the others"):
        sources.add_column(column, justify="left" if column == "source" else "right")
    for name, figures in result["sources"].items():
        sources.add_row(name, f"{figures['recall']:.3f}", f"{figures['adds']:.3f}")
    console.print(sources)
    share = result["candidates_share_of_full_hr10"]
    recall = ", ".join(f"{value:.3f} at {k}" for k, value in result["recall"].items())
    if share is not None:
        console.print(
            f"Recall of the candidates in the ranker's order: {recall}. They keep {share:.0%} of "
            f"what {escape(result['chosen'])} hits in its first ten over the full catalogue."
        )
    for name, went in result.get("incremental", {}).items():
        console.print(f"{escape(name)}, going on: {escape(went_on(went))}", highlight=False)
    apart = PlainTable(
        title=f"What an input is worth to {result['chosen']}: its change without it, on "
        f"{result['labels_apart']:,} labels",
        title_justify="left",
        header_style="bold",
    )
    apart.add_column("without")
    for key in ("ndcg10", "hr10"):
        apart.add_column(METRICS[key], justify="right")
    for name, metrics in result["apart"].items():
        if name.startswith("without "):
            changes = [f"{metrics[key]['value']:+.4f}" for key in ("ndcg10", "hr10")]
            apart.add_row(name.removeprefix("without "), *changes)
    console.print(apart)
    lists = result["lists"]
    if lists:
        console.print(
            f"The first ten: {lists['coverage']:.1%} of the catalogue, {lists['popular_share']:.1%}"
            f" of them among the most popular tenth, novelty {lists['novelty_bits']:.1f} bits, "
            f"diversity {lists['diversity']:.3f}"
        )


def went_on(went: Mapping[str, Any]) -> str:
    """Say what a fit that went on over the buffer is beside a full one.

    >>> went_on({"why": "too few labels"})
    'not compared: too few labels'
    """
    if "why" in went:
        return f"not compared: {went['why']}"
    own, minus = went["metrics"]["ndcg10"], went["minus_full"]["ndcg10"]
    low, high = minus["members"]
    return (
        f"NDCG@10 {own['value']:.4f}, minus a full fit {minus['value']:+.4f} "
        f"({low:+.4f} to {high:+.4f} over members)"
    )
