"""What text and fold-in are worth on items that no fit knew: IFDB, three seeds.

    python -m benchmarks.new_items

Each way is a world of its own: items encoded after every 2.5 % of the positive actions by all that
was done until then; or by what was done until the fit, so that a new item keeps the vector of its
text (ridge from text, or the text's part of the map); and the space of co-actions without the
ridge, so that an item without pairs has no vector. First in the world of the validation, then in
that of the test: nothing is chosen by either.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.evaluation import workspace_of
from transformations.config import load_config
from transformations.duck import connect
from transformations.timestamps import microseconds

if TYPE_CHECKING:
    from models.items.protocol import Corpus, Document
    from pipelines.evaluation.protocol import WorldName
    from pipelines.evaluation.variants import Bench, Variant

RESULT = Path(__file__).parent / "results" / "new_items.json"
SET = "ifdb"
WORLDS: tuple["WorldName", ...] = ("validation", "test")
SEEDS = (0, 1, 2)
"""Of the ranker; figures are means over them."""
CO_ACTIONS = """from models.items.spec import CoActions, Trained
from models.spec import GeometricDecay

IN_CO_ACTIONS = GeometricDecay(version=1, decay=0.5, ranks="positive", items="co_actions_v1")
"""
ALONE = """
ITEM_ENCODERS = (CoActions(version=1),)
AGGREGATORS = (IN_CO_ACTIONS,)
"""
BOTH = """
ITEM_ENCODERS = (CoActions(version=1), Trained(version=1))
AGGREGATORS = (Trained(version=1).aggregator(version=1), IN_CO_ACTIONS)
"""


@dataclass(frozen=True)
class Way:
    """How an item that no fit knew gets its vector.

    Attributes:
        folded_in: Whether by what members did with it.
        ridge: Whether an item without pairs gets a vector from its text in the co-actions' space.
            The trained space has no ridge: its text is a part of the map.
    """

    name: str
    folded_in: bool
    ridge: bool


WAYS = (
    Way("folded in", folded_in=True, ridge=True),
    Way("folded in, without the ridge", folded_in=True, ridge=False),
    Way("text alone", folded_in=False, ridge=True),
    Way("neither", folded_in=False, ridge=False),
)


def without_ridge() -> Any:
    """Return a context in which co-action spaces are fitted as if no item had a text."""

    def none(documents: Sequence["Document"], dim: int) -> None:
        """Return what `text_encoder` does where no two items share a word."""

    return patch("models.items.co_actions.text_encoder", none)


def without_fold_in(until: datetime) -> Any:
    """Return a context in which items are encoded by what members did until a moment."""
    from models.items.corpus import corpus_at

    def as_then(*of: Any, **settings: Any) -> "Corpus":
        """Return a later moment's items with the behaviour of then."""
        corpus = corpus_at(*of, **settings)
        assert corpus.behaviour is not None
        return replace(corpus, behaviour=corpus.behaviour.before(microseconds(until)))

    return patch("models.items.folded.corpus_at", as_then)


def measure(way: Way, world: "WorldName") -> Iterator[dict[str, Any]]:
    """Yield a row per line: HR@10 and NDCG@10 of all labels, and of those on new items."""
    from models.evaluation.metrics import hit_rate, ndcg
    from models.evaluation.ranker import RankerSettings
    from models.lines import catalogue_lines
    from operations.ledger import Ledger
    from pipelines.daily import last_midnight, stage_events, stage_the_items
    from pipelines.evaluation.choices import variants_of
    from pipelines.evaluation.evaluate import open_bench
    from pipelines.evaluation.labels import cohort_columns, positive_times
    from pipelines.evaluation.protocol import LIVE, Protocol, Split
    from pipelines.evaluation.world import train_lines
    from pipelines.progress import Stages

    protocol = Protocol(freshness=(LIVE,))
    with tempfile.TemporaryDirectory() as folder:
        for file in workspace_of(SET).parent.glob("*.yaml"):
            shutil.copy(file, folder)
        (Path(folder) / "catalog.py").write_text(CO_ACTIONS + (BOTH if way.ridge else ALONE))
        config = load_config(Path(folder))
        ledger = Ledger(config)
        with ledger.lock(), ledger.run("new items", None) as run_id:
            stages = Stages(Console(file=StringIO()), ledger, run_id)
            with connect(config) as con:
                stage_events(config, con, last_midnight(), stages)
                stage_the_items(config, con, last_midnight(), stages)
                times = positive_times(config, con, protocol.predicts)
            lines = catalogue_lines(config)
            # The fits and all vectors are made where the world is opened.
            split = Split.of(times, protocol.shares(world), protocol.fold_in)
            with ExitStack() as stack:
                if not way.ridge:
                    stack.enter_context(without_ridge())
                if not way.folded_in:
                    stack.enter_context(without_fold_in(split.fit_until))
                bench = open_bench(config, world, times, protocol, lines, stages)
                lines = bench.world.bound(lines)
                train_lines(bench.world, stages, lines)
        first_at = cohort_columns(bench.measured, bench.data)["item_first_at"].to_numpy()
        is_new = first_at >= microseconds(split.fit_until)
        for variant in variants_of(bench.world.config, lines):
            if variant.line is None:
                continue
            ranks = np.array(
                [bench.scores(variant, LIVE, RankerSettings(), seed).rank for seed in SEEDS]
            )
            positive = ~np.isnan(ranks[0])
            new = positive & is_new
            yield (
                {"line": f"{variant.name}, {variant.space}"}
                | {
                    f"{metric}_{name}": round(float(of(ranks[:, chosen], 10).mean()), 4)
                    for metric, of in (("hr10", hit_rate), ("ndcg10", ndcg))
                    for name, chosen in (("all", positive), ("new", new))
                }
                | {"with_vector_new": round(float(_with_vector(bench, variant)[new].mean()), 4)}
                | {"labels": int(positive.sum()), "new_labels": int(new.sum())}
            )


def _with_vector(bench: "Bench", variant: "Variant") -> NDArray[np.bool_]:
    """Return whether a label's item has a vector at the midnight before it, bool [labels]."""
    labels, vectors = bench.measured.task.labels, bench.item_vectors(variant.space)
    found = np.zeros(len(labels), bool)
    for day in np.unique(labels.days):
        chosen = labels.days == day
        found[chosen] = vectors.at(int(day), labels.items[chosen]).any(axis=1)
    return found


def main() -> None:
    """Measure the ways in both worlds, print a table, write the JSON."""
    rows: list[dict[str, Any]] = []
    for world in WORLDS:
        for way in WAYS:
            for row in measure(way, world):
                rows.append({"world": world, "way": way.name} | row)
                print(json.dumps(rows[-1]), flush=True)
    table = Table(title=f"{SET}, labels on new items")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    RESULT.write_text(json.dumps({"set": SET, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
