"""A member's recommendations over HTTP, beside what a user would write from Feast's docs.

The market of `activity simulate` (20,000 members, 5,000 jobs), run and ranked as `make run` does,
put online into a private Redis. `activity serve` runs in a process of its own; the client shares
the machine's cores with it and with Redis.

- open loop: requests for random active members at a constant rate, whether or not the earlier ones
  are answered; a latency counts from when its request was due. No answer comes from the cache.
- the highest rate, in steps, whose p99 is under the bound.
- the other side, in the same run: FastAPI, `get_online_features(...).to_dict()` for the same
  features of 500 items, `model.predict` of a Keras model of the ranker's size.

    python -m benchmarks.recommend --seconds 20
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.request_time import milliseconds
from pipelines.private_redis import private_redis, write_store
from transformations.config import CONFIG, ROOT, Config, load_config

RESULTS = Path(__file__).parent / "results" / "recommend.json"
CONNECTIONS = 32
BOUND = 30.0
"""Milliseconds that p99 has to stay under."""
RATES = (20, 40, 60, 80, 100, 120, 150, 200)
KINDS = ("wide_and_deep", "boosted_trees")
ITEMS = 500
"""Candidates of the other side; ours come from the four sources of the catalogue."""


def run(config: Config, rate: int, seconds: float, asked: int) -> dict[str, Any]:
    """Measure everything; return the figures."""
    figures: dict[str, Any] = {"rate": rate, "seconds": seconds, "bound_ms": BOUND}
    with tempfile.TemporaryDirectory() as name, private_redis(Path(name)) as port:
        folder = Path(name)
        settings = {"keep": "0s", "deadline": "10s", "precompute": 0}
        members = online(config, folder, port, settings)
        figures["members"] = len(members)
        for kind in KINDS:
            only(config, folder, kind)
            with _served(folder) as address:
                figures[kind] = _measured(address, members, rate, seconds)
        with _other_side(folder) as address:
            figures["feast_and_keras"] = closed_loop(address, members, asked)
        only(config, folder, KINDS[0])
        with _served(folder) as address:
            figures["ours_beside"] = closed_loop(address, members, asked)
    theirs, ours = figures["feast_and_keras"]["p50"], figures["ours_beside"]["p50"]
    figures["times_as_fast_at_the_median"] = round(theirs / ours, 1)
    figures["load_average"] = os.getloadavg()[0]
    return figures


def online(config: Config, folder: Path, port: int, recommend: dict[str, Any]) -> list[Any]:
    """Put the newest snapshot into Redis; return the members that have a row in it.

    Args:
        folder: Becomes a workspace of its own, with the data of `config`.
        recommend: Its settings.
    """
    import pyarrow.parquet as pq

    from operations.fits import lines_of
    from operations.ledger import Ledger
    from serving import publish
    from transformations.layout import partition
    from transformations.names import MEMBER_STATS_VIEW

    write_store(folder, port)
    settings = yaml.safe_load(config.file.read_text()) | {
        "data_dir": str(config.data),
        "feature_store": str(folder / "feature_store.yaml"),
        "recommend": recommend,
    }
    for section in ("events", "items"):
        settings[section]["source"] = str(config.path(settings[section]["source"]))
    (folder / CONFIG).write_text(yaml.safe_dump(settings))
    shutil.copy(config.catalogue, folder / "catalog.py")
    own = load_config(folder)
    as_of = Ledger(own).newest_published()
    assert as_of is not None, "first: activity run --as-of last --backfill 14"
    store = publish.open_store(own)
    lines = [line for line in lines_of(own) if line.is_packaged(own)]
    publish.apply(own, store, lines)
    publish.publish(own, store, as_of, lines)
    publish.publish_tables(
        store,
        as_of,
        [t for t in publish.tables_beside(own) if partition(t.folder, as_of).exists()],
    )
    assert MEMBER_STATS_VIEW in publish.views(lines)
    rows = pq.read_table(partition(own.layout.sequences, as_of), columns=["member_id"])
    return list(rows["member_id"].to_pylist())


def only(config: Config, folder: Path, kind: str) -> None:
    """Let one ranker of the catalogue serve: the first line does."""
    lines = config.catalogue.read_text().splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if line.startswith("RANKERS"))
    classes = {"wide_and_deep": "WideAndDeep(", "boosted_trees": "BoostedTrees("}
    kept = [line for line in lines[start + 1 :] if classes[kind] in line]
    (folder / "catalog.py").write_text("".join([*lines[: start + 1], *kept, ")\n"]))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(folder)]
    with server([*command, "--port", "0", "--timeout", "10"]) as address:
        yield address


@contextmanager
def _other_side(folder: Path) -> Iterator[str]:
    with server([sys.executable, "-m", "benchmarks.recommend_by_hand", str(folder)]) as address:
        yield address


@contextmanager
def server(command: Sequence[str]) -> Iterator[str]:
    """Start a server; yield its address once it says it; stop it."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:(\d+)/recommend", line):
                    break
            else:
                raise SystemExit(f"the server ended: {''.join(said)}")
            yield f"127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def _measured(address: str, members: list[Any], rate: int, seconds: float) -> dict[str, Any]:
    open_loop(address, members, 20, 5)  # warms up
    took, paths = open_loop(address, members, rate, seconds)
    result: dict[str, Any] = {"open loop": milliseconds(took) | {"paths": paths}}
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    counted = re.findall(r'recommend_candidates_total\{source="([^"]+)"\} (\S+)', text)
    answers = sum(float(n) for n in re.findall(r"recommend_answers_total\{[^}]+\} (\S+)", text))
    result["candidates"] = {name: round(float(n) / answers, 1) for name, n in counted}
    best = None
    for step in RATES:
        took, _ = open_loop(address, members, step, min(seconds, 10))
        if milliseconds(took)["p99"] >= BOUND:
            break
        best = step
    result["highest_rate"] = best
    return result


def open_loop(
    address: str, members: list[Any], rate: int, seconds: float
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Send requests when they are due; return seconds from then to each answer, and its paths."""
    return asyncio.run(_open_loop(address, members, rate, seconds))


async def _open_loop(
    address: str, members: list[Any], rate: int, seconds: float
) -> tuple[NDArray[np.float64], dict[str, int]]:
    host, port = address.split(":")
    idle: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection(host, int(port)))
    rng = np.random.default_rng(2)
    took: list[float] = []
    paths: dict[str, int] = {}
    start = time.perf_counter() + 0.1

    async def ask(due: float, request: bytes) -> None:
        reader, writer = await idle.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, head
        body = await reader.readexactly(int(length[1]))
        idle.put_nowait((reader, writer))
        took.append(time.perf_counter() - due)
        status = head.split(b" ", 2)[1].decode()
        path = json.loads(body).get("path", status) if status == "200" else status
        paths[path] = paths.get(path, 0) + 1

    asking = []
    for nth in range(round(rate * seconds)):
        due = start + nth / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        member = members[int(rng.integers(len(members)))]
        asking.append(asyncio.create_task(ask(due, _request(member))))
    await asyncio.gather(*asking)
    while not idle.empty():
        idle.get_nowait()[1].close()
    return np.array(took), paths


def _request(member: Any) -> bytes:
    body = json.dumps({"member_id": member, "n": 20}).encode()
    head = "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def closed_loop(address: str, members: list[Any], asked: int) -> dict[str, Any]:
    """Ask one after the other, on one connection."""
    import http.client

    connection = http.client.HTTPConnection(address, timeout=120)
    rng, took = np.random.default_rng(3), []
    for nth in range(asked + 3):
        body = json.dumps({"member_id": members[int(rng.integers(len(members)))], "n": 20})
        began = time.perf_counter()
        connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        if nth >= 3:
            took.append(time.perf_counter() - began)
    return milliseconds(np.array(took))


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default=str(ROOT))
    parser.add_argument("--rate", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--asked", type=int, default=30)
    given = parser.parse_args()
    results = run(load_config(Path(given.config)), given.rate, given.seconds, given.asked)
    table = Table(title=f"POST /recommend, top 20, {given.rate} requests a second, ms")
    for column in ("", "p50", "p99", "max", "highest rate with p99 under 30 ms"):
        table.add_column(column)
    for kind in KINDS:
        row = results[kind]["open loop"]
        cells = [str(row[name]) for name in ("p50", "p99", "max")]
        table.add_row(kind, *cells, str(results[kind]["highest_rate"]))
    for name in ("ours_beside", "feast_and_keras"):
        table.add_row(name, *(str(results[name][key]) for key in ("p50", "p99", "max")), "")
    console = Console()
    console.print(table)
    console.print(f"{results['times_as_fast_at_the_median']} times as fast at the median")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
