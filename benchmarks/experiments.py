"""Experiments: how often one without an effect ends falsely, what is found, how fast arms are told.

Simulated members visit more or less often, and like what they see more or less; both are drawn once
for each. A member is in an arm by its number, and counts from its first visit on. Each experiment
is looked at on every day, with the verdict of operations/experiments, until it ends.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operations.experiments.assignment import (
    control_from,
    number_of,
    numbers_in_sql,
    numbers_of,
)
from operations.experiments.intervals import Moments, effect, shared
from operations.experiments.power import members_needed
from operations.experiments.sample_ratio import VOID_BELOW, sample_ratio
from operations.experiments.verdict import Guardrail, decide
from transformations.config import ROOT

RESULTS = Path(__file__).parent / "results" / "experiments.json"
PAGE = ROOT / "docs" / "operations.md"
MARKS = ("<!-- experiments: figures -->\n", "<!-- experiments: end -->")
DAYS, WEEKS = 28, 2
MEMBERS = 10_000
PER_VISIT = 10
"""Items of a list."""
VISITS, APPLIES, DISMISSES = 0.2, 0.05, 0.03
WEEKDAYS = np.array([1.2, 1.1, 1.1, 1.0, 0.9, 0.6, 0.7])
RUNS, RUNS_OF_A_FAULT = 1_000, 300
POWER = 0.8
UNITS = 1_000_000
BOUND = Guardrail("negative per impression", 0.1, is_upper=True)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """One way that an experiment may go.

    Attributes:
        per_impression: Whether the metric is applications per impression; else per member.
        applies, dismisses: Factors of the treatment's rates.
        lost: Share of the treatment's members whose lists are lost, all of them.
        shares: Day → share from then on.
    """

    per_impression: bool = False
    applies: float = 1.0
    dismisses: float = 1.0
    lost: float = 0.0
    shares: tuple[tuple[int, float], ...] = ((0, 0.5),)


def days_of(
    world: World, rng: np.random.Generator
) -> Iterator[tuple[int, float, NDArray[np.bool_], Floats, Floats, Floats]]:
    """Yield day, share, and of who is in: whether treated, what was shown, applied, dismissed."""
    number = rng.random(MEMBERS)
    visits = rng.gamma(1.0, VISITS, MEMBERS)
    likes = rng.beta(2, 2 / APPLIES - 2, MEMBERS)
    dislikes = rng.beta(2, 2 / DISMISSES - 2, MEMBERS)
    is_lost = (number < 0.5) & (rng.random(MEMBERS) < world.lost)
    shown, applied, dismissed = (np.zeros(MEMBERS) for _ in range(3))
    share = 0.0
    for day in range(DAYS):
        share = dict(world.shares).get(day, share)
        treated = number < share
        is_in = (treated | (number >= control_from(share))) & ~is_lost
        today = PER_VISIT * rng.poisson(visits * WEEKDAYS[day % 7]) * is_in
        shown += today
        applied += rng.binomial(today, likes * np.where(treated, world.applies, 1))
        dismissed += rng.binomial(today, dislikes * np.where(treated, world.dismisses, 1))
        there = shown > 0
        yield (day + 1, share, treated[there], shown[there], applied[there], dismissed[there])


@dataclass(frozen=True)
class Ended:
    """How one experiment ended, at which day, and whether a test each day would have ended it."""

    kind: str
    day: int
    is_naive_end: bool


def arms(treated: NDArray[np.bool_], amounts: Floats, sizes: Floats | None) -> list[Moments]:
    """Return the moments of the control and the treatment."""
    return [
        Moments.of(amounts[of], None if sizes is None else sizes[of]) for of in (~treated, treated)
    ]


def ended(world: World, planned: int, rng: np.random.Generator) -> Ended:
    """Look at an experiment every day until it ends."""
    alpha, of_guardrail = shared(0.05, 1)
    first: tuple[str, int] | None = None
    is_naive_end = False
    for day, share, treated, shown, applied, dismissed in days_of(world, rng):
        metric = arms(treated, applied, shown if world.per_impression else None)
        primary = effect(*metric, planned, alpha)
        low, high = primary.fixed()
        is_naive_end |= low > 0 or high < 0
        guarded = effect(*arms(treated, dismissed, shown), planned, of_guardrail)
        p = sample_ratio(metric[0].members, metric[1].members, share)
        faults = ["The sample ratio."] if p < VOID_BELOW else []
        verdict = decide("APPLY", primary, [(BOUND, guarded)], 0.01, day, WEEKS, faults=faults)
        if first is None and verdict.ends:
            first = verdict.kind, day
    kind, day = first or ("go on", DAYS)
    return Ended(kind, day, is_naive_end)


def measured(world: World, runs: int, planned: int, seed: int) -> dict[str, Any]:
    """Return how a number of experiments ended."""
    found = [ended(world, planned, np.random.default_rng([seed, run])) for run in range(runs)]
    kinds: dict[str, int] = {}
    for one in found:
        kinds[one.kind] = kinds.get(one.kind, 0) + 1
    of_most = [one.day for one in found if one.kind == max(kinds, key=lambda kind: kinds[kind])]
    return {
        "runs": runs,
        "ended": dict(sorted(kinds.items())),
        "median_day": int(median(of_most)),
        "ended_by_a_test_each_day": sum(one.is_naive_end for one in found),
    }


def effect_of(per_impression: bool) -> tuple[float, int]:
    """Return the lift that has the promised power with MEMBERS, and how many members that plans.

    Rate and variance are those of the last day of worlds without an effect, as `power` reads them
    from the weeks before.
    """
    rates, variances, members = [], [], []
    for seed in range(20):
        *_, (_, _, treated, shown, applied, _) = days_of(World(), np.random.default_rng([99, seed]))
        everybody = Moments.of(applied, shown if per_impression else None)
        rates.append(everybody.rate)
        variances.append(everybody.variance * everybody.members)
        members.append(len(treated))
    planned = int(np.mean(members))
    alpha, _ = shared(0.05, 1)
    lifts = np.linspace(0.01, 0.5, 491)
    rate, variance = float(np.mean(rates)), float(np.mean(variances))
    enough = (
        lift
        for lift in lifts.tolist()
        if members_needed(rate, variance, lift, 0.5, POWER, alpha) <= planned
    )
    return next(enough), planned


def speed() -> dict[str, int]:
    """Return units per second of an array of integers, of texts, one by one, and in DuckDB."""
    numbers = np.arange(UNITS) + 10**9
    texts = np.array([f"member-{number}" for number in numbers])
    table = pa.table({"unit": numbers})

    def in_sql() -> None:
        with duckdb.connect(config={"threads": 1}) as con:
            numbers_in_sql(con)
            con.register("units", table)
            con.execute("select avg(experiment_number('4c1d', 'ranker', unit)) from units")

    ways: dict[str, Callable[[], object]] = {
        "integers in an array": lambda: numbers_of("4c1d", "ranker", numbers),
        "texts in an array": lambda: numbers_of("4c1d", "ranker", texts),
        "one by one": lambda: [number_of("4c1d", "ranker", unit) for unit in numbers.tolist()],
        "in DuckDB": in_sql,
    }
    found = {}
    for name, way in ways.items():
        began = time.process_time()
        way()
        found[name] = round(UNITS / (time.process_time() - began))
    return found


def figures(results: dict[str, Any]) -> str:
    """Return the paragraphs of docs/operations.md that hold these results."""
    rows = []
    for name, one in results["worlds"].items():
        said = ", ".join(f"{kind}: {count}" for kind, count in one["ended"].items())
        rows.append(f"| {name} | {one['runs']:,} | {said} | {one['median_day']} |")
    alike = [one for name, one in results["worlds"].items() if name.startswith("no effect")]
    false = [
        sum(one["ended"].get(kind, 0) for kind in ("ship", "stop for harm")) / one["runs"]
        for one in alike
    ]
    voids = [one["ended"].get("void", 0) / one["runs"] for one in alike]
    naive = [one["ended_by_a_test_each_day"] / one["runs"] for one in alike]
    rates = results["units_per_second"]
    ways = ", ".join(f"{rate / 1e6:.1f} million {name}" for name, rate in rates.items())
    return (
        f"Of experiments without an effect, looked at on each of {results['days']} days:\n\n"
        f"- at most {max(false):.1%} ended falsely; by a test at 5% on each day, "
        f"{min(naive):.0%} to {max(naive):.0%} would have;\n"
        f"- at most {max(voids):.1%} were called void: each look is a chi-square test of "
        "its own.\n\n"
        f"The effects below are those that {results['power']:.0%} power was promised for. Worth "
        "the cost was 1%.\n\n"
        "| what is true | runs | how they ended | on day (median of the most frequent end) |\n"
        "|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"Assignment, units per second of one processor: {ways}.\n"
    )


def write_page(results: dict[str, Any]) -> None:
    """Put the figures into docs/operations.md."""
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(before + MARKS[0] + figures(results) + MARKS[1] + after)


def main() -> None:
    """Measure, print, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="Of experiments without an effect.")
    parser.add_argument("--faults", type=int, default=RUNS_OF_A_FAULT, help="Of each other one.")
    asked = parser.parse_args()
    results: dict[str, Any] = {"days": DAYS, "members": MEMBERS, "power": POWER, "worlds": {}}
    (of_member, planned), (of_impression, _) = effect_of(False), effect_of(True)
    results |= {"lift_per_member": of_member, "lift_per_impression": of_impression}
    grown = ((0, 0.1), (7, 0.5))
    worlds = {
        "no effect, per member": World(),
        "no effect, per impression": World(per_impression=True),
        "no effect, the share grows from 10% to 50%": World(shares=grown),
        f"+{of_member:.1%} per member": World(applies=1 + of_member),
        f"+{of_impression:.1%} per impression": World(True, applies=1 + of_impression),
        f"-{of_impression:.1%} per impression": World(True, applies=1 - of_impression),
        "dismissals +30%, applications unchanged": World(True, dismisses=1.3),
        "10% of the treatment's members lost": World(lost=0.1),
    }
    for seed, (name, world) in enumerate(worlds.items()):
        runs = asked.runs if name.startswith("no effect") else asked.faults
        began = time.perf_counter()
        results["worlds"][name] = measured(world, runs, planned, seed)
        took = time.perf_counter() - began
        print(f"{name}: {json.dumps(results['worlds'][name])} ({took:.0f} s)", flush=True)
    results["units_per_second"] = speed()
    print(json.dumps(results["units_per_second"]), flush=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    write_page(results)


if __name__ == "__main__":
    main()
