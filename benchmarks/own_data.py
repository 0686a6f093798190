"""Somebody's 18 years: a backfill, an evaluation's rows; and 30 days of 100,000 members at once.

Each measure runs in a process of its own. Backfill and evaluation read IFDB's votes and lists
(https://ifdb.org) from the folder that ACTIVITY_IFDB names: events.parquet (member_id, item_id,
action, event_timestamp) and items.parquet (item_id, text, available_at). Staging the events and
packaging the formulas come before the clock starts; the item space is given. CPU seconds say what
a measure costs on a machine that is also busy; of several rounds, the best one counts, because
other work only ever slows one.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.sequences import AS_OF, DAY, DAYS, EVENTS, EVENTS_PER_MEMBER, THREADS
from transformations.config import ROOT, Config
from transformations.duck import connect, copy
from transformations.last_actions import Snapshot
from transformations.layout import note_period, partition_files, period_file, span
from transformations.tables import SNAPSHOTS_AT_ONCE, build_sequences, build_sequences_of

RESULTS = Path(__file__).parent / "results" / "own_data.json"
FOLDER = "ACTIVITY_IFDB"
WEEK = timedelta(days=7)
MEMBERS = 100_000
AS_OFS = 30
ROUNDS = 3
DIM = 64
ONE_BY_ONE = 40
LABELS = 20_000


def simulate(folder: Path) -> None:
    """Write the day files that AS_OFS daily snapshots read, as benchmarks/sequences.py does."""
    per_day = MEMBERS * EVENTS_PER_MEMBER // DAYS
    note_period(folder / "activity", "day")
    with duckdb.connect(config={"threads": THREADS, "memory_limit": "4GB"}) as con:
        con.execute("set TimeZone = 'UTC'")
        for number in range(DAYS + AS_OFS):
            day = AS_OF - (number + 1) * DAY
            file = period_file(folder / "activity", day.date())
            file.parent.mkdir(parents=True, exist_ok=True)
            first = number * per_day
            parameters = {"first": first, "last": first + per_day, "day": day}
            copy(con, EVENTS, file, parameters | {"members": MEMBERS})


def one_as_of(folder: Path) -> dict[str, float]:
    """Build the newest snapshot's sequences."""
    config = _simulated(folder)
    with connect(config) as con:
        return _timed(lambda: build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF).rows_out)


def thirty_as_ofs(folder: Path) -> dict[str, float]:
    """Build the sequences of AS_OFS days in one pass."""
    config = _simulated(folder)
    as_ofs = [AS_OF - back * DAY for back in range(AS_OFS)]
    snapshots = [Snapshot(as_of, as_of - DAY, as_of) for as_of in as_ofs]
    with connect(config) as con:
        return _timed(lambda: build_sequences_of(config, con, snapshots).rows_out)


def _simulated(folder: Path) -> Config:
    settings = {"memory_limit": "1300MB", "threads": THREADS}
    return Config.model_validate(
        {"data_dir": str(folder), "items": {"text": ["title"]}, "duckdb": settings}
    )


def backfill(folder: Path) -> dict[str, float]:
    """Backfill a snapshot a week in one pass, over all the time of IFDB."""
    from pipelines.backfill import run_backfill

    config, stages, lines = _ifdb(folder)
    as_ofs = _weeks(config)
    result = _timed(lambda: len(run_backfill(config, as_ofs, stages, lines, True, WEEK)))
    seconds = {f"{stage.name}_seconds": round(stage.seconds, 2) for stage in stages.done[-2:]}
    return result | seconds | {"member_rows": stages.done[-2].rows_out}


def one_by_one(folder: Path) -> dict[str, float]:
    """Build ONE_BY_ONE of these snapshots each alone, as the backfill did before."""
    from models.embed import embed_snapshot, load_graph

    config, _, lines = _ifdb(folder)
    as_ofs = _weeks(config)
    some = as_ofs[:: len(as_ofs) // ONE_BY_ONE]
    graph = load_graph(lines, config)
    with connect(config) as con:

        def build() -> int:
            for as_of in some:
                created = as_of + config.publish_delay
                build_sequences(config, con, as_of, as_of - WEEK, created)
                embed_snapshot(config, con, as_of, created, lines, graph=graph)
            return len(some)

        result = _timed(build)
    return result | {"seconds_for_all": round(result["seconds"] / len(some) * len(as_ofs), 1)}


def evaluation(folder: Path) -> dict[str, float]:
    """Build what LABELS labels read of daily snapshots, and fetch it for them."""
    from pipelines.evaluation.evaluate import prepare
    from pipelines.evaluation.labels import positive_times, read_data
    from pipelines.evaluation.protocol import Protocol
    from pipelines.evaluation.served import join, readings
    from pipelines.evaluation.variants import Bench
    from pipelines.evaluation.world import build_served, train_lines

    config, stages, lines = _ifdb(folder)
    protocol = Protocol(max_labels=LABELS // 2)
    with connect(config) as con:
        times = positive_times(config, con, ())
    world = prepare(config, "test", times, protocol, lines, stages)
    train_lines(world, stages, lines)
    with connect(world.config) as con:
        bench = Bench.of(world, con, read_data(world, con, protocol))
    before = len(stages.done)

    def make() -> int:
        periods = bench.data.periods.values()
        read = pa.concat_tables([readings(bench, period) for period in periods])
        build_served(world, stages, lines, read)
        store = world.store(lines)
        with stages.stage("joins"):
            for period in periods:
                for line in lines:
                    join(store, world.config, line, period)
        return sum(len(period.frame) for period in periods)

    result = _timed(make)
    snapshots = len(world.series.snapshots(world.split.until))
    seconds = {f"{one.name}_seconds": round(one.seconds, 2) for one in stages.done[before:]}
    return result | seconds | {"rows": stages.done[before].rows_out, "snapshots": snapshots}


def all_snapshots(folder: Path) -> dict[str, float]:
    """Build some of these snapshots as a whole."""
    from models.embed import embed_snapshots
    from pipelines.evaluation.evaluate import prepare
    from pipelines.evaluation.labels import positive_times
    from pipelines.evaluation.protocol import Protocol
    from pipelines.evaluation.world import train_lines

    config, stages, lines = _ifdb(folder)
    with connect(config) as con:
        times = positive_times(config, con, ())
    world = prepare(config, "test", times, Protocol(), lines, stages)
    train_lines(world, stages, lines)
    snapshots = world.series.snapshots(world.split.until)
    some = snapshots[:: len(snapshots) // SNAPSHOTS_AT_ONCE][:SNAPSHOTS_AT_ONCE]
    with connect(config) as con, tempfile.TemporaryDirectory(dir=folder) as name:
        place = world.config.model_copy(update={"data_dir": name})
        for part in ("activity", "items", "artifacts"):
            (Path(name) / part).symlink_to(world.config.data / part, target_is_directory=True)

        def build() -> int:
            build_sequences_of(place, con, some)
            return embed_snapshots(place, con, some, lines).members

        result = _timed(build)
    every = result["seconds"] / len(some) * len(snapshots)
    return result | {"snapshots": len(some), "seconds_for_all": round(every, 1)}


def _weeks(config: Config) -> list[datetime]:
    """Return a midnight a week, from the first week with events on."""
    ends = span(partition_files(config.layout.activity))
    assert ends is not None
    first = ends[0].replace(hour=0, minute=0, second=0, microsecond=0) + WEEK
    return [first + week * WEEK for week in range((ends[1] - ends[0]) // WEEK)]


def _ifdb(folder: Path) -> tuple[Config, Any, Any]:
    """Stage the events, the items and two formulas, unless they are there."""
    from models.spec import Average, GeometricDecay
    from operations.ledger import Ledger
    from pipelines.daily import last_midnight, stage_events, stage_the_items
    from pipelines.fitting import fit_items, prepare
    from pipelines.progress import Stages

    config = Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "item_id_type": "string",
            "dim": DIM,
            "events": {"source": str(folder / "events.parquet")},
            "items": {
                "source": str(folder / "items.parquet"),
                "embedding": "embedding",
                "available_at": "available_at",
            },
        }
    )
    lines = (Average(version=1), GeometricDecay(version=1, decay=0.8))
    ledger = Ledger(config)
    stages = Stages(Console(stderr=True), ledger, ledger.start("backfill", None))
    if not (folder / "events.parquet").exists():
        given = Path(os.environ[FOLDER])
        events = pq.read_table(given / "events.parquet")
        pq.write_table(events, folder / "events.parquet")
        items = pq.read_table(given / "items.parquet", columns=["item_id", "text", "available_at"])
        vectors = pa.array(list(_hashed_words(items["text"].to_pylist())))
        pq.write_table(items.set_column(1, "embedding", vectors), folder / "items.parquet")
        with connect(config) as con:
            stage_events(config, con, last_midnight(), stages)
            stage_the_items(config, con, last_midnight(), stages)
            fit_items(config, con, last_midnight(), last_midnight(), lines, stages)
            prepare(config, last_midnight(), lines, stages)
    return config, stages, lines


def _hashed_words(texts: list[str]) -> np.ndarray:
    """Return a vector of each text that needs no fit: its words, projected; [texts, DIM]."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(n_features=4096).transform(texts)
    projection = np.random.default_rng(7).normal(size=(4096, DIM)).astype(np.float32)
    return np.asarray(counts @ projection, np.float32)


def _timed(work: Callable[[], int]) -> dict[str, float]:
    began, began_cpu = time.perf_counter(), time.process_time()
    made = work()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_rss_mb": round(megabytes),
        "made": made,
    }


MEASURES = {
    measure.__name__: measure
    for measure in (one_as_of, thirty_as_ofs, backfill, one_by_one, evaluation, all_snapshots)
}


def _measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one measure in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.own_data", "--measure", name, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure everything; backfill and evaluation only where their data are."""
    results: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    # Beside the results: /tmp may be memory.
    with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks") as name:
        folder = Path(name)
        simulate(folder)
        one, thirty = [], []
        for _ in range(rounds):  # in turns, so that a busy machine slows both alike
            one.append(_measure("one_as_of", folder))
            thirty.append(_measure("thirty_as_ofs", folder))
        best = [min(times, key=lambda result: result["seconds"]) for times in (one, thirty)]
        results["sequences"] = {
            "members": MEMBERS,
            "as_ofs": AS_OFS,
            "rounds": rounds,
            "load_average": round(os.getloadavg()[0], 1),
            "one_as_of": best[0],
            "all_as_ofs": best[1],
            "times_one_as_of": round(best[1]["seconds"] / best[0]["seconds"], 1),
        }
    if FOLDER not in os.environ:
        print(f"{FOLDER} names no folder: backfill and evaluation are left out", file=sys.stderr)
        return results
    with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks") as name:
        folder = Path(name)
        before = _measure("one_by_one", folder)
        after = min((_measure("backfill", folder) for _ in range(rounds)), key=_seconds)
        results["backfill"] = {
            "data": "IFDB: 18 years, weekly, two formulas",
            "rounds": rounds,
            "load_average": round(os.getloadavg()[0], 1),
            "one_by_one": before,
            "one_pass": after,
        }
        before = _measure("all_snapshots", folder)
        after = min((_measure("evaluation", folder) for _ in range(rounds)), key=_seconds)
        results["evaluation"] = {
            "data": "IFDB: 18 years, daily snapshots, two formulas",
            "rounds": rounds,
            "load_average": round(os.getloadavg()[0], 1),
            "all_snapshots": before,
            "rows_read": after,
        }
    return results


def _seconds(result: dict[str, Any]) -> float:
    return float(result["seconds"])


def main() -> None:
    """Print the results and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, folder = arguments.measure
        print(json.dumps(MEASURES[name](Path(folder))))
        return
    results = run()
    Console().print_json(data=results)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
