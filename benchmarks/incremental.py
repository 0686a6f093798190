"""What a fit that goes on from the one before is worth, beside a full one and none: IFDB.

    python -m benchmarks.incremental [space] [aggregator] [ranker]

IFDB since 2022. A first full fit at the beginning of 2025, then four refits, each a quarter later.
Each time three are measured on the quarter that follows, on the same labels: a full fit; one that
goes on from the one before, the fourth at most in a row, on the newest year; and the first fit,
never made again. The subjects: an item space trained with its layer, a learned aggregator in a
space of texts, and a ranker that has a vector of every id.

Beside them: the space at the full learning rate, instead of a tenth of it (`LATER_RATE`), and the
aggregator at a tenth of its recipe's. Of the ranker, new ids drawn as a full fit draws them,
instead of as the unknown one; and a full fit on all labels that the incremental one has learned
from by then, since a full one takes the newest alone.

NDCG@10 of a space and an aggregator is over all items that were known, those of the history left
out; of the ranker over the label's item and 16 drawn ones, half of them by popularity. Intervals
are over members, paired.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import yaml

from benchmarks.evaluation import SETS, workspace_of
from benchmarks.incremental_page import RESULTS, write_page
from benchmarks.incremental_subjects import (
    EARLIEST,
    END,
    LABELS,
    REFITS,
    SUBJECTS,
    Data,
    Found,
    Subject,
)
from transformations.config import load_config
from transformations.duck import connect

BUFFER = timedelta(days=365)
CATALOGUE = """from datetime import timedelta

from models.items.spec import TfidfSvd, Trained
from models.spec import LearnedDecay
from models.training.recipe import Recipe

RECIPE = Recipe(validation=timedelta(days=90), epochs=8, patience=1, refit=False)
ITEM_ENCODERS = (TfidfSvd(version=1), Trained(version=1, own_part=10.0))
AGGREGATORS = (LearnedDecay(version=1, recipe=RECIPE),)
"""


def measured(subject: Subject) -> dict[str, Any]:
    """Make all fits of a subject; return quality and time of each, and the paired differences."""
    seconds: dict[str, list[float]] = {}
    with _timed(seconds, "first"):
        first = subject.fit(REFITS[0])
    ways = {"incremental": subject.go_on, **subject.also}
    parents = dict.fromkeys(ways, first)
    found: dict[str, list[Found]] = {}
    for before, until, end in zip(REFITS, REFITS[1:], [*REFITS[2:], END], strict=False):
        made = {"stale": first}
        with _timed(seconds, "full"):
            made["full"] = subject.fit(until)
        for way, go_on in ways.items():
            with _timed(seconds, way):
                made[way] = go_on(parents[way], min(until - BUFFER, before), until)
            parents[way] = made[way]
        for way, fitted in made.items():
            found.setdefault(way, []).append(subject.measure(fitted, until, end))
        said = {way: round(float(each[-1].ndcg.mean()), 4) for way, each in found.items()}
        print(
            f"{until:%Y-%m-%d}", said, {k: round(v[-1], 1) for k, v in seconds.items()}, flush=True
        )
    return {
        "refits": [
            {
                "until": f"{until:%Y-%m-%d}",
                "labels": len(found["full"][number].ndcg),
                "ndcg10": {way: _mean(each[number : number + 1]) for way, each in found.items()},
                "seconds": {
                    way: round(each[number], 1) for way, each in seconds.items() if way != "first"
                },
            }
            for number, until in enumerate(REFITS[1:])
        ],
        "labels": sum(len(one.ndcg) for one in found["full"]),
        "members": len(np.unique(np.concatenate([one.members for one in found["full"]]))),
        "ndcg10": {way: _mean(each) for way, each in found.items()},
        "new_items": {
            "labels": int(sum(one.is_new.sum() for one in found["full"])),
            "ndcg10": {way: _mean(each, new=True) for way, each in found.items()},
        },
        "differences": _differences(found),
        "seconds": {way: round(float(np.mean(each)), 1) for way, each in seconds.items()},
    }


def _mean(found: Sequence[Found], new: bool = False) -> float:
    values = np.concatenate([one.ndcg[one.is_new] if new else one.ndcg for one in found])
    return round(float(values.mean()), 4) if len(values) else float("nan")


def _differences(found: Mapping[str, Sequence[Found]]) -> dict[str, list[float]]:
    """Return what each way is above another, with the 95 % interval over members, in points."""
    from models.evaluation.bootstrap import Resamples

    members = np.concatenate([one.members for one in found["full"]])
    _, numbers = np.unique(members, return_inverse=True)
    resamples = Resamples(members=int(numbers.max()) + 1, seeds=1)
    of = {
        way: resamples.mean(np.concatenate([one.ndcg for one in each]), numbers)
        for way, each in found.items()
    }
    ways = [("incremental", "full"), ("incremental", "stale"), ("full", "stale")]
    ways += [(way, "incremental") for way in found if ", " in way]
    return {
        f"{one} - {other}": [
            round(100 * value, 2)
            for value in (lambda i: (i.estimate, i.low, i.high))((of[one] - of[other]).interval())
        ]
        for one, other in ways
    }


@contextmanager
def _timed(seconds: dict[str, list[float]], what: str) -> Iterator[None]:
    began = time.process_time()
    yield
    seconds.setdefault(what, []).append(time.process_time() - began)


def recent() -> Path:
    """Return the activity.yaml of the workspace, which reads the events since EARLIEST."""
    SETS["ifdb_incremental"] = SETS["ifdb"]
    file = workspace_of("ifdb_incremental", "ifdb", CATALOGUE)
    settings = yaml.safe_load(file.read_text())
    events = file.parent / "recent.parquet"
    if not events.exists():
        source = settings["events"]["source"]
        duckdb.sql(
            f"copy (from read_parquet('{source}') where event_timestamp >= '{EARLIEST}') "
            f"to '{events}'"
        )
        settings["events"]["source"] = str(events)
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def main() -> None:
    """Measure the subjects that are asked for, and write the JSON and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS], default=[*SUBJECTS])
    asked = parser.parse_args().subjects
    config = load_config(recent())
    result: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= {
        "machine": {"cores": os.cpu_count()},
        "set": "ifdb",
        "buffer_days": BUFFER.days,
        "labels_of_full": LABELS,
        "first": f"{REFITS[0]:%Y-%m-%d}",
    }
    with connect(config) as con:
        data = Data.read(con, config)
        for name in asked:
            print(name, flush=True)
            result[name] = measured(SUBJECTS[name](data))
            RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            write_page(result)


if __name__ == "__main__":
    main()
