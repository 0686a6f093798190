"""Sequences built here, by a pool of processes, by a Spark cluster, and as Spark DataFrames.

Each way runs in its own process over the same actions, with two cores; the cluster is a master and
two workers of one core, or one of them. Counted are the CPU seconds of all processes and the wall
time, apart from Spark's start, and what each task took. The counts of all ways must agree.
`benchmarks.spark_page` writes them into docs/spark.md.

    python -m benchmarks.spark
    python -m benchmarks.spark --events 100000000 --without pool --without dataframe
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.sequences import AS_OF, DAY, DAYS, EVENTS_PER_MEMBER, generate
from benchmarks.spark_tasks import Measured, peak_mb
from pipelines.engine import engine_of
from pipelines.engine.standalone import standalone
from transformations.config import ROOT, Config
from transformations.duck import connect, parquet
from transformations.layout import note_period, partition_files, snapshot_files
from transformations.rebuild import rebuild
from transformations.tables import build_sequences

RESULTS = Path(__file__).parent / "results" / "spark.json"
BUCKETS = 16
CONF = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executor.memory": "2g",
    "spark.ui.enabled": "false",
}
WAYS = {"here": 0, "pool": 0, "spark": 2, "spark, one worker": 1, "dataframe": 2}
"""Each way, with how many workers of Spark it has."""


def configured(folder: Path, buckets: int, engine: dict[str, Any]) -> Config:
    """Return the configuration of a way, over actions that lie in that many buckets."""
    return Config.model_validate(
        {
            "data_dir": str(folder / f"buckets-{buckets}"),
            "items": {"text": ["title"]},
            "duckdb": {"memory_limit": "4GB", "threads": 2},
            "layout": {"buckets": buckets},
            "engine": engine,
        }
    )


def divide(folder: Path, buckets: int) -> float:
    """Write the day files of one bucket in several too; return the CPU seconds of that."""
    one = configured(folder, 1, {})
    note_period(one.layout.activity, "day")
    (folder / f"buckets-{buckets}").mkdir()
    divided = configured(folder, buckets, {}).layout
    for file in partition_files(one.layout.activity):
        place = divided.activity / file.relative_to(one.layout.activity)
        place.parent.mkdir(parents=True)
        os.link(file, place)
    note_period(divided.activity, "day")
    before = time.process_time()
    rebuild(configured(folder, buckets, {}), "week")
    return time.process_time() - before


def run(way: str, folder: Path, buckets: int = BUCKETS) -> dict[str, Any]:
    """Build the snapshot in one way, in this process and those that it starts."""
    with tempfile.TemporaryDirectory() as own, _cluster(way, Path(own)) as master:
        engine: dict[str, Any] = {"kind": "local", "workers": 2}
        if way.startswith("spark"):
            engine = {"kind": "spark", "master": master, "conf": CONF}
        config = configured(folder, 1 if way in ("here", "dataframe") else buckets, engine)
        started, tasks = time.perf_counter(), Measured(engine_of(config))
        session = _session(master) if WAYS[way] else None
        before, begun = _cpu_of_all(), time.perf_counter()
        if way == "dataframe":
            files = _as_dataframes(session, config, folder)
        else:
            with connect(config) as con:
                build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF, tasks)
            files = snapshot_files(config.layout.sequences, AS_OF)
        wall, cpu = time.perf_counter() - begun, _cpu_of_all() - before
        members, actions = duckdb.sql(
            f"select count(*), sum(n_actions)::bigint from {parquet(files)} where n_actions > 0"
        ).fetchall()[0]
        return {
            "way": way,
            "wall_s": wall,
            "cpu_s": cpu,
            "start_wall_s": begun - started,
            "start_cpu_s": before,
            "members": members,
            "actions": actions,
            "own_peak_mb": peak_mb(),
            **tasks.summary(),
        }


@contextmanager
def _cluster(way: str, folder: Path) -> Iterator[str]:
    if not WAYS[way]:
        yield ""
        return
    with standalone(folder, workers=WAYS[way], memory="4G") as url:
        yield url


def _session(master: str) -> Any:
    """Start the session and a first task on each executor, so that none counts their start."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(master).appName("benchmark")
    conf = CONF | {
        "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PYTHONPATH": str(ROOT),
    }
    for key, value in conf.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    session.sparkContext.parallelize(range(16), 16).map(abs).collect()
    return session


def _as_dataframes(session: Any, config: Config, folder: Path) -> list[Path]:
    """Build the same rows as code of Spark DataFrames would: a window, then collect_list."""
    from pyspark.sql import Window
    from pyspark.sql import functions as fn

    session.conf.set("spark.sql.session.timeZone", "UTC")
    session.conf.set("spark.sql.shuffle.partitions", str(BUCKETS))
    names = [str(file) for file in partition_files(config.layout.activity)]
    actions = session.read.parquet(*names)
    seen = actions.where(
        (fn.col("event_timestamp") < fn.lit(AS_OF))
        & (fn.col("event_timestamp") >= fn.lit(AS_OF - DAYS * DAY))
        & (fn.col("ingested_at").isNull() | (fn.col("ingested_at") < fn.lit(AS_OF)))
    ).dropDuplicates(["member_id", "item_id", "action", "event_timestamp"])
    order = [fn.desc("event_timestamp"), fn.desc("item_id"), fn.desc("action")]
    newest = Window.partitionBy("member_id").orderBy(*order)
    last = seen.withColumn("place", fn.row_number().over(newest)).where(fn.col("place") <= 32)
    rows = last.groupBy("member_id").agg(
        fn.sort_array(fn.collect_list(fn.struct("event_timestamp", "item_id", "action"))).alias(
            "sequence"
        ),
        fn.count("*").alias("n_actions"),
        *(
            fn.count(fn.when(fn.col("action") == name, 1)).alias(f"n_{name.lower()}")
            for name in config.actions
        ),
        fn.max("event_timestamp").alias("last_action_at"),
    )
    lists = [f"sequence.{n} as {n}s" for n in ("item_id", "action", "event_timestamp")]
    counts = ["n_actions", *(f"n_{name.lower()}" for name in config.actions), "last_action_at"]
    place = folder / "dataframe"
    rows.selectExpr("member_id", *lists, *counts).sortWithinPartitions("member_id").write.mode(
        "overwrite"
    ).option("compression", "zstd").parquet(str(place))
    return sorted(place.glob("*.parquet"))


def _cpu_of_all() -> float:
    """Return the CPU seconds of this process and all that it started, also of those that ended."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # its own, and its ended children's
        except psutil.NoSuchProcess:
            continue
    return total


def measured(way: str, folder: Path, buckets: int = BUCKETS) -> dict[str, Any]:
    """Run one way in a process of its own, so that none warms another."""
    command = [sys.executable, "-m", "benchmarks.spark", "--way", way]
    command += ["--folder", str(folder), "--buckets", str(buckets)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if answer.returncode:
        raise SystemExit(f"{way}: {answer.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def _agree(ways: Sequence[dict[str, Any]]) -> bool:
    """Return whether all ways have the same members, and actions but for doubles.

    The log was not staged, so a few actions lie in it twice (its columns are made of one hash). The
    DataFrames leave the second out, as staging does.
    """
    rows = [(one["members"], one["actions"]) for one in ways if one["way"] != "dataframe"]
    members, actions = rows[0]
    return len(set(rows)) == 1 and all(
        one["members"] == members and 0 <= actions - one["actions"] < actions / 10_000
        for one in ways
    )


def keep(section: str, key: str, result: dict[str, Any]) -> None:
    """Put a result into the file, beside those of other sizes."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known.setdefault(section, {})[key] = result
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every way, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--without", action="append", default=[], choices=[*WAYS][1:])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--buckets", type=int, default=BUCKETS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.way:
        print(json.dumps(run(given.way, given.folder, given.buckets)))
        return
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)
        generate(folder / "buckets-1", given.events)
        divided = divide(folder, BUCKETS)
        ways = [measured(way, folder) for way in WAYS if way not in given.without]
    if not _agree(ways):
        raise SystemExit(f"expected the same rows of every way, got {ways}")
    here = ways[0]
    result = {
        "events": given.events,
        "members": given.events // EVENTS_PER_MEMBER,
        "buckets": BUCKETS,
        "divide_cpu_s": divided,
        "ways": [one | {"times_here": one["cpu_s"] / here["cpu_s"]} for one in ways],
    }
    keep("ways", str(given.events), result)
    table = Table("way", "CPU s", "times here", "wall s", "start: CPU s", title=f"{given.events:,}")
    for one in result["ways"]:
        figures = (one["cpu_s"], one["times_here"], one["wall_s"], one["start_cpu_s"])
        table.add_row(one["way"], *(f"{figure:.2f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
