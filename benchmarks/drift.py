"""Drift: how often ordinary days are beyond a bound, and which planted faults are found.

The days are the last of a simulated market (pipelines/datasets/simulate.py), each measured as a run
would, vectors included. A fault is planted into a day's staged files, or into the weights of a
learned line under the same name, on some of the days in turn. The bounds of
operations/drift_rule.py were chosen with it: no ordinary day may stop. A stop is at six usual
spreads rather than eight so that clocks an hour off are one.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.drift_page import RESULTS
from models.backend import keras
from models.embed import embed_snapshot
from models.items.build import build_items
from models.layers.build import build
from models.packaging import package
from models.spec import Aggregator, AttentionPool, Average, GeometricDecay
from models.training.recipe import Recipe
from models.training.train import train
from operations.drift import note, noted_before
from operations.drift_rule import Finding
from operations.ledger import Ledger
from pipelines.datasets.simulate import Size, simulate
from pipelines.drift.measure import Series, activity_series, item_measures, judged
from pipelines.drift.vectors import vector_measures
from transformations.config import Config, DuckDB
from transformations.duck import connect, parquet
from transformations.last_actions import Snapshot
from transformations.layout import files_between, partition, period_file
from transformations.quoting import quoted
from transformations.sources import stage_activity, stage_items
from transformations.tables import build_sequences_of

END = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
ORDINARY = 30
FAULTY = 3
SIZE = Size(members=10_000, jobs=2_500, days=ORDINARY + 40)
LEARNED = AttentionPool(
    version=1, recipe=Recipe(epochs=4, validation=7 * DAY, refit=False, batch_size=512)
)
LINES = (Average(version=1), GeometricDecay(version=1, decay=0.8, pooled=True), LEARNED)
LARGE = Size(members=1_000_000, jobs=50_000, days=31)
OF_LARGE = "1GB"
"""DuckDB's memory there: TensorFlow, Feast and Python take 0.9 GB beside it."""
START = END - 31 * DAY
SEEDS = (7, 8)
BOT = 20_000


def configured(folder: Path, source: Path) -> Config:
    """Return the configuration of a market in `source` whose tables lie in `folder`."""
    return Config.model_validate(
        {
            "data_dir": str(folder),
            "events": {
                "source": str(source / "events"),
                "columns": {"ingested_at": "ingested_at"},
                "attributes": {
                    "dwell": {"type": "number", "unit": "s"},
                    "rating": {"type": "number"},
                    "source_page": {"type": "category"},
                },
            },
            "items": {
                "source": str(source / "items.parquet"),
                "text": ["title"],
                "categories": ["category", "location"],
                "available_at": "posted_at",
            },
            "dim": 16,
            "duckdb": {"threads": 2},
        }
    )


def staged(
    folder: Path,
    seed: int,
    as_ofs: list[datetime],
    size: Size = SIZE,
    lines: Sequence[Aggregator] = LINES,
) -> Config:
    """Simulate a market, and make everything that is measured of it at these times."""
    simulate(folder / "source", size, seed=seed, end=END)
    config = configured(folder / "data", folder / "source")
    with connect(config) as con:
        stage_activity(config, con, END)
        stage_items(config, con, END)
        build_items(config, con, END, as_ofs[0])
        build_sequences_of(config, con, [Snapshot(at, at - DAY, at) for at in as_ofs])
        for line in lines:
            if line != LEARNED:
                package(line, config)
        if LEARNED in lines:
            package(LEARNED, config, train(LEARNED, config, con, as_ofs[0]).model, as_ofs[0])
        for at in as_ofs:
            embed_snapshot(config, con, at, at, lines)
    return config


def watched(
    config: Config,
    ledger: Ledger,
    as_of: datetime,
    vectors: bool = True,
    lines: Sequence[Aggregator] = LINES,
) -> list[Finding]:
    """Measure a day and note it, as a run does."""
    noted, found = noted_before(ledger, as_of, config.drift.days), []
    with connect(config) as con:
        of = {
            "activity": activity_series(config, con, as_of),
            "items": [Series(made, {}, None) for made in item_measures(config, con, as_of)],
        }
        if vectors:
            measured = vector_measures(config, con, as_of, lines)
            of["vectors"] = [Series(made, {}, None) for made in measured]
    for about, series in of.items():
        found += note(ledger, as_of, about, judged(config, series, noted))
    return found


def ordinary(config: Config, as_ofs: list[datetime]) -> dict[str, Any]:
    """Count what is beyond a bound on days where nothing is wrong."""
    ledger, n_measures, seconds = Ledger(config), 0, []
    warned: dict[str, int] = {}
    stopped: dict[str, int] = {}
    days_warned: set[datetime] = set()
    days_stopped: set[datetime] = set()
    for at in as_ofs:
        began = time.perf_counter()
        found = watched(config, ledger, at)
        seconds.append(time.perf_counter() - began)
        n_measures += sum(one.verdict != "unknown" for one in found)
        for one in found:
            if one.verdict == "warning":
                warned[str(one)] = warned.get(str(one), 0) + 1
                days_warned.add(at)
            if one.verdict == "stop":
                stopped[str(one)] = stopped.get(str(one), 0) + 1
                days_stopped.add(at)
    return {
        "days": len(as_ofs),
        "measures": n_measures,
        "days_with_a_warning": len(days_warned),
        "days_with_a_stop": len(days_stopped),
        "warnings": warned,
        "stops": stopped,
        "seconds_per_day": round(sum(seconds) / len(seconds), 2),
    }


def _rows(query: str) -> Callable[[Path, Path, datetime], None]:
    """Return a fault that replaces the newest day's actions by a query over `day`."""

    def plant(data: Path, _: Path, as_of: datetime) -> None:
        file = period_file(data / "activity", (as_of - DAY).date())
        kept = file.with_suffix(".kept")
        file.rename(kept)
        with duckdb.connect() as con:
            con.execute("set TimeZone = 'UTC'")
            con.execute(f"create view day as from read_parquet({quoted(str(kept))})")
            items = data / "stg_items" / "part-0.parquet"
            con.execute(f"create view items as from read_parquet({quoted(str(items))})")
            con.execute(f"copy ({query}) to {quoted(str(file))} (format parquet)")
        kept.unlink()

    return plant


def _items(query: str) -> Callable[[Path, Path, datetime], None]:
    """Return a fault that replaces the staged items by a query over `items`."""

    def plant(data: Path, items: Path, _: datetime) -> None:
        file = data / "stg_items" / "part-0.parquet"
        file.unlink()
        with duckdb.connect() as con:
            con.execute("set TimeZone = 'UTC'")
            con.execute(f"create view items as from read_parquet({quoted(str(items))})")
            con.execute(f"copy ({query}) to {quoted(str(file))} (format parquet)")

    return plant


FAULTS: dict[str, Callable[[Path, Path, datetime], None]] = {
    "a day is lost": _rows("from day where false"),
    "half a day is lost": _rows("from day where hour(event_timestamp) < 14"),
    "an import is doubled, a second later": _rows(
        "from day union all select * replace (event_timestamp + interval 1 second as "
        "event_timestamp) from day"
    ),
    "an action is renamed, and refused": _rows("from day where action <> 'APPLY'"),
    "an action is recorded as another": _rows(
        "select * replace (if(action = 'APPLY', 'SAVE', action) as action) from day"
    ),
    "ids of items are re-used": _items(
        "select * replace (text_of as text) from (select *, lead(text, 1000, text) over "
        "(order by item_id) as text_of from items)"
    ),
    "members get other ids": _rows("select * replace (member_id + 1000000 as member_id) from day"),
    "clocks are an hour ahead": _rows(
        "select * replace (event_timestamp + interval 1 hour as event_timestamp) from day"
    ),
    "texts are empty": _items("select * replace ('' as text) from items"),
    f"a bot does {BOT:,} actions": _rows(
        f"from day union all select day.* replace (0 as member_id, event_timestamp + "
        f"to_microseconds(n) as event_timestamp) from (from day using sample 1 rows) as day, "
        f"range({BOT}) as numbers (n)"
    ),
    "a category vanishes": _rows(
        "select day.* from day left join items using (item_id) where not "
        "coalesce(list_contains(items.categories, 'category=health'), false)"
    ),
    "an attribute is no longer sent": _rows("select * replace (null::double as dwell) from day"),
    "an attribute has another unit": _rows("select * replace (dwell * 1000 as dwell) from day"),
}


def _one_epoch(config: Config, until: datetime) -> Any:
    """Return the learned line as it was after its first epoch."""
    early = replace(LEARNED, recipe=replace(LEARNED.recipe, epochs=1))
    with connect(config) as con:
        return train(early, config, con, until).model


def _half_random(config: Config, until: datetime) -> Any:
    """Return the trained line with every second array of weights as it began, from another seed."""
    with connect(config) as con:
        model = train(LEARNED, config, con, until).model
    keras.utils.set_random_seed(99)
    random = build(LEARNED, config).get_weights()
    model.set_weights([own if n % 2 else random[n] for n, own in enumerate(model.get_weights())])
    return model


MODELS: dict[str, Callable[[Config, datetime], Any]] = {
    "a model's weights are those of its first epoch": _one_epoch,
    "half of a model's weights are random": _half_random,
}
"""Faults of what is packaged under the name of a fit that serves."""


def half_trained(config: Config, model: Any, as_of: datetime, until: datetime) -> list[Finding]:
    """Embed a day by another model of the same name; return what is beyond a bound."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        embeddings = config.layout.embeddings(LEARNED.view)
        copied = config.model_copy(update={"data_dir": str(data)})
        for folder in (
            config.layout.items(config.space),
            partition(config.layout.sequences, as_of),
        ):
            there = folder if folder.is_dir() else folder.parent
            shutil.copytree(there, data / there.relative_to(config.data))
        shutil.copytree(embeddings, data / embeddings.relative_to(config.data))
        shutil.rmtree(partition(copied.layout.embeddings(LEARNED.view), as_of).parent)
        shutil.copytree(config.layout.state, copied.layout.state)
        package(LEARNED, copied, model, until)
        ledger = Ledger(copied)
        noted = noted_before(ledger, as_of, config.drift.days)
        with connect(copied) as con:
            embed_snapshot(copied, con, as_of, as_of, [LEARNED])
            measured = vector_measures(copied, con, as_of, [LEARNED])
        found = judged(copied, [Series(made, {}, None) for made in measured], noted)
    return [one for one in found if one.verdict in ("warning", "stop")]


def planted(config: Config, fault: str, as_of: datetime) -> list[Finding]:
    """Measure a day with a fault in a copy of what is measured; return what is beyond a bound."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        shutil.copytree(config.layout.activity, data / "activity")
        shutil.copytree(config.layout.staged_items.parent, data / "stg_items")
        shutil.copytree(config.layout.state, data / "state")
        marks = data / "state" / "item_marks"
        for old in sorted(marks.iterdir()):
            if old.name >= partition(marks, as_of).parent.name:
                shutil.rmtree(old)
        copied = config.model_copy(update={"data_dir": str(data)})
        with connect(copied) as con:  # of older days the marks are gone
            item_measures(copied, con, as_of - DAY)
        FAULTS[fault](data, config.layout.staged_items, as_of)
        found = watched(copied, Ledger(copied), as_of, vectors=False)
    return [one for one in found if one.verdict in ("warning", "stop")]


def large() -> dict[str, Any]:
    """Measure one day of a large market, in a process of its own: seconds, memory."""
    with tempfile.TemporaryDirectory() as name:
        config = staged(Path(name), SEEDS[0], [END - 7 * DAY, END - DAY, END], LARGE, LINES[:1])
        with connect(config) as con:
            (n_actions,) = con.sql(
                f"select count(*) from {parquet(files_between(config.layout.activity, START, END))}"
            ).fetchall()[0]
        with ProcessPoolExecutor(1, get_context("spawn")) as own:
            figures = own.submit(_of_large, Path(name)).result()
    return {"members": LARGE.members, "actions": int(n_actions), **figures}


def _of_large(folder: Path) -> dict[str, Any]:
    config = configured(folder / "data", folder / "source")
    config = config.model_copy(update={"duckdb": DuckDB(memory_limit=OF_LARGE)})
    began, used = time.perf_counter(), time.process_time()
    found = watched(config, Ledger(config), END, lines=LINES[:1])
    return {
        "measures": len(found),
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time() - used, 1),
        "peak_gb": round(_peak() / 1e6, 2),
        "memory_limit": OF_LARGE,
    }


def _peak() -> int:
    """Return the most memory of this process in kB; rusage has its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--days", type=int, default=ORDINARY, help="Ordinary days of a market.")
    parser.add_argument("--large", action="store_true", help="Only what a large market costs.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.large:
        results = json.loads(arguments.out.read_text()) | {"large": large()}
        print(json.dumps(results["large"], indent=1))
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
        return
    seeds = arguments.seeds
    as_ofs = [END - back * DAY for back in range(arguments.days - 1, -1, -1)]
    results: dict[str, Any] = {"size": vars(SIZE), "ordinary": {}, "faults": {}}
    for number, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory() as name:
            config = staged(Path(name), seed, as_ofs)
            days = ordinary(config, as_ofs)
            results["ordinary"][seed] = days
            print(f"market {seed}: {json.dumps(days, indent=1)}", flush=True)
            if number:
                continue
            made = {fault: make(config, as_ofs[0]) for fault, make in MODELS.items()}
            for fault in [*FAULTS, *MODELS]:
                told: dict[str, dict[str, int]] = {"stop": {}, "warning": {}}
                stopped = warned = 0
                for place in range(FAULTY):
                    at = END - place * DAY
                    if fault in MODELS:
                        found = half_trained(config, made[fault], at, as_ofs[0])
                    else:
                        found = planted(config, fault, at)
                    verdicts = {one.verdict for one in found}
                    stopped += "stop" in verdicts
                    warned += bool(verdicts)
                    for one in found:
                        counts = told[one.verdict]
                        counts[str(one)] = counts.get(str(one), 0) + 1
                row = {"days": FAULTY, "stopped": stopped, "told": warned, **told}
                results["faults"][fault] = row
                print(f"{fault}: {stopped}/{FAULTY} {json.dumps(told)}", flush=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
