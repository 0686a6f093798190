"""A ranker that learns from what was shown, beside one of actions and drawn negatives.

    python -m benchmarks.impressions [--members 4000] [--seeds 5]

A simulated market whose feed shows slates at random. Both rankers are the same line, on labels from
before the same moment; what the feed showed in the week after it judges them: NDCG@10 inside each
slate from which something was liked, the difference with its interval over members and seeds.
Everything is read by Feast's training joins, as `activity train ranker` does.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from rich.console import Console

RESULT = Path(__file__).parent / "results" / "impressions.json"
NAME = "impressions"
END = datetime(2026, 11, 1, tzinfo=UTC)
DAYS, HOLDBACK, JUDGED = 50, 24, 7
"""Simulated days; the newest ones that no fit sees, and of them those that judge."""
RESAMPLES = 2_000


def workspace(members: int) -> Path:
    """Simulate a market and load it, unless that is done; return its activity.yaml."""
    from pipelines.datasets.simulate import Parts, Size, simulate
    from transformations.config import CONFIG, WORKSPACES, load_config

    file, source = WORKSPACES / NAME / CONFIG, WORKSPACES / f"{NAME}-source"
    if not source.exists():
        size = Size(members=members, jobs=2_000, days=DAYS)
        simulate(source, size, end=END, parts=Parts(feed=True))
    if not file.exists():
        activity("init", NAME, f"--events={source / 'events'}", f"--items={source}/items.parquet")
        settings = yaml.safe_load(file.read_text())
        settings["fit_holdback"] = f"{HOLDBACK}d"
        del settings["actions"]  # the guessed ones: a view is not a like here
        settings["items"]["categories"] = ["category", "location"]
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
    config = load_config(file)
    if not config.layout.impressions.exists():
        activity("run", "--config", str(file), f"--as-of={END:%Y-%m-%d}")
        since = END - timedelta(days=HOLDBACK)
        activity("backfill", "--config", str(file), f"--from={since:%Y-%m-%d}")
        keep_shown(source / "impressions", config)
    return file


def activity(*arguments: str) -> None:
    """Type a command."""
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=True)


def keep_shown(folder: Path, config: Any) -> None:
    """Write what the simulated feed showed as the service writes what it shows."""
    from serving.recommend.impressions import schema

    columns, target = schema(config), config.layout.impressions
    for file in sorted(folder.glob("*.parquet")):
        shown = pq.read_table(file)
        slate = pc.binary_join_element_wise(
            shown["member_id"].cast(pa.string()),
            shown["shown_at"].cast(pa.int64()).cast(pa.string()),
            "-",
        )
        own = {
            "request_id": slate,
            "member_id": shown["member_id"],
            "item_id": shown["item_id"],
            "position": pc.subtract(shown["position"], 1),
            "path": pa.repeat("uniform", len(shown)),
            "surface": shown["source_page"],
            "shown_at": shown["shown_at"],
        }
        rows = [
            own[field.name].cast(field.type)
            if field.name in own
            else pa.nulls(len(shown), field.type)
            for field in columns
        ]
        part = target / f"period={file.stem}" / "part-0.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows, schema=columns), part)


def measure(file: Path, seeds: int) -> dict[str, Any]:
    """Fit both, and judge them on what was shown later."""
    from models.lines import ranker_lines
    from models.rankers.labels import gains
    from operations.fits import Fits
    from operations.ledger import Ledger
    from pipelines.progress import Stages
    from pipelines.ranking.blocks import between_labels, together
    from pipelines.ranking.train import VALIDATION, border_of, examples_of
    from transformations.config import load_config
    from transformations.timestamps import microseconds

    config = load_config(file)
    config = config.in_space(Fits(config).space)
    (line, *_) = ranker_lines(config)
    line = replace(line, days=HOLDBACK)
    border, ledger = END - timedelta(days=JUDGED), Ledger(config)
    with ledger.run("evaluate", None) as run_id:
        stages = Stages(Console(), ledger, run_id)
        shown = examples_of(config, replace(line, learns_from="shown"), END, stages)
        drawn = examples_of(config, replace(line, learns_from="actions"), border, stages)
    times = shown.times
    pairs = together(shown.train, shown.validation, border_of(times, 1 - VALIDATION))
    cut = int(np.searchsorted(times, microseconds(border)))
    stop = border_of(times[:cut], 1 - VALIDATION)
    judges = between_labels(pairs, cut, len(times))
    learned = {
        "what was shown": (between_labels(pairs, 0, stop), between_labels(pairs, stop, cut)),
        "actions, drawn negatives": (drawn.train, drawn.validation),
    }
    heads = line.heads(config.rules)
    worth = gains(judges.targets, [*heads.values()])
    members = members_of(judges, worth, shown.members)
    values: dict[str, list[Any]] = {name: [] for name in learned}
    for seed in range(seeds):
        for name, (train, validation) in learned.items():
            fitted = line.fitted_class().fit(line, heads, train, validation, seed)
            values[name].append(ndcg(fitted.scores(judges.inputs), worth, judges.groups))
    values["position alone"] = [ndcg(-judges.positions.astype(float), worth, judges.groups)]
    first, second, _ = (np.array(each) for each in values.values())
    return {
        "line": str(line),
        "labels": {name: len(train) + len(held) for name, (train, held) in learned.items()},
        "judged": {"slates": len(members), "members": len(np.unique(members))},
        "seeds": seeds,
        "ndcg10": {name: round(float(np.mean(each)), 4) for name, each in values.items()},
        "difference": interval(first - second, members),
    }


def ndcg(scores: Any, worth: Any, groups: Any) -> Any:
    """Return the NDCG@10 of each slate from which something was liked."""
    from models.evaluation.metrics import ndcg_in_groups

    return ndcg_in_groups(scores, worth, groups, 10)


def members_of(judges: Any, worth: Any, members: Any) -> Any:
    """Return the member of each slate that `ndcg` measures.

    Args:
        members: Of each label, by the number of its group.
    """
    from models.rankers.labels import sizes, starts

    begins, many = starts(judges.groups), sizes(judges.groups)
    liked = np.maximum.reduceat(worth, begins) > 0
    return members[judges.groups[begins][liked & (many > 1)]]


def interval(differences: Any, members: Any) -> dict[str, float]:
    """Return the mean of differences [seeds, slates], and its 95 % interval over both."""
    rng = np.random.default_rng(0)
    _, of = np.unique(members, return_inverse=True)
    counts = np.bincount(of)
    sums = np.stack([np.bincount(of, row) for row in differences])
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(len(counts), size=len(counts))
        seed = rng.integers(len(sums), size=len(sums))
        drawn.append(sums[seed][:, some].mean(axis=0).sum() / counts[some].sum())
    low, high = np.percentile(drawn, [2.5, 97.5])
    mean = differences.mean()
    return {name: round(float(v), 4) for name, v in (("mean", mean), ("low", low), ("high", high))}


def main() -> None:
    """Print the figures and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    result = {"machine": {"cores": os.cpu_count()}, "members": asked.members}
    result |= measure(workspace(asked.members), asked.seeds)
    Console().print_json(data=result)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
