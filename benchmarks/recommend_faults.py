"""Recommendations over HTTP while something is broken, and from the cache.

The market of `activity simulate`, run and ranked as `make run` does; a copy of its data, online in
a private Redis. `activity serve` with its default deadline runs in a process of its own; requests
for random active members come at a constant rate, and a latency counts from when its request was
due. In turn

- the ranker's threads are held: a scoring that was begun does not end;
- the online store is stopped (SIGSTOP: connections stay open, nothing answers), then killed;
- the ranker's model file is broken when the service starts;
- it is broken when the service loads new parts, which it does as soon as items were staged.

At last one member is asked for again and again: the answer comes from the cache.

    python -m benchmarks.recommend_faults
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from benchmarks.recommend import KINDS, closed_loop, online, only, open_loop, server
from benchmarks.request_time import milliseconds
from models.lines import ranker_lines
from operations.rankers import newest
from pipelines.private_redis import private_redis
from transformations.config import ROOT, Config, load_config

RESULTS = Path(__file__).parent / "results" / "recommend_faults.json"
HOLD = "hold"
"""A file of the workspace: while it is there, no scoring ends."""


def run(config: Config, rate: int, asked: int) -> dict[str, Any]:
    """Measure everything; return the figures.

    Args:
        asked: Requests with each fault, and from the cache.
    """
    with tempfile.TemporaryDirectory() as name, private_redis(Path(name)) as port:
        folder = Path(name)
        shutil.copytree(config.data, folder / "data")
        copied = config.model_copy(update={"data_dir": str(folder / "data")})
        members = online(copied, folder, port, {})
        only(config, folder, KINDS[0])
        own = load_config(folder)
        deadline = own.recommend.deadline.total_seconds()
        with redis.Redis(port=port) as connection:
            store = int(connection.info()["process_id"])
        faults: dict[str, Any] = {}

        def measure(fault: str, address: str) -> None:
            took, paths = open_loop(address, members, rate, asked / rate)
            refused = sum(count for path, count in paths.items() if path.isdigit())
            in_time = max(int((took <= deadline).sum()) - refused, 0)
            faults[fault] = milliseconds(took) | {"in_time": in_time / asked, "paths": paths}

        with _service(folder) as address:
            cached = closed_loop(address, members[:1], asked)
            measure("none", address)
        with _service(folder) as address:
            (folder / HOLD).touch()
            measure("the ranker's threads are held", address)
            (folder / HOLD).unlink()
        with _broken(own), _service(folder) as address:
            measure("the model file is broken at the start", address)
        with _service(folder) as address, _broken(own):
            os.utime(own.layout.staged_items)
            measure("the model file is broken at a reload", address)
        with _service(folder) as address:
            os.kill(store, signal.SIGSTOP)
            measure("the online store is stopped", address)
            os.kill(store, signal.SIGCONT)
        with _service(folder) as address:
            os.kill(store, signal.SIGKILL)
            measure("the online store is killed", address)
        return {
            "asked": asked,
            "rate": rate,
            "deadline_ms": deadline * 1000,
            "cached": cached,
            "faults": faults,
            "load_average": os.getloadavg()[0],
        }


@contextmanager
def _service(folder: Path) -> Iterator[str]:
    """Start the service; yield its address when it is ready."""
    command = [sys.executable, "-m", "benchmarks.recommend_faults", "--serve", str(folder)]
    with server(command) as address:
        until = time.monotonic() + 60
        while not _is_ready(address):
            assert time.monotonic() < until, "the service is not ready after a minute"
            time.sleep(0.2)
        yield address


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/ready") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def _serve(folder: Path) -> None:
    """Run the service; its ranker waits while there is a file HOLD."""
    from pipelines.cli import app
    from serving.recommend.scoring import Scoring

    score = Scoring.of

    def held(*asked: Any, **more: Any) -> Any:
        while (folder / HOLD).exists():
            time.sleep(0.01)
        return score(*asked, **more)

    Scoring.of = held  # type: ignore[method-assign]
    app.app(["serve", "--config", str(folder), "--port", "0"])


@contextmanager
def _broken(config: Config) -> Iterator[None]:
    """Cut a byte off a file of the ranker that serves."""
    (line,) = newest(config, ranker_lines(config))
    files = sorted(line.folder(config).iterdir())
    file = next(file for file in files if file.name != "manifest.json")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    try:
        yield
    finally:
        file.write_bytes(whole)


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default=str(ROOT))
    parser.add_argument("--rate", type=int, default=40)
    parser.add_argument("--asked", type=int, default=1_000)
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve is not None:
        _serve(given.serve)
        return
    results = run(load_config(Path(given.config)), given.rate, given.asked)
    table = Table(title=f"{given.asked:,} requests, {given.rate} a second, ms")
    for column in ("what is broken", "in time", "p50", "p99", "max", "paths"):
        table.add_column(column)
    for name, row in results["faults"].items():
        figures = (str(row[key]) for key in ("p50", "p99", "max"))
        paths = ", ".join(f"{path} {count}" for path, count in row["paths"].items())
        table.add_row(name, f"{row['in_time']:.1%}", *figures, paths)
    console = Console()
    console.print(table)
    console.print(f"from the cache: {results['cached']}")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
