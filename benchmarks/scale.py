"""What a large service costs: from rates of one machine to cores, hours, bytes and memory.

`python -m benchmarks.scale` measures what no other benchmark does (processor seconds of staging and
embedding, bytes of a row), takes the other rates from `benchmarks/results`, and writes the tables
of docs/scale.md. `--members` and `--actions` compute them for another service, and write nothing.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import sequences
from benchmarks.embedding import embed_world, write_world
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.layout import partition, partition_files
from transformations.sources import stage_activity
from transformations.tables import build_sequences

FOLDER = Path(__file__).parent / "results"
RESULTS = FOLDER / "scale.json"
PAGE = ROOT / "docs" / "scale.md"
MARKS = ("<!-- scale: figures -->\n", "<!-- scale: end -->")
EVENTS, MEMBERS = 5_000_000, 250_000
DAYS_PER_MONTH = 30
PEAK = 5
"""The busiest second of a day against its mean."""
FIELDS = {"decay": "`decay` (3 vectors)", "learned_decay": "`learned_decay` (1 vector)"}


@dataclass(frozen=True)
class Service:
    """Who is served.

    Attributes:
        members: Who acted within the window: who has a vector.
        actions: Per month.
    """

    members: int = 830_000_000
    actions: int = 10_000_000_000


def measure(events: int = EVENTS, members: int = MEMBERS) -> dict[str, Any]:
    """Measure what no other benchmark does."""
    with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks") as name:
        folder = Path(name)
        staged = _staged(folder / "staged", events)
        world = write_world(folder / "embedded", members, 50_000, dim=64, length=32)
        embedded = {}
        from models.catalog import AGGREGATORS

        for line in AGGREGATORS:
            if line.name in FIELDS:
                embed_world(world, [line])  # traces, and warms up
                _, cpu = _timed(partial(embed_world, world, [line]))
                embedded[line.name] = round(members / cpu)
    return {"events": events, "members": members, **staged, "embedded_per_cpu_second": embedded}


def _staged(folder: Path, events: int) -> dict[str, float]:
    sequences.generate(folder / "source", events)
    config = Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "events": {
                "source": str(folder / "source" / "activity"),
                "columns": {"ingested_at": "ingested_at"},
            },
            "items": {"text": ["title"]},
            "duckdb": {"threads": sequences.THREADS, "memory_limit": "2GB"},
        }
    )
    with connect(config) as con:
        report, cpu = _timed(lambda: stage_activity(config, con, sequences.AS_OF))
        previous = sequences.AS_OF - sequences.DAY
        build_sequences(config, con, sequences.AS_OF, previous, sequences.AS_OF)
    snapshot = partition(config.layout.sequences, sequences.AS_OF)
    rows = pq.read_metadata(snapshot).num_rows
    files = partition_files(config.layout.activity)
    return {
        "staged_per_cpu_second": round(report.rows_in / cpu),
        "bytes_per_action": round(sum(file.stat().st_size for file in files) / report.rows_out, 1),
        "bytes_per_sequence": round(snapshot.stat().st_size / rows, 1),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what is returned, and the processor seconds of this process."""
    began = time.process_time()
    made = work()
    return made, time.process_time() - began


def figures(service: Service, own: dict[str, Any]) -> str:
    """Return the tables of docs/scale.md, each number with the file that its rate is from."""
    largest = max(
        (one for one in _read("sequences") if one["way"] == "ours"), key=lambda one: one["events"]
    )
    joined = _read("training_join")["from_parquet"]
    per_day = service.actions / DAYS_PER_MONTH
    in_window = service.actions * sequences.DAYS / DAYS_PER_MONTH
    steps = [
        ("stage a day's actions", per_day / own["staged_per_cpu_second"], "scale.json"),
        (
            f"sequences of {sequences.DAYS} days",
            in_window * largest["cpu_seconds"] / largest["events"],
            "sequences.json",
        ),
        *(
            (f"vectors of {what}", service.members / own["embedded_per_cpu_second"][name],
             "scale.json")
            for name, what in FIELDS.items()
        ),
        (
            "training join of 1 billion labels",
            1e9 / joined["labels"] * joined["seconds"] * sequences.THREADS,
            "training_join.json",
        ),
    ]  # fmt: skip
    text = "| step | core hours | cores for one hour | rate from |\n| --- | --- | --- | --- |\n"
    for what, seconds, source in steps:
        hours = seconds / 3600
        text += f"| {what} | {hours:,.1f} | {ceil(hours):,} | {source} |\n"
    text += "\n| what is kept | per row | in all |\n| --- | --- | --- |\n"
    kept = [
        ("actions, a month", own["bytes_per_action"], service.actions),
        ("sequences, each snapshot", own["bytes_per_sequence"], service.members),
        *(
            (f"{FIELDS[one['line']]} as {one['kept_as']}, {_where(one)}",
             one["bytes_per_member"], service.members)
            for one in _read("stored_bytes")["rows"]
            if one["where"] in ("Redis", "PostgreSQL", "Parquet")
        ),
    ]  # fmt: skip
    text += "".join(
        f"| {what} | {size:,.0f} B | {_bytes(size * rows)} |\n" for what, size, rows in kept
    )
    text += (
        "\n| the online store takes | rows per second, one writer | hours |\n| --- | --- | --- |\n"
    )
    for one in _read("materialize")["speed"]["rows"]:
        if one["side"] == "ours" and one["store"] != "sqlite":
            rate = one["members"] / one["seconds"]
            hours = service.members / rate / 3600
            text += f"| {one['store']}, one vector | {rate:,.0f} | {hours:,.1f} |\n"
    workers = _read("stream")["average and decay"]["events_per_second_by_workers"]
    mean = per_day / 86_400
    needed = PEAK * mean / workers["1"]
    text += (
        f"\nThe stream gets {mean:,.0f} events per second, {PEAK * mean:,.0f} at a peak of {PEAK} "
        f"times that: {int(needed) + 1} workers of one core ({workers['1']:,} each, stream.json).\n"
    )
    return text


def _where(one: dict[str, Any]) -> str:
    return f"{one['where']}, each snapshot" if one["where"] == "Parquet" else one["where"]


def _bytes(size: float) -> str:
    return f"{size / 1e12:,.1f} TB" if size >= 1e12 else f"{size / 1e9:,.0f} GB"


def _read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def main() -> None:
    """Measure, write the JSON and the page's tables; for another service, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, help="members with a vector")
    parser.add_argument("--actions", type=int, help="actions per month")
    arguments = parser.parse_args()
    if arguments.members or arguments.actions:
        given = {name: value for name, value in vars(arguments).items() if value}
        Console().print(Markdown(figures(Service(**given), json.loads(RESULTS.read_text()))))
        return
    own = measure()
    RESULTS.write_text(json.dumps(own, indent=2) + "\n")
    before, after = PAGE.read_text().split(MARKS[0])
    tables = figures(Service(), own)
    PAGE.write_text(before + MARKS[0] + tables + MARKS[1] + after.split(MARKS[1])[1])
    Console().print(Markdown(tables))


if __name__ == "__main__":
    main()
