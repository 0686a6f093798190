"""The evaluation, one call per stage: world → features through Feast → rankers → what came."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore

from models.catalog import AGGREGATORS
from models.evaluation.bootstrap import Resamples
from models.packaging import package
from models.sequences import Padded
from models.spec import (
    Aggregator,
    GeometricDecay,
    Learned,
    learned_kinds,
)
from pipelines.evaluation import serving_costs
from pipelines.evaluation.controls import controls
from pipelines.evaluation.features import (
    Floats,
    Ground,
    Period,
    Sequences,
    join_sequences,
    read_ground,
    read_period,
)
from pipelines.evaluation.outcome import Compared, document
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.variants import (
    CHOSEN_BY,
    Given,
    Variant,
    choose_settings,
    in_process,
    measure_all,
    of_line,
    on_validation,
    references,
    without_activity,
)
from pipelines.evaluation.world import World, build_snapshots, open_world, train_lines
from pipelines.progress import Stages
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.files import replacing

RESULT = "result.json"


def evaluate(
    config: Config,
    stages: Stages,
    protocol: Protocol,
    command: str,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
) -> Path:
    """Compare aggregators by the same small ranker on a later time; return the result's file.

    The events must be staged. Everything that is learned here lies in a data folder of its own;
    what serves is not touched. The baseline is the geometric decay whose r does best on the
    validation period; the challenger, the first learned line.

    Args:
        command: What a user types to make this again.

    Raises:
        InputError: there is too little to evaluate on, or no learned aggregator.
        RunFailedError: a feature is from its label's future.
    """
    learned = [line for line in aggregators if isinstance(line, Learned)]
    if not learned:
        raise InputError(
            "expected a learned aggregator in models/catalog.py to compare with the decayed "
            "vectors, found none"
        )
    _refuse_equal_names(aggregators)
    with connect(config) as con:
        world = open_world(config, con, protocol)
        manifests = train_lines(world, stages, aggregators)
        build_snapshots(world, stages, aggregators)
        ground, periods = _read(world, con, stages, protocol)
    own = world.config
    store = world.store(aggregators)
    sequences = _join_sequences(store, own, ground, periods, stages)
    grid = _choose_decay(own, ground, periods, sequences, protocol, stages)
    baseline, lines = _with_baseline(aggregators, max(grid, key=lambda r: grid[r]))
    if len(lines) > len(aggregators):
        train_lines(world, stages, [baseline])
        build_snapshots(world, stages, [baseline])
        store = world.store(lines)
    with stages.stage("training joins", total=len(lines)) as stage:
        variants = []
        for line in lines:
            variants.append(of_line(line, store, own, periods))
            stage.advance(1)
        stage.rows_out = len(lines) * sum(len(period.frame) for period in periods.values())
    variants.insert(0, without_activity(variants[0]))
    looked_at = _fit(variants, ground, periods, protocol, stages) + len(grid)
    by_name = {variant.name: variant for variant in variants}
    challenger = by_name[learned[0].name]
    resamples = Resamples(ground.members, protocol.seeds, protocol.resamples)
    test = periods["test"]
    with stages.stage("references") as stage:
        recommended = references(ground, test)
        stage.rows_out = len(test.frame) * len(recommended)
    compared = Compared(
        world=world,
        ground=ground,
        periods=periods,
        history=sequences["test"].history,
        variants=variants,
        references=recommended,
        baseline=by_name[baseline.name],
        challenger=challenger,
        resamples=resamples,
    )
    padded = sequences["test"].padded
    with stages.stage("controls") as stage:
        controlled = controls(variants, challenger, own, ground, periods, padded, resamples)
        stage.rows_out = len(controlled)
    with stages.stage("costs") as stage:
        costs = _costs(compared, padded)
    result = document(compared, protocol, manifests, grid, controlled, costs, looked_at, command)
    file = own.data / RESULT
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(result, indent=1, default=str))
    return file


def _refuse_equal_names(aggregators: Sequence[Aggregator]) -> None:
    names = [line.name for line in aggregators]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"expected each aggregator's name once, got {', '.join(twice)} in several versions; "
            "the newest is the one to evaluate"
        )


def chosen_lines(aggregators: Sequence[Aggregator], also: Sequence[str]) -> list[Aggregator]:
    """Return the newest version of each name, and learned layers that the catalogue does not name.

    Raises:
        InputError: `also` has a name that is no learned layer's.
    """
    best: dict[str, Aggregator] = {}
    for line in aggregators:
        if line.name not in best or line.version > best[line.name].version:
            best[line.name] = line
    known = {line.name: line for line in (kind(version=1) for kind in learned_kinds().values())}
    for name in also:
        if name not in known:
            raise InputError(f"--also: expected one of {', '.join(known)}, got {name!r}")
        best.setdefault(name, known[name])
    return list(best.values())


def _read(
    world: World, con: Connection, stages: Stages, protocol: Protocol
) -> tuple[Ground, dict[str, Period]]:
    split = world.split
    spans = {
        "train": (split.weights_until, split.train_until),
        "validation": (split.train_until, split.validation_until),
        "test": (split.validation_until, split.test_until),
    }
    with stages.stage("labels") as stage:
        ground, index = read_ground(world, con)
        periods = {
            name: read_period(name, span, world, con, ground, index, protocol)
            for name, span in spans.items()
        }
        counts = {name: len(period.frame) for name, period in periods.items()}
        stage.rows_out = sum(counts.values())
        stage.note = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return ground, periods


def _join_sequences(
    store: FeatureStore,
    config: Config,
    ground: Ground,
    periods: Mapping[str, Period],
    stages: Stages,
) -> dict[str, Sequences]:
    with stages.stage("sequences joined") as stage:
        found = {
            name: join_sequences(store, config, ground, period) for name, period in periods.items()
        }
        stage.rows_out = sum(len(period.frame) for period in periods.values())
    return found


def _choose_decay(
    config: Config,
    ground: Ground,
    periods: Mapping[str, Period],
    sequences: Mapping[str, Sequences],
    protocol: Protocol,
    stages: Stages,
) -> dict[float, float]:
    """Return CHOSEN_BY on the validation period for each r; vectors made in process."""
    got: dict[float, float] = {}
    with stages.stage("decay grid", total=len(protocol.decays)) as stage:
        for r in protocol.decays:
            line = _decay(r)
            train_made = {
                name: Given(_embed(line, config, ground, one.padded), one.habits)
                for name, one in sequences.items()
                if name != "test"
            }
            variant = Variant(line.name, line, train_made)
            got[r] = on_validation(variant, ground, periods, variant.settings)
            stage.advance(1)
        best = max(got, key=lambda r: got[r])
        stage.note = f"r = {best:g}: {CHOSEN_BY} {got[best]:.4f} on validation"
    return got


def _decay(r: float) -> GeometricDecay:
    return GeometricDecay(name=f"decay_r{round(1000 * r)}", version=1, decay=r)


def _embed(line: GeometricDecay, config: Config, ground: Ground, padded: Padded) -> Floats:
    package(line, config)
    return in_process(line, config, ground, padded)


def _with_baseline(
    aggregators: Sequence[Aggregator], r: float
) -> tuple[GeometricDecay, list[Aggregator]]:
    """Return the decay of this r, a line of the catalogue if it has it, and all lines with it."""
    for line in aggregators:
        if isinstance(line, GeometricDecay) and line.decay == r:
            return line, list(aggregators)
    baseline = _decay(r)
    return baseline, [*aggregators, baseline]


def _fit(
    variants: Sequence[Variant],
    ground: Ground,
    periods: Mapping[str, Period],
    protocol: Protocol,
    stages: Stages,
) -> int:
    """Choose each variant's settings and fit its rankers; return how many settings were tried."""
    tried = 0
    with stages.stage("rankers", total=len(variants) * (protocol.seeds + len(protocol.l2))) as s:
        for variant in variants:
            tried += len(choose_settings(variant, ground, periods, protocol))
            s.advance(len(protocol.l2))
            measure_all(variant, ground, periods, range(protocol.seeds))
            s.advance(protocol.seeds)
        s.rows_out = len(variants) * protocol.seeds
    return tried


def _costs(compared: Compared, padded: Padded) -> dict[str, Any]:
    config, ground = compared.world.config, compared.ground
    test = compared.periods["test"]
    lines = [variant for variant in compared.variants if variant.line is not None]
    counts = (padded.actions != 0).sum(axis=1)
    none = next(variant for variant in compared.variants if variant.line is None)
    kept = [compared.baseline, compared.challenger]
    return {
        "members_per_second": {
            variant.name: serving_costs.members_per_second(variant, config, ground, padded)
            for variant in lines
        },
        "storage": [
            row
            for variant in kept
            for row in serving_costs.storage(
                variant, config, ground, compared.periods, compared.resamples
            )
        ],
        "cold_start": list(
            serving_costs.cold_start(
                compared.challenger, none, config, ground, test, counts, compared.resamples
            )
        ),
    }
