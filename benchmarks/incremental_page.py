"""What docs/training.md says of `benchmarks/incremental.py`, from its JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.section import markdown

RESULTS = Path(__file__).parent / "results" / "incremental.json"
PAGE = Path(__file__).parents[1] / "docs" / "training.md"
MARKS = ("<!-- incremental: figures -->\n", "<!-- incremental: end -->")
ALSO = {
    "incremental, full learning rate": "at the full learning rate instead of a tenth of it",
    "incremental, slower": "at a tenth of the recipe's learning rate",
    "incremental, new ids drawn": "with new ids drawn instead of as the unknown one",
    "full, the same labels": "of full fits on all labels that the incremental one learned from",
}


def figures(results: Mapping[str, Any]) -> str:
    """Return what docs/training.md says of the results."""
    titles = {
        "space": "item space and its layer",
        "aggregator": "aggregator in a space of texts",
        "ranker": "ranker with a vector per id",
    }
    rows, new, notes = [], [], []
    measured = [name for name in titles if name in results]
    for name in measured:
        title, of = titles[name], results[name]
        spans = {
            key: f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            for key, (value, low, high) in of["differences"].items()
        }
        rows.append(
            [
                title,
                *(f"{of['ndcg10'][way]:.4f}" for way in ("stale", "incremental", "full")),
                *(spans[key] for key in ("incremental - full", "incremental - stale")),
                f"{of['seconds']['incremental']:.1f} / {of['seconds']['full']:.1f}",
            ]
        )
        values = of["new_items"]["ndcg10"]
        new.append(
            f"{title} {values['stale']:.4f}, {values['incremental']:.4f}, {values['full']:.4f} "
            f"({of['new_items']['labels']:,} labels)"
        )
        notes += [
            f"The {name}'s NDCG@10 {ALSO[way]} is {of['ndcg10'][way]:.4f}, "
            f"{spans[f'{way} - incremental']} points beside the incremental one above; on new "
            f"items {values[way]:.4f}."
            for way in of["ndcg10"]
            if way in ALSO
        ]
    one = results[measured[0]]
    head = ["", "never again", "incremental", "full", "incremental - full, points"]
    head += ["incremental - never again, points", "processor seconds, incremental / full"]
    return (
        f"`python -m benchmarks.incremental` ([results](../benchmarks/results/incremental.json)): "
        f"IFDB since 2022, a first fit until {results['first']}, then {len(one['refits'])} refits, "
        f"a quarter apart, each measured on the time until the next one; the buffer is "
        f"{results['buffer_days']} days, and every incremental fit goes on from the one before. "
        f"{one['labels']:,} labels of {one['members']:,} members; NDCG@10 with 95% intervals over "
        "members, paired.\n\n"
        f"{markdown(head, rows)}\n\n"
        f"On items that nobody had acted on by the first fit (never again, incremental, full): "
        f"{'; '.join(new)}. A full fit of the ranker learns from its newest "
        f"{results['labels_of_full']:,} labels, so those that go on have seen more in all. "
        f"{' '.join(notes)}\n"
    )


def write_page(results: Mapping[str, Any]) -> None:
    """Put the figures into docs/training.md, between its marks."""
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(before + MARKS[0] + figures(results) + MARKS[1] + after)
