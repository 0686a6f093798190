"""SIGKILL at random moments: what the next run finds, and whether it mends it.

A small market in a temporary workspace: its fits are a month old, so that a run makes a snapshot,
fits two item spaces, an aggregator and a ranker again, and notes a release. Such a run, a promotion
and a look at the drift are killed, each at moments that are uniform over how long it takes when
nobody kills it. After each the next run has to end well, and leave what a workspace has that never
was killed: tables, online rows, fits, releases, and which of them serves. A promotion may have
happened or not. Processes come from a server that has imported everything, so that moments fall
into the work.

    python -m benchmarks.kills [--runs 20] [--promotions 5] [--drifts 5] [--seed 0]
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from operations.fits import FITS
from operations.ledger import Ledger
from operations.releases import TARGETS, releases, serving
from operations.rhythm import plan
from transformations.config import Config, load_config
from transformations.layout import partitions

RESULT = Path(__file__).parent / "results" / "kills.json"
END = datetime(2026, 11, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DUE, NEXT = END + HOUR, END + 2 * HOUR
"""When the run is made that is killed, and the next."""
LONGEST = 600.0
"""Seconds after which a process counts as one that hangs."""
SETTINGS = """
events: {source: source/events, columns: {ingested_at: ingested_at}}
items: {source: source/items.parquet, text: [title], available_at: posted_at}
dim: 8
fit_holdback: 3d
recommend: {precompute: 20}
"""
STORE = """
project: kills
provider: local
registry: {registry_type: sql, path: sqlite:///data/registry.db}
offline_store: {type: stores.duckdb_asof.DuckDBAsofOfflineStore}
online_store: {type: stores.sqlite.ColumnarSqliteOnlineStore, path: data/online.db}
batch_engine: {type: stores.columnar.ColumnarComputeEngine}
entity_key_serialization_version: 3
"""
CATALOGUE = """
from models.candidates.spec import Neighbours, Popular
from models.items.spec import CoActions, Factors
from models.rankers.lines import Linear
from models.spec import GeometricDecay

ITEM_ENCODERS = (CoActions(version=1), Factors(version=1))
AGGREGATORS = (GeometricDecay(version=1, decay=0.5, items="co_actions_v1"),)
CANDIDATES = (Popular(version=1), Neighbours(of="factors_v1", version=1))
RANKERS = (Linear(version=1, aggregators=("decay_v1",)),)
"""
State = dict[str, Any]


def run(runs: int, promotions: int, drifts: int, seed: int) -> dict[str, Any]:
    """Kill that many of each in a new workspace; return the figures.

    Raises:
        RuntimeError: a process that nobody kills fails, or two of them leave different states.
    """
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "market"
        finished(_make, root)
        due = _Saved(root, Path(name) / "due")
        finished(_run, root, DUE)
        made = _Saved(root, Path(name) / "made")
        (old, new) = sorted(one.number for one in releases(load_config(root)))
        figures = {
            "run": _killed(due, _run, (root, DUE), runs, drawn),
            "promotion": _killed(made, _promote, (root, old), promotions, drawn),
            "drift": _killed(made, _drift, (root,), drifts, drawn),
        }
        assert new != old
    kills = sum(each["kills"] for each in figures.values())
    return {"kills": kills, "mended": kills - sum(len(each["faults"]) for each in figures.values()),
            "seed": seed, **figures}  # fmt: skip


def said(figures: dict[str, Any]) -> str:
    """Return the sentence of docs/operations.md that holds these figures."""
    runs, promotions, drifts = (figures[name]["kills"] for name in ("run", "promotion", "drift"))
    return (
        f"{runs} runs that fit everything again, {promotions} promotions and {drifts} looks at the "
        f"drift were killed at random moments; after {figures['mended']} of {figures['kills']} the "
        "next run left what a workspace has that never was killed: tables, online rows, fits, "
        "releases, and which of them serves."
    )


class _Saved:
    """A workspace as it was at a moment. It stays in its place: the registry has its paths."""

    def __init__(self, root: Path, copy: Path) -> None:
        self.root, self._copy = root, copy
        shutil.copytree(root, copy, symlinks=True)

    def restore(self) -> None:
        """Put the workspace back."""
        shutil.rmtree(self.root)
        shutil.copytree(self._copy, self.root, symlinks=True)


def _killed(
    saved: _Saved,
    work: Callable[..., None],
    arguments: Sequence[Any],
    kills: int,
    drawn: random.Random,
) -> dict[str, Any]:
    """Kill this work that many times, each from the same state; return what was found."""
    took, wanted = [], []
    for _ in range(2):
        saved.restore()
        began = time.perf_counter()
        finished(work, *arguments)
        took.append(time.perf_counter() - began)
        finished(_run, saved.root, NEXT)
        wanted.append(state(saved.root))
    if differences := unlike(*wanted):
        raise RuntimeError(f"expected equal states of two whole runs, got other {differences}")
    if work is _promote:  # killed before its transaction, it did not happen
        saved.restore()
        finished(_run, saved.root, NEXT)
        wanted.append(state(saved.root))
    moments, ended, faults = [], 0, []
    for _ in range(kills):
        saved.restore()
        moment = drawn.uniform(0, min(took))
        moments.append(round(moment, 2))
        ended += not _kill(work, arguments, moment)
        said = f"after {moment:.2f} s"
        try:
            finished(_run, saved.root, NEXT)
        except RuntimeError as error:
            faults.append(f"{said}: the next run: {error}")
            continue
        found = state(saved.root)
        wrong = min((unlike(one, found) for one in wanted), key=len)
        if wrong:
            faults.append(f"{said}: other {', '.join(wrong)}")
        print(f"{work.__name__} killed {said}: {', '.join(wrong) or 'mended'}", flush=True)
    return {"kills": kills, "seconds": round(min(took), 2), "moments": sorted(moments),
            "ended_before": ended, "faults": faults}  # fmt: skip


def _kill(work: Callable[..., None], arguments: Sequence[Any], moment: float) -> bool:
    """Kill a process that many seconds after it began; return whether it was still there."""
    process = _process(work, *arguments)
    process.start()
    process.join(moment)
    was_there = process.is_alive()
    if was_there:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return was_there


def finished(work: Callable[..., None], *arguments: Any) -> None:
    """Do the work in a process of its own, to its end.

    Raises:
        RuntimeError: it ends with another code than 0, or does not end.
    """
    process = _process(work, *arguments)
    process.start()
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
        raise RuntimeError(f"{work.__name__} does not end within {LONGEST:.0f} s")
    if process.exitcode:
        raise RuntimeError(f"{work.__name__} ends with {process.exitcode}")


def _process(work: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.rhythm", "pipelines.cli.release"])
    return context.Process(target=work, args=arguments)


def _make(root: Path) -> None:
    """Make the market, its first fits and a release; let the fits be a month old."""
    from pipelines.datasets.simulate import Size, simulate

    simulate(root / "source", Size(members=80, jobs=90, days=30), end=END)
    (root / "activity.yaml").write_text(SETTINGS)
    (root / "feature_store.yaml").write_text(STORE)
    (root / "catalog.py").write_text(CATALOGUE)
    for at in (END - 4 * DAY, END - DAY):
        _run(root, at + HOUR)
    with Ledger(load_config(root)).engine.begin() as connection:
        for of, made in (
            (FITS.c.kind != "ranker", END - 40 * DAY),
            (FITS.c.kind == "ranker", END - 40 * DAY + HOUR),
        ):
            text = made.isoformat(timespec="microseconds")
            connection.execute(sa.update(FITS).where(of).values(made_at=text))


def _run(root: Path, now: datetime) -> None:
    """Make what is due at this time, as `activity run` does."""
    from rich.console import Console

    from pipelines.rhythm import run_due

    config = load_config(root)
    ledger = Ledger(config)
    with ledger.lock():
        run_due(config, plan(config, ledger, now), ledger, Console(quiet=True))


def _promote(root: Path, number: int) -> None:
    _command("release", "promote", str(number), "--config", str(root))


def _drift(root: Path) -> None:
    _command("drift", "--all", "--html", str(root / "data" / "drift.html"), "--config", str(root))


def _command(*arguments: str) -> None:
    from pipelines.cli import main

    sys.argv = ["activity", *arguments]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        main()


def state(root: Path) -> State:
    """Return what a workspace holds, but for the times that a run took.

    Keys name tables by their folder, online views, and what the ledger knows.
    """
    config = load_config(root)
    return {**_tables(config), **_online(config), **_ledger(config)}


def unlike(one: State, other: State) -> list[str]:
    """Return the names of what differs."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _tables(config: Config) -> State:
    found: State = {}
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        for file in sorted(config.data.rglob("*.parquet")):
            folder = file.parent.relative_to(config.data)
            if folder.parts[0] in ("artifacts", "training_examples") or "source" in folder.parts:
                continue
            rows = con.execute(
                "select columns(lambda c: c <> 'created_timestamp') from "
                f"read_parquet('{file}', hive_partitioning = false)"
            ).fetchall()
            found.setdefault(f"table {folder}", []).extend(map(repr, rows))
    return {name: sorted(rows) for name, rows in found.items()}


def _online(config: Config) -> State:
    found: State = {}
    engine = sa.create_engine(f"sqlite:///{config.data / 'online.db'}")
    with engine.connect() as connection:
        for name in sa.inspect(engine).get_table_names():
            columns = [column["name"] for column in sa.inspect(engine).get_columns(name)]
            if "entity_key" in columns:
                wanted = ", ".join(c for c in columns if not c.startswith("created"))
                rows = connection.exec_driver_sql(f'select {wanted} from "{name}"')
                found[f"online {name}"] = sorted(map(repr, rows))
    engine.dispose()
    return found


def _ledger(config: Config) -> State:
    with Ledger(config).engine.connect() as connection:
        fits = connection.execute(sa.select(FITS)).mappings().all()
    return {
        "fits": sorted((row["kind"], row["name"], row["version"], row["fit"]) for row in fits),
        "due": [str(part) for part in plan(config, Ledger(config), NEXT + HOUR).due],
        "snapshots": partitions(config.layout.sequences),
        "releases": {one.number: sorted(one.fits) for one in releases(config)},
        "pointers": {target: serving(config, target) for target in TARGETS},
    }


def main() -> None:
    """Kill, print what was found and note it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--promotions", type=int, default=5)
    parser.add_argument("--drifts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    figures = run(**vars(parser.parse_args()))
    text = json.dumps(figures, indent=2)
    print(text)
    RESULT.write_text(text + "\n")


if __name__ == "__main__":
    main()
