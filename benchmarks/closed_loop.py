"""Does the offline verdict agree with the market? Simulated markets that answer, one per seed.

    python -m benchmarks.closed_loop [--markets 20] [--jobs 2] [--more]

In each market three rankers are fitted that differ in their vectors alone: three decayed ones, a
learned one, none (examples/operate/catalog.py). Before any of them serves, each pair is compared as
the gate of quality does it (pipelines/gates/quality.py): on the newest days, of which neither
learned more than when to stop, and nothing of the last five. Then the market is lived once with
each ranker, in full: copies of one workspace, the same members in the same mood, its runs, its
lists, its log of what was shown (pipelines/living.py). What a list brings is the expected number of
applications by the hidden taste, so chance in what members do is not in the true effect beyond what
they live on with; its interval is over members. What it does not know: a market of other
assumptions than pipelines/datasets/closed_loop.py has, and what more than the lived days would
bring.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from io import StringIO
from itertools import combinations
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

RESULTS = Path(__file__).parent / "results" / "closed_loop.json"
END = datetime(2026, 11, 1, tzinfo=UTC)
MEMBERS, JOBS, DAYS, LIVED, BACK, HELD_OUT, VISITS = 1_000, 400, 60, 7, 14, 5, 2.0
LABELS = 1_000
ARMS = ("decayed", "learned", "no_vectors")
MAIN = ("learned", "decayed")
Z = 1.959964
CHANGES = {
    "fit_holdback": f"{BACK}d",
    "release": {"promote": "automatic"},
    "rhythm": {"spaces": "never", "rankers": "never"},
}
"""Each arm keeps its ranker for the lived days."""


def market_of(seed: int) -> dict[str, Any]:
    """Measure one market; return its figures."""
    from pipelines.living import Living
    from pipelines.operate.workspace import only, write_workspace

    began, quiet = time.perf_counter(), Console(file=StringIO())
    with tempfile.TemporaryDirectory() as name:
        root, kept = Path(name) / "market", Path(name) / "kept"
        market = market_from(seed)
        config = write_workspace(root, market, (), CHANGES)
        with Living(config, market, root / "source", quiet) as living:
            living.begin(BACK)
            config = only(root, *ARMS)
            fit_rankers(config, market.midnight(market.first - HELD_OUT), quiet)
            offline = compared_offline(config, market.midnight(market.first))
        root.rename(kept)
        brought = {}
        for arm in ARMS:
            shutil.copytree(kept, root)  # a workspace knows where it lies
            # In a process of its own: MLflow keeps the files open that another arm has replaced.
            with ProcessPoolExecutor(1, get_context("spawn")) as own:
                brought[arm] = own.submit(lived, root, arm, seed).result()
            shutil.rmtree(root)
    return {
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "visits": {arm: int(each[:, 1].sum()) for arm, each in brought.items()},
        "per_visit": {
            arm: round(float(each[:, 0].sum() / each[:, 1].sum()), 5)
            for arm, each in brought.items()
        },
        "pairs": {
            f"{one} against {other}": {
                "offline": offline[one, other],
                "online": effect(brought[one][:, 0], brought[other][:, 0]),
            }
            for one, other in pairs()
        },
    }


def market_from(seed: int) -> Any:
    """Return the market of a seed as it is before its first lived day."""
    from pipelines.datasets.closed_loop import ClosedLoop
    from pipelines.datasets.market import Size

    return ClosedLoop(Size(members=MEMBERS, jobs=JOBS, days=DAYS), seed, END, LIVED, VISITS)


def fit_rankers(config: Any, until: datetime, console: Console) -> None:
    """Fit every ranker on labels before a timestamp, and let one release serve them."""
    from models.lines import ranker_lines
    from operations.ledger import Ledger
    from pipelines.progress import Stages
    from pipelines.ranking.train import train_ranker
    from pipelines.releasing import release_what_is_published

    ledger = Ledger(config)
    with ledger.lock(), ledger.run("train", until) as run_id:
        stages = Stages(console, ledger, run_id)
        for line in ranker_lines(config):
            train_ranker(config, line, until, stages)
        release_what_is_published(config, stages)


def pairs() -> list[tuple[str, str]]:
    """Return each pair of arms once, the main one first."""
    return [MAIN, *(pair for pair in combinations(ARMS, 2) if {*pair} != {*MAIN})]


def compared_offline(config: Any, until: datetime) -> dict[tuple[str, str], dict[str, Any]]:
    """Compare each pair of rankers as the gate of quality does."""
    from models.lines import ranker_lines
    from models.rankers.package import load
    from operations.composition import served_fits
    from operations.rankers import newest
    from pipelines.gates.quality import paired, ranks_by, seen_before
    from pipelines.ranking.labels import read_labels
    from serving import publish
    from transformations.duck import connect

    fits, store = served_fits(config), publish.open_store(config)
    rankers = {line.name: load(config, line) for line in newest(config, ranker_lines(config), fits)}
    since = max(map(seen_before, rankers.values()))
    with connect(config) as con:
        labels = read_labels(config, con, since, until, LABELS)
        labels = labels.take(np.flatnonzero(labels.signs > 0))
        ranks = {
            name: ranks_by(config, con, store, labels, ranker, fits)
            for name, ranker in rankers.items()
        }
    found = {}
    for one, other in pairs():
        result = paired(labels, ranks[one], ranks[other])
        found[one, other] = {
            "labels": result.labels,
            "ndcg": [round(result.value, 4), round(result.before, 4)],
            "members": rounded(asdict(result.members)),
            "items": rounded(asdict(result.items)),
        }
    return found


def lived(root: Path, arm: str, seed: int) -> NDArray[np.float64]:
    """Live the days of a market with a ranker.

    Returns:
        Each member's expected applications, and its visits; [members, 2].
    """
    from pipelines.datasets.taste import REACTIONS
    from pipelines.living import Living
    from pipelines.operate.workspace import only

    config, market = only(root, arm), market_from(seed)
    apply, brought = REACTIONS.index("APPLY"), np.zeros((market.size.members, 2))

    def note(visit: Any, answer: Any, _: Any) -> None:
        shown = [item.item_id for item in answer.items]
        brought[visit.member_id - 1] += market.expected(visit, shown)[apply], 1

    with Living(config, market, root / "source", Console(file=StringIO()), note) as living:
        for day in range(market.first, market.size.days):
            living.day(day)
    return brought


def effect(one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, float]:
    """Return how much more `one` brings, of what `other` does, with its 95 % interval."""
    base, minus = other.mean(), one - other
    half = Z * minus.std(ddof=1) / sqrt(len(minus))
    values = {"lift": minus.mean(), "low": minus.mean() - half, "high": minus.mean() + half}
    return rounded({name: value / base for name, value in values.items()})


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Return figures with four digits after the point."""
    return {name: round(float(value), 4) for name, value in values.items()}


def wilson(agree: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, "Probable inference").

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    share, middle = agree / of, Z**2 / (2 * of)
    half = Z * sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    scale = 1 + Z**2 / of
    return (share + middle - half) / scale, (share + middle + half) / scale


def agreement(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count how often both say the same of which is better.

    `sure` counts where both intervals, offline over members, leave out zero.
    """
    signs = [
        (
            int(np.sign(one["offline"]["members"]["estimate"])),
            int(np.sign(one["online"]["lift"])),
            all(is_sure(each) for each in (one["offline"]["members"], one["online"])),
        )
        for one in found
    ]
    result = {}
    for name, some in (
        ("all", signs),
        ("sure", [each for each in signs if each[2]]),
    ):
        agree, of = sum(a == b for a, b, _ in some), len(some)
        result[name] = {"agree": agree, "of": of}
        if of:
            result[name] |= {
                "share": round(agree / of, 3),
                "interval": [round(end, 3) for end in wilson(agree, of)],
            }
    return result


def is_sure(interval: Mapping[str, float]) -> bool:
    """Whether an interval leaves out zero."""
    return interval["low"] > 0 or interval["high"] < 0


def result_of(markets: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Return what is written: the agreement per pair of rankers, and each market."""
    names = [*markets[0]["pairs"]]
    of = {name: [one["pairs"][name] for one in markets] for name in names}
    return {
        "markets": len(markets),
        "members": MEMBERS,
        "days": LIVED,
        "held_out_days": HELD_OUT,
        "seconds": round(seconds),
        "seconds_per_market": round(sum(one["seconds"] for one in markets) / len(markets), 1),
        "agreement": {name: agreement(some) for name, some in of.items()}
        | {"all pairs": agreement([one for some in of.values() for one in some])},
        "lifts": {name: rounded(mean_lifts(some)) for name, some in of.items()},
        "load_average": os.getloadavg()[0],
        "each": list(markets),
    }


def mean_lifts(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means over markets: of the difference in NDCG, and of the true lift."""
    offline = [one["offline"]["members"]["estimate"] for one in found]
    return {
        "offline": float(np.mean(offline)),
        "online": float(np.mean([one["online"]["lift"] for one in found])),
    }


def section() -> str:
    """Return what docs/evaluation.md says of the results; that there are none, where there are."""
    if not RESULTS.exists():
        return "Not measured yet: `python -m benchmarks.closed_loop`."
    found = json.loads(RESULTS.read_text())
    size = f"{found['markets']} markets of {found['members']:,} members"
    lines = [
        f"{size}, each lived for {found['days']} days with each ranker:",
        "",
        "| rankers | same sign | of those, both sure | NDCG@10 apart | applications apart |",
        "|---|---|---|---|---|",
    ]
    for name, of in found["agreement"].items():
        lift = found["lifts"].get(name)
        apart = f"{lift['offline']:+.4f} | {lift['online']:+.1%}" if lift else " | "
        lines.append(f"| {name} | {_agreed(of['all'])} | {_agreed(of['sure'])} | {apart} |")
    return "\n".join(lines)


def _agreed(counted: Mapping[str, Any]) -> str:
    if not counted["of"]:
        return "none"
    low, high = counted["interval"]
    return f"{counted['agree']} of {counted['of']} [{low:.0%}, {high:.0%}]"


def main() -> None:
    """Print the agreement and write the JSON, again after each market."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--more", action="store_true", help="Keep the markets that are measured.")
    given = parser.parse_args()
    began, console = time.perf_counter(), Console()
    before = json.loads(RESULTS.read_text()) if given.more else {"each": [], "seconds": 0}
    markets: list[dict[str, Any]] = before["each"]
    seeds = {*range(1, given.markets + 1)} - {int(one["seed"]) for one in markets}
    # A process per market: TensorFlow and the moved clock belong to one.
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        asked = [pool.submit(market_of, seed) for seed in sorted(seeds)]
        try:
            for one in as_completed(asked):
                found = one.result()
                markets.append(found)
                markets.sort(key=lambda market: int(market["seed"]))
                seconds = before["seconds"] + time.perf_counter() - began
                result = result_of(markets, seconds)
                RESULTS.write_text(json.dumps(result, indent=1) + "\n")
                console.print(found["seed"], found["seconds"], found["pairs"])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if seeds:
        console.print(result["agreement"])


if __name__ == "__main__":
    main()
