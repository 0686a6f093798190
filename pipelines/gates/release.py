"""The gates of a release: what has to hold before it may serve anybody.

future    a training join of each of its services finds what could be read then, and no more
parity    what is online is what is newest offline, and what a request would compute
bytes     a member's rows take no more than twice those of the release that serves
latency   members are answered within the deadline, by its ranker
quality   the newest days are ranked at least as well as by the release that serves
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from feast import FeatureStore

from models.lines import candidate_lines, catalogue_lines
from models.spec import Aggregator
from operations.composition import fits_of
from operations.fits import Fits
from operations.ledger import Ledger
from operations.releases import note_gates, release_of, serving
from pipelines.gates.quality import judged, ranker_of
from pipelines.gates.service import CLOSE, check_service
from pipelines.gates.verdict import Verdict, noted
from pipelines.progress import Stages
from pipelines.ranking.precomputed import active_members
from serving import publish
from serving.recommend.asked import Request
from serving.recommend.parts import open_parts
from serving.recommend.recommend import Recommender
from serving.request.vectors import RequestTime
from transformations import clock
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import snapshot_files
from transformations.names import ranker_service

ROWS, KEYS_OFF = 300, 1e-3
"""Rows of each view that are looked at, and the share of keys that may differ online."""
MEMBERS, THREADS, IN_TIME = 200, 2, 0.99
"""Members that are answered, at once, and the share that the ranker has to answer in time."""
LOOKS = 2
"""How often the members are asked: that this machine was busy once says nothing of a release."""
WIDER = 2.0
"""Times the bytes of the serving release's rows."""


def judge(config: Config, number: int, stages: Stages) -> list[Verdict]:
    """Let every gate judge a release, and note what they said in the ledger.

    Raises:
        InputError: there is no such release, it is retired, or nothing was published.
    """
    release = release_of(config, number)
    if not release.is_living:
        raise InputError(f"{release} is retired: its rows are not published any more")
    as_of = Ledger(config).newest_published()
    if as_of is None:
        raise InputError(f"nothing was published into {config.data}; first: activity run")
    now_serving = serving(config)
    before = None if now_serving in (None, number) else fits_of(config, now_serving)
    fits, store = fits_of(config, number), publish.open_store(config)
    lines = fits.made(catalogue_lines(config))
    gates: dict[str, Callable[[], Iterator[Verdict] | Verdict]] = {
        "services": lambda: _services(config, store, fits, lines, as_of),
        "request": lambda: _request(config, store, lines, as_of),
        "bytes": lambda: _bytes(config, lines, before),
        "latency": lambda: _latency(config, store, fits, as_of),
        "quality": lambda: _quality(config, store, fits, before),
    }
    verdicts: list[Verdict] = []
    with stages.stage(f"gates of release {number}", len(gates), "gates") as stage:
        for name, gate in gates.items():
            stage.doing, start = name, time.perf_counter()
            found = gate()
            some = [found] if isinstance(found, Verdict) else [*found]
            # What is found out together took its part of the time.
            seconds = round((time.perf_counter() - start) / max(len(some), 1), 2)
            verdicts += [replace(verdict, seconds=seconds) for verdict in some]
            stage.advance(1)
        stage.note = "passed" if all(v.passed is not False for v in verdicts) else "refused"
    note_gates(config, number, noted(verdicts))
    return verdicts


def _services(
    config: Config,
    store: FeatureStore,
    fits: Fits,
    lines: Sequence[Aggregator],
    as_of: datetime,
) -> Iterator[Verdict]:
    """Check what the release's lines and its ranker read."""
    ranker = ranker_of(config, fits)
    services = [line.service for line in lines]
    services += [ranker_service(str(ranker.line))] if ranker else []
    now = clock.now()
    since = as_of - timedelta(days=7)
    compared, wrong = {"future": 0, "parity": 0}, {"future": "", "parity": ""}
    looked: set[str] = set()
    for service in services:
        for found in check_service(store, service, since, now, ROWS, skip=looked):
            check = "future" if found.check == "created" else found.check
            compared[check] += found.compared
            if found.share > (KEYS_OFF if check == "parity" else 0):
                example = f"{found.off} of {found.compared} of {found.view}, as {found.example}"
                wrong[check] = wrong[check] or example
    for check, said in wrong.items():
        good = f"{compared[check]:,} {'labels' if check == 'future' else 'keys'} as they should be"
        passed = None if not compared[check] else not said
        yield Verdict(check, passed, said or (good if passed else "nothing to compare"))


def _request(
    config: Config, store: FeatureStore, lines: Sequence[Aggregator], as_of: datetime
) -> Verdict:
    """Compare what a request computes with the snapshot, at the snapshot's moment."""
    checked, worst, of = 0, 0.0, ""
    with RequestTime(config, store, lambda: lines) as request:
        for line in lines:
            files = snapshot_files(config.layout.embeddings(line.view), as_of)
            fields = [*line.vectors(line.config_of(config))]
            if not files or line.stored_as(config) == "int8":
                continue
            rows = pq.read_table(files[0], columns=["member_id", *fields], partitioning=None)
            rows = rows.slice(0, MEMBERS)
            try:
                made = request.embed(rows["member_id"].to_pylist(), as_of=as_of)
            except InputError:  # a stream has newer rows of them
                continue
            checked += rows.num_rows
            for field in fields:
                batch = np.array(rows[field].to_pylist(), np.float32)
                off = float(np.abs(batch - made.vectors[line.view][field]).max(initial=0.0))
                if off > worst:
                    worst, of = off, f"{field} of {line.view}"
    if not checked:
        return Verdict("request", None, "no snapshot that a request can be compared with")
    text = f"{checked:,} members' vectors within {worst:.1g}"
    if worst > CLOSE:
        text = f"{of} differs by {worst:.2g} from the snapshot, expected at most {CLOSE:g}"
    return Verdict("request", worst <= CLOSE, text)


def _bytes(config: Config, lines: Sequence[Aggregator], before: Fits | None) -> Verdict:
    """Compare the bytes of a member's vectors with those of the release that serves."""
    own = _bytes_of(config, lines)
    if before is None:
        return Verdict("bytes", None, f"{own:,} bytes a member; nothing serves to compare with")
    other = _bytes_of(config, before.made(catalogue_lines(config)))
    text = f"{own:,} bytes a member, serving {other:,}"
    return Verdict("bytes", own <= WIDER * other or not other, text)


def _bytes_of(config: Config, lines: Sequence[Aggregator]) -> int:
    total = 0
    for line in lines:
        own = line.config_of(config)
        width = own.dim * (1 if line.stored_as(config) == "int8" else 4)
        total += width * len(line.vectors(own))
    return total


def _latency(config: Config, store: FeatureStore, fits: Fits, as_of: datetime) -> Verdict:
    """Answer members that acted lately, some at once, as a service would."""
    if not candidate_lines(config):
        return Verdict("latency", None, "no candidate source, so nothing is recommended")
    with connect(config) as con:
        members = active_members(config, con, as_of)[:MEMBERS]
    if not members:
        return Verdict("latency", None, "no member is active")
    fallbacks = {"precomputed", "popular", "votes"}
    if ranker_of(config, fits) is None:
        fallbacks -= {"votes"}
    deadline = config.recommend.deadline.total_seconds()

    def ask(member: Any) -> tuple[float, bool]:
        start = time.monotonic()
        answer = recommender.of(Request(str(member)))
        return time.monotonic() - start, answer.path not in fallbacks

    with Recommender(config, open_parts(config, store, served=fits)) as recommender:
        for member in members[:THREADS]:
            ask(member)
        for _ in range(LOOKS):
            with ThreadPoolExecutor(THREADS) as pool:
                asked = list(pool.map(ask, members))
            good = np.mean([took <= deadline and by for took, by in asked])
            if good >= IN_TIME:
                break
    p99 = float(np.quantile([took for took, _ in asked], 0.99))
    text = (
        f"{good:.1%} of {len(members)} members ranked within {1000 * deadline:.0f} ms, "
        f"p99 {1000 * p99:.0f} ms"
    )
    return Verdict("latency", bool(good >= IN_TIME), text)


def _quality(config: Config, store: FeatureStore, fits: Fits, before: Fits | None) -> Verdict:
    with connect(config) as con:
        return judged(config, con, store, fits, before, clock.now())
