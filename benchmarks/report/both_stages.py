"""The tables of `benchmarks/recommender.py` and `benchmarks/impressions.py`, from their JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.section import RESULTS, load, markdown

SETS = {"ifdb": "IFDB", "xwines": "X-Wines", "movietweetings": "MovieTweetings"}
REFERENCES = {
    "popular": "popularity",
    "knn": "item-kNN, last 10",
    "last_item": "item-kNN, last item",
    "ease": "EASE",
    "als": "implicit ALS",
    "sasrec": "SASRec",
}
METRICS = {"ndcg10": "NDCG@10", "hr10": "HR@10", "mrr": "MRR"}
LISTS = ("coverage", "popular_share", "novelty_bits", "diversity")


def both_stages() -> str:
    """Return a section for each set that was measured."""
    parts = [
        f"### {title}\n\n{section(load(f'recommender_{name}'))}"
        for name, title in SETS.items()
        if (RESULTS / f"recommender_{name}.json").exists()
    ]
    if (RESULTS / "impressions.json").exists():
        shown = of_shown(load("impressions"))
        parts.append(f"### What was shown, or what was drawn\n\n{shown}")
    return "\n\n".join(parts)


def section(result: Mapping[str, Any]) -> str:
    """Return the tables of one set."""
    return "\n\n".join(part(result) for part in (_rankers, _sources, _candidates, _apart, _lists))


def of_shown(result: Mapping[str, Any]) -> str:
    """Return what learning from impressions brings."""
    judged, minus = result["judged"], result["difference"]
    values = "; ".join(f"{name} {value:.4f}" for name, value in result["ndcg10"].items())
    return (
        f"A simulated market of {result['members']:,} members, `{result['line']}`, "
        f"{result['seeds']} seeds; judged on {judged['slates']:,} slates of "
        f"{judged['members']:,} members in the week after. NDCG@10 inside a slate, learned from: "
        f"{values}. The first minus the second: {minus['mean']:+.4f} "
        f"[{minus['low']:+.4f}, {minus['high']:+.4f}] over members and seeds."
    )


def _rankers(result: Mapping[str, Any]) -> str:
    best = result["best_reference"]
    rows = []
    for name, metrics in result["metrics"].items():
        minus = result["minus_best_reference"].get(name, {}).get("ndcg10")
        label = REFERENCES.get(name, f"`{name}`")
        rows.append(
            [
                f"**{label}**" if name == result["chosen"] else label,
                *(f"{metrics[key]['value']:.4f}" for key in METRICS),
                "" if minus is None else f"{minus['value']:+.4f} {_span(minus['members'])}",
                "" if minus is None else _span(minus["items"]),
            ]
        )
    head = ["", *METRICS.values(), f"NDCG@10 minus {REFERENCES[best]}", "over items too"]
    return (
        f"{result['labels']:,} labels; in bold the ranker that did best on validation. "
        f"`{result['command']}`.\n\n{markdown(head, rows)}"
    )


def _sources(result: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", f"{figures['recall']:.3f}", f"{figures['adds']:.3f}"]
        for name, figures in result["sources"].items()
    ]
    return markdown(["candidate source", "recall alone", "adds to the others"], rows)


def _candidates(result: Mapping[str, Any]) -> str:
    recall = ", ".join(f"{value:.3f} at {k}" for k, value in result["recall"].items())
    share = result["candidates_share_of_full_hr10"]
    return (
        f"Recall of the candidates in the ranker's order: {recall}. With them it hits "
        f"{share:.1%} of what it hits in its first ten over the full catalogue."
    )


def _apart(result: Mapping[str, Any]) -> str:
    rows = []
    for name, metrics in result["apart"].items():
        if name.startswith("without "):
            change = metrics["ndcg10"]
            span = _span(change["members"])
            clear = change["members"][0] > 0 or change["members"][1] < 0
            text = f"{change['value']:+.4f} {span}"
            rows.append([name.removeprefix("without "), f"**{text}**" if clear else text])
    head = ["left out", f"its change in NDCG@10, {result['labels_apart']:,} labels"]
    return markdown(head, rows)


def _lists(result: Mapping[str, Any]) -> str:
    coverage, popular, novelty, diversity = (result["lists"][name] for name in LISTS)
    heads = "; ".join(
        f"{head} AUC {each['auc']:.3f}, mean probability {each['mean_probability']:.3f} where "
        f"{each['share']:.3f} did"
        for head, each in result["heads"].items()
    )
    return (
        f"The first ten: {coverage:.1%} of the catalogue, {popular:.1%} of them among its most "
        f"popular tenth, novelty {novelty:.1f} bits, diversity {diversity:.3f}. Of what members "
        f"acted on: {heads}."
    )


def _span(span: Sequence[float]) -> str:
    low, high = span
    return f"[{low:+.4f}, {high:+.4f}]"
