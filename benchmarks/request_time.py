"""A member's vector at request time: in this process, and over HTTP at a constant rate.

In process: `RequestTime.embed` of one random member out of `--members` in a private Redis; of one
with a new action in the request; and of 64 members. A learned aggregator has its initial weights,
because its duration does not depend on them. One case more has three attributes per action, in the
store and in the request. `cpu` is the mean processor time per request, which
other work on the machine hardly changes.

Over HTTP, the service in a separate process, one random member per request:
- open loop: requests are sent at a constant rate, whether or not the earlier ones are answered. A
  latency counts from when its request was due, so a stall of the service is seen in full.
- wrk, if it is on the PATH. wrk is a closed loop (Debian's has no constant rate). Each connection
  waits for a random Lua delay, so that together they reach about the rate, without volleys. A late
  request delays the next one on its connection, so a stall counts less than above.

The client shares the machine's cores with the service.

    python -m benchmarks.request_time --seconds 30
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.embedding import AS_OF, write_world
from benchmarks.sequences import ATTRIBUTES
from models.catalog import AGGREGATORS
from models.spec import Aggregator, AttentionPool, Cnn, GeometricDecay, Learned, Transformer
from pipelines.private_redis import private_redis, write_store
from serving.publish.snapshots import materialize
from transformations.config import ROOT, Config
from transformations.layout import partition
from transformations.rules import MISSING

RESULTS = Path(__file__).parent / "results" / "request_time.json"
NOW = AS_OF + timedelta(hours=9)
DECAY = GeometricDecay(version=1, decay=0.8)
# The catalogue's learned lines; without any, three kinds of layers.
LEARNED: tuple[Aggregator, ...] = tuple(
    line for line in AGGREGATORS if isinstance(line, Learned)
) or (AttentionPool(version=1), Cnn(version=1), Transformer(version=1))
CONNECTIONS = 32


def run(members: int, items: int, requests: int, rate: int, seconds: float) -> dict[str, Any]:
    """Measure everything; return the figures."""
    with tempfile.TemporaryDirectory() as name, private_redis(Path(name)) as port:
        folder = Path(name)
        config = _world(folder, port, members, items)
        in_process = {}
        for lines in ((DECAY,), *((line,) for line in LEARNED), (DECAY, *LEARNED)):
            label = " + ".join(line.name for line in lines)
            in_process[label] = _in_process(config, lines, members, requests)
        http = {}
        for lines in ((DECAY,), LEARNED[:1], (DECAY, *LEARNED)):
            label = " + ".join(line.name for line in lines)
            http[label] = _over_http(folder, lines, members, rate, seconds)
    with tempfile.TemporaryDirectory() as name, private_redis(Path(name)) as port:
        carrying = _world(Path(name), port, members, items, ATTRIBUTES)
        label = f"{DECAY.name}, 3 attributes"
        in_process[label] = _in_process(carrying, (DECAY,), members, requests)
    return {
        "members": members,
        "items": items,
        "requests": requests,
        "rate": rate,
        "seconds": seconds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg()[0],  # of other work too
        "in_process": in_process,
        "http": http,
    }


def _world(
    folder: Path,
    port: int,
    members: int,
    items: int,
    attributes: Mapping[str, Any] | None = None,
) -> Config:
    """Write a snapshot, package the aggregators, put the sequences online."""
    from models.layers.build import build
    from models.packaging import package
    from serving import publish
    from transformations.names import SEQUENCE_VIEW

    write_world(folder / "data", members, items, dim=64, length=32)
    write_store(folder, port)
    config = _config(folder, attributes)
    if attributes:
        _carry(config)
    for line in (DECAY, *LEARNED):
        trained = build(line, config) if isinstance(line, Learned) else None
        package(line, config, trained=trained)
    store = publish.open_store(config)
    publish.apply(config, store, (DECAY, *LEARNED))
    materialize(store, SEQUENCE_VIEW, AS_OF, AS_OF)
    return config


def _carry(config: Config) -> None:
    """Add lists of three attributes to the snapshot; some are missing."""
    file = partition(config.layout.sequences, AS_OF)
    rows = pq.read_table(file).combine_chunks()
    lists = rows["item_ids"].chunk(0)
    rng, count = np.random.default_rng(3), len(lists.flatten())
    share = rng.random(count)
    words = np.array(["feed", "search", "mail", "ad"])[rng.integers(4, size=count)]
    texts = np.where(share < 0.25, "a text of some forty letters, or so", MISSING)
    values = {"dwell": np.where(share > 0.25, share, np.nan), "seen_on": words, "comment": texts}
    for name, each in values.items():
        rows = rows.append_column(name, pa.ListArray.from_arrays(lists.offsets, pa.array(each)))
    pq.write_table(rows, file)


def _config(folder: Path, attributes: Mapping[str, Any] | None = None) -> Config:
    return Config.model_validate(
        {
            "events": {"attributes": attributes or {}},
            "data_dir": str(folder / "data"),
            "feature_store": str(folder / "feature_store.yaml"),
            "items": {"text": ["title"]},
        }
    )


def _open(config: Config, lines: Sequence[Aggregator]) -> Any:
    from serving.publish.feast_store import open_store
    from serving.request.vectors import RequestTime

    return RequestTime(config, open_store(config), lambda: lines)


def _in_process(
    config: Config, lines: Sequence[Aggregator], members: int, requests: int
) -> dict[str, Any]:
    from serving.request.sequences import Event

    rng = np.random.default_rng(1)
    carried = {"dwell": 12.5, "seen_on": "feed", "comment": "a text of some forty letters"}
    new = carried if config.events.attributes else {}
    with _open(config, lines) as served:

        def one() -> None:
            served.embed([int(rng.integers(members))], as_of=NOW)

        def one_new() -> None:
            member = int(rng.integers(members))
            event = Event(
                member, int(rng.integers(1_000)), "APPLY", NOW - timedelta(seconds=1), new
            )
            served.embed([member], [event], NOW)

        def many() -> None:
            served.embed(rng.integers(members, size=64).tolist(), as_of=NOW)

        return {
            "1 member": _timed(one, requests),
            "1 member, 1 new action": _timed(one_new, requests),
            "64 members": _timed(many, max(requests // 10, 1)),
        }


def _timed(work: Callable[[], None], times: int) -> dict[str, float]:
    for _ in range(min(50, times)):
        work()
    took = np.empty(times)
    computed = time.process_time()
    for nth in range(times):
        began = time.perf_counter()
        work()
        took[nth] = time.perf_counter() - began
    computed = time.process_time() - computed
    return milliseconds(took) | {"cpu": round(computed / times * 1000, 2)}


def milliseconds(seconds: np.ndarray) -> dict[str, float]:
    """Return the median, the 99th percentile and the longest of latencies, in milliseconds."""
    return {
        name: round(float(np.quantile(seconds, q)) * 1000, 2)
        for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def _over_http(
    folder: Path, lines: Sequence[Aggregator], members: int, rate: int, seconds: float
) -> dict[str, Any]:
    names = ",".join(line.view for line in lines)
    command = [sys.executable, "-m", "benchmarks.request_time", "--serve", str(folder), names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            asyncio.run(_open_loop(port, members, rate, 2))  # warms up
            result = {"open loop": asyncio.run(_open_loop(port, members, rate, seconds))}
            if shutil.which("wrk") is not None:
                result["wrk"] = _wrk(folder, port, members, rate, seconds)
            return result
        finally:
            server.terminate()


def _serve(folder: Path, names: str) -> None:
    """Serve until SIGTERM; print the port."""
    import socket

    from serving.request.limits import Limits
    from serving.request.server import server_of
    from serving.request.service import application

    lines = [line for line in (DECAY, *LEARNED) if line.view in names.split(",")]
    server = server_of(application(_open(_config(folder), lines)), Limits())
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        server.run(sockets=[listening])


def _request(member: int) -> bytes:
    body = json.dumps({"member_ids": [member], "as_of": NOW.isoformat()}).encode()
    head = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _open_loop(port: int, members: int, rate: int, seconds: float) -> dict[str, Any]:
    """Send requests when they are due; a latency counts from then."""
    idle: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    rng = np.random.default_rng(2)
    took: list[float] = []
    refused = 0
    start = time.perf_counter() + 0.1

    async def ask(due: float, request: bytes) -> None:
        nonlocal refused
        reader, writer = await idle.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, head
        await reader.readexactly(int(length[1]))
        idle.put_nowait((reader, writer))
        if head.startswith(b"HTTP/1.1 200"):
            took.append(time.perf_counter() - due)
        else:
            refused += 1

    asking = []
    for nth in range(round(rate * seconds)):
        due = start + nth / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asking.append(asyncio.create_task(ask(due, _request(int(rng.integers(members))))))
    await asyncio.gather(*asking)
    answered = len(took) / (time.perf_counter() - start)
    while not idle.empty():
        idle.get_nowait()[1].close()
    return milliseconds(np.array(took)) | {"a_second": round(answered, 1), "refused": refused}


def _wrk(folder: Path, port: int, members: int, rate: int, seconds: float) -> dict[str, Any]:
    script = folder / "ask.lua"
    wait = 1000 * CONNECTIONS // rate
    script.write_text(
        f"""
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "application/json"
        function delay() return math.random(0, {2 * wait}) end
        function request()
          local body = '{{"member_ids": [' .. math.random(0, {members - 1}) ..
            '], "as_of": "{NOW.isoformat()}"}}'
          return wrk.format(nil, nil, nil, body)
        end
        function done(summary, latency, requests)
          print(string.format("%f %f %f %d", latency:percentile(50), latency:percentile(99),
            latency.max, summary.errors.status))
        end
        """
    )
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/embed"], capture_output=True, text=True, check=True
    )
    p50, p99, longest, refused = done.stdout.strip().splitlines()[-1].split()
    rate_seen = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate_seen is not None, done.stdout
    figures = {"p50": p50, "p99": p99, "max": longest}
    return {name: round(float(us) / 1000, 2) for name, us in figures.items()} | {
        "a_second": float(rate_seen[1]),
        "refused": int(refused),
    }


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    serve = arguments.pop("serve")
    if serve is not None:
        _serve(Path(serve[0]), serve[1])
        return
    results = run(**arguments)
    console = Console()
    columns = ("p50", "p99", "max", "cpu", "a_second")
    for title, cases in (
        ("In process, ms", results["in_process"]),
        (f"Over HTTP at {results['rate']} requests per second, ms", results["http"]),
    ):
        table = Table(title=title)
        for column in ("aggregators", "what", "p50", "p99", "max", "cpu", "per second"):
            table.add_column(
                column, justify="left" if column in ("aggregators", "what") else "right"
            )
        for label, rows in cases.items():
            for what, row in rows.items():
                numbers = [str(row.get(name, "")) for name in columns]
                table.add_row(label, what, *numbers)
        console.print(table)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
