"""A promotion and a rollback under load: how long until the service answers by the other release.

A simulated market in a temporary workspace: run, ranked, fitted again, run and ranked again. The
two newest releases have rankers that read other fits' vectors. `activity serve` runs in a process
of its own; requests for members come at a constant rate while the pointer moves ten times. A move
counts from before its transaction to the first answer by the other release, which a second client
asks for all the time. Every answer is looked at: its status, and whether all fits that it names
are of the release that it names.

    python -m benchmarks.releases [--members 1000] [--rate 20] [--moves 10]
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.recommend import server
from transformations.config import CONFIG, ROOT, Config, load_config

RESULT = Path(__file__).parent / "results" / "releases.json"
END = datetime(2026, 11, 1, tzinfo=UTC)
DAYS, BACK = 40, 5
CATALOGUE = """
from models.candidates.spec import Neighbours, NearestToMember, Popular
from models.items.spec import CoActions, TfidfSvd
from models.rankers.lines import Linear
from models.spec import GeometricDecay

ITEM_ENCODERS = (TfidfSvd(version=1), CoActions(version=1))
AGGREGATORS = (GeometricDecay(version=1, decay=0.5, items="co_actions_v1"),)
CANDIDATES = (
    Popular(version=1),
    Neighbours(of="co_actions_v1", version=1),
    NearestToMember(aggregator="decay_v1", version=1),
)
RANKERS = (Linear(version=1, aggregators=("decay_v1",), labels=2_000),)
"""


def run(members: int, rate: int, moves: int) -> dict[str, Any]:
    """Measure in a new workspace; return the figures."""
    from operations.releases import promote, releases, rollback, serving

    with tempfile.TemporaryDirectory() as name:
        config = workspace(Path(name), members)
        newest = serving(config)
        assert newest is not None
        allowed = {one.number: named(config, one) for one in releases(config)}
        with _service(config) as address, _loaded(address, members, rate) as answers:
            ready(address)
            took, transactions = [], []
            for move in range(moves):
                began = time.perf_counter()
                if move % 2:
                    promote(config, newest)
                else:
                    rollback(config)
                transactions.append(time.perf_counter() - began)
                wanted = serving(config)
                while ask(address, 1)[1]["release"] != wanted:
                    time.sleep(0.005)
                took.append(time.perf_counter() - began)
                time.sleep(1)
            command = _seconds(config, "release", "rollback")
    wrong = [answer for status, answer in answers if status == 200 and is_mixed(answer, allowed)]
    return {
        "members": members,
        "rate": rate,
        "moves": moves,
        "effective_ms": {"median": _ms(sorted(took)[len(took) // 2]), "max": _ms(max(took))},
        "transaction_ms": {"max": _ms(max(transactions))},
        "command_rollback_s": round(command, 2),
        "answers": len(answers),
        "failed": sum(status != 200 for status, _ in answers),
        "mixed": len(wrong),
        "by_path": _counted(answer["path"] for status, answer in answers if status == 200),
        "by_release": _counted(answer["release"] for status, answer in answers if status == 200),
        "load_average": os.getloadavg()[0],
    }


def said(figures: dict[str, Any]) -> str:
    """Return the sentence of docs/operations.md that holds these figures."""
    took = figures["effective_ms"]
    refused = figures["failed"] or "none"
    mixed = figures["mixed"] or "none"
    return (
        f"of {figures['moves']} moves under {figures['rate']} requests per second, on two cores "
        f"that were busy with more, the slowest took effect after {took['max']:.0f} ms, at the "
        f"median {took['median']:.0f} ms; of {figures['answers']} answers {refused} failed, and "
        f"{mixed} named a fit that its release does not."
    )


def workspace(folder: Path, members: int) -> Config:
    """Simulate a market, and make two releases of it."""
    from pipelines.datasets.simulate import Size, simulate

    source = folder / "source"
    simulate(source, Size(members=members, jobs=400, days=DAYS), end=END)
    root = folder / "market"
    root.mkdir()
    settings = yaml.safe_load((ROOT / CONFIG).read_text())
    settings["data_dir"] = str(root / "data")
    settings["events"]["source"] = str(source / "events")
    settings["items"]["source"] = str(source / "items.parquet")
    settings["fit_holdback"] = f"{BACK + 2}d"
    settings["feature_store"] = "feature_store.yaml"
    settings["recommend"] = {"deadline": "1s", "keep": "0s"}
    settings["release"] = {"promote": "automatic"}  # the gates are not what is measured
    (root / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
    (root / "catalog.py").write_text(CATALOGUE)
    store = yaml.safe_load((ROOT / "feature_store.yaml").read_text())
    (root / "feature_store.yaml").write_text(yaml.safe_dump(store | {"project": "releases"}))
    config = load_config(root)
    _seconds(config, "run", f"--as-of={END:%Y-%m-%d}", f"--backfill={BACK}")
    until = END - timedelta(days=BACK + 3)
    _seconds(config, "fit", f"--until={until:%Y-%m-%d}")
    _seconds(config, "backfill", f"--from={END - timedelta(days=BACK):%Y-%m-%d}")
    _seconds(config, "run", f"--as-of={END:%Y-%m-%d}")
    _seconds(config, "train", "ranker", "linear", f"--until={END:%Y-%m-%d}")
    return config


def named(config: Config, release: Any) -> set[str]:
    """Return all that an answer of a release may name, and nothing else."""
    from models.lines import candidate_lines, ranker_lines
    from operations.composition import fits_of
    from operations.rankers import newest

    fits = fits_of(config, release.number)
    lines = [line for line in fits.other_fits(()) if fits.is_made(line)]
    spaces = {line.config_of(config).space for line in lines} | {*fits.spaces.values()}
    lists = {x.view(space) for x in candidate_lines(config) if x.lists for space in spaces}
    rankers = map(str, newest(config, ranker_lines(config), fits))
    return {line.view for line in lines} | {*map(str, spaces), *lists, *rankers, "votes"}


def is_mixed(answer: dict[str, Any], allowed: dict[int, set[str]]) -> bool:
    """Whether an answer names a fit that its release does not."""
    names = [answer["ranker"], *(name.split("/")[0] for name in answer["fits"].values())]
    return not {*names} <= allowed[answer["release"]]


@contextmanager
def _service(config: Config) -> Iterator[str]:
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(config.file)]
    with server([*command, "--port", "0", "--timeout", "10", "--refresh", "2"]) as address:
        yield address


def ready(address: str) -> None:
    """Wait until the service keeps the other release ready: its second check is over."""
    while ask(address, None, "/ready")[0] != 200:
        time.sleep(0.2)
    time.sleep(10)


@contextmanager
def _loaded(address: str, members: int, rate: int) -> Iterator[list[tuple[int, Any]]]:
    """Ask at a constant rate, over connections of two threads; collect status and answer."""
    end, answers = threading.Event(), list[tuple[int, Any]]()

    def load(first: int) -> None:
        nth, start = first, time.monotonic()
        while not end.wait(max(0.0, start + (nth - first) / rate - time.monotonic())):
            answers.append(ask(address, 1 + nth * 7 % members))
            nth += 2

    threads = [threading.Thread(target=load, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        end.set()
        for thread in threads:
            thread.join()


def ask(address: str, member: int | None, path: str = "") -> tuple[int, Any]:
    """Return status and answer of a request for a member's list."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", path or f"/recommend/{member}?n=10")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, json.loads(body)


def _seconds(config: Config, *arguments: str) -> float:
    """Type a command; return how long it took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--config", str(config.file)]
    subprocess.run(command, check=True, cwd=ROOT)
    return time.perf_counter() - began


def _counted(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[str(value)] = counts.get(str(value), 0) + 1
    return counts


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def main() -> None:
    """Print the figures and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=20)
    parser.add_argument("--moves", type=int, default=10)
    given = parser.parse_args()
    results = run(given.members, given.rate, given.moves)
    Console().print(results)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
