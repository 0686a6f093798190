"""What text and fold-in are worth on items that no fit knew: IFDB's validation, one seed.

    python -m benchmarks.new_items

Each way is a world of its own: items folded in after every 2.5 % of the positive actions; or never,
so that a new item keeps the vector of its text (ridge from text, or the text's part of the map).
The test stays closed.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.evaluation import workspace_of
from transformations.config import load_config
from transformations.duck import connect
from transformations.timestamps import microseconds

RESULT = Path(__file__).parent / "results" / "new_items.json"
SET = "ifdb"
LINES = """from models.items.spec import CoActions, Trained
from models.spec import GeometricDecay

ITEM_ENCODERS = (CoActions(version=1), Trained(version=1))
AGGREGATORS = (
    Trained(version=1).aggregator(version=1),
    GeometricDecay(version=1, decay=0.5, ranks="positive", items="co_actions_v1"),
)
"""
WAYS = {"folded in": 0.025, "text alone": 1.0}
"""Way → the share of the positive actions between two fold-ins."""


def measure(fold_in: float) -> Iterator[dict[str, Any]]:
    """Yield a row per line: HR@10 and NDCG@10 of all labels, and of those on new items."""
    from models.evaluation.metrics import hit_rate, ndcg
    from models.evaluation.ranker import RankerSettings
    from models.lines import catalogue_lines
    from operations.ledger import Ledger
    from pipelines.daily import last_midnight, stage_events, stage_the_items
    from pipelines.evaluation.choices import variants_of
    from pipelines.evaluation.evaluate import open_bench
    from pipelines.evaluation.labels import cohort_columns, positive_times
    from pipelines.evaluation.protocol import LIVE, Protocol
    from pipelines.evaluation.world import train_lines
    from pipelines.progress import Stages

    protocol = Protocol(freshness=(LIVE,), fold_in=fold_in)
    with tempfile.TemporaryDirectory() as folder:
        for file in workspace_of(SET).parent.glob("*.yaml"):
            shutil.copy(file, folder)
        (Path(folder) / "catalog.py").write_text(LINES)
        config = load_config(Path(folder))
        ledger = Ledger(config)
        with ledger.lock(), ledger.run("new items", None) as run_id:
            stages = Stages(Console(file=StringIO()), ledger, run_id)
            with connect(config) as con:
                stage_events(config, con, last_midnight(), stages)
                stage_the_items(config, con, last_midnight(), stages)
                times = positive_times(config, con, protocol.predicts)
            lines = catalogue_lines(config)
            bench = open_bench(config, "validation", times, protocol, lines, stages)
            lines = bench.world.bound(lines)
            train_lines(bench.world, stages, lines)
        split = bench.world.split
        first_at = cohort_columns(bench.measured, bench.data)["item_first_at"].to_numpy()
        is_new = first_at >= microseconds(split.fit_until)
        for variant in variants_of(bench.world.config, lines):
            if variant.line is None:
                continue
            ranks = bench.scores(variant, LIVE, RankerSettings(), 0).rank
            positive = ~np.isnan(ranks)
            yield (
                {"line": f"{variant.name}, {variant.space}"}
                | {
                    f"{metric}_{name}": round(float(of(ranks[chosen], 10).mean()), 4)
                    for metric, of in (("hr10", hit_rate), ("ndcg10", ndcg))
                    for name, chosen in (("all", positive), ("new", positive & is_new))
                }
                | {"labels": int(positive.sum()), "new_labels": int((positive & is_new).sum())}
            )


def main() -> None:
    """Measure the ways, print a table, write the JSON."""
    rows = [{"way": way} | row for way, fold_in in WAYS.items() for row in measure(fold_in)]
    first = rows[0]
    table = Table(title=f"{SET}, validation: {first['new_labels']:,} of {first['labels']:,} new")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=140).print(table)
    RESULT.write_text(json.dumps({"set": SET, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
