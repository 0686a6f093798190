"""The evaluation, one call per stage: world → features through Feast → rankers → result."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.evaluation.bootstrap import Resamples
from models.evaluation.ranker import RankerFeatures
from models.lines import catalogue_lines
from models.packaging import package
from models.spec import Aggregator, GeometricDecay, Learned, learned_kinds
from pipelines.evaluation.controls import controls
from pipelines.evaluation.features import EvaluationData, Sequences, join_sequences, read_data
from pipelines.evaluation.gaps import figures, refuse_too_little
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.result import result_of
from pipelines.evaluation.serving_costs import serving_costs
from pipelines.evaluation.variants import (
    CHOSEN_BY,
    Comparison,
    Variant,
    choose_settings,
    in_process,
    measure_all,
    on_validation,
    references,
    variant_of,
    without_activity,
)
from pipelines.evaluation.world import (
    World,
    build_sequences_read,
    embed_sequences_read,
    encode,
    open_world,
    train_lines,
)
from pipelines.progress import Stages, short
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
    aggregators: Sequence[Aggregator] | None = None,
) -> Path:
    """Compare aggregators by the same small ranker on a later period; return the result's file.

    The events must be staged. Everything is trained in a separate data folder; what serves is not
    touched. The baseline is the geometric decay whose r does best on the validation period; the
    challenger is the first learned line.

    Args:
        command: The command line that reproduces this.

    Raises:
        InputError: there is too little to evaluate on, or no learned aggregator.
        RunFailedError: a feature is from its label's future.
    """
    aggregators = catalogue_lines(config) if aggregators is None else aggregators
    learned = [line for line in aggregators if isinstance(line, Learned)]
    if not learned:
        what = f" that predicts {', '.join(protocol.predicts)}" if protocol.predicts else ""
        raise InputError(
            f"expected a learned aggregator{what} in {short(config.catalogue)} to compare with "
            "the decayed vectors, found none"
        )
    _refuse_equal_names(aggregators)
    with connect(config) as con:
        world = open_world(config, con, protocol)
        encode(world, con, stages)
        with stages.stage("labels") as stage:
            data = read_data(world, con, protocol)
            stage.rows_out = sum(len(period.frame) for period in data.periods.values())
            stage.note = "; ".join(f"{n} {figures(one)}" for n, one in data.periods.items())
    for period in data.periods.values():
        refuse_too_little(period, world.config)
    manifests = train_lines(world, stages, aggregators)
    build_sequences_read(world, stages, data.readings)
    embed_sequences_read(world, stages, aggregators)
    sequences = _join_sequences(world, aggregators, data, stages)
    grid = _decay_grid(world, data, sequences, protocol, stages)
    baseline, lines = _with_baseline(aggregators, max(grid, key=lambda r: grid[r]))
    if len(lines) > len(aggregators):
        train_lines(world, stages, [baseline])
        embed_sequences_read(world, stages, [baseline])
    variants = _variants(world, lines, data, stages)
    _fit(variants, data, protocol, stages)
    by_name = {variant.name: variant for variant in variants}
    with stages.stage("references") as stage:
        comparison = Comparison(
            world=world,
            data=data,
            sequences=sequences["test"],
            variants=variants,
            references=references(data, data.periods["test"]),
            baseline=by_name[baseline.name],
            challenger=by_name[learned[0].name],
            resamples=Resamples(len(data.member_codes), protocol.seeds, protocol.resamples),
        )
        stage.rows_out = len(data.periods["test"].frame) * len(comparison.references)
    with stages.stage("controls") as stage:
        controlled = list(controls(comparison))
        stage.rows_out = len(controlled)
    with stages.stage("costs"):
        costs = serving_costs(comparison)
    result = result_of(comparison, protocol, manifests, grid, controlled, costs, command)
    file = world.config.data / RESULT
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


def chosen_lines(
    aggregators: Sequence[Aggregator], also: Sequence[str], predicts: Sequence[str] = ()
) -> list[Aggregator]:
    """Return the newest version of each name, and the learned layers named in `also`.

    Of the learned lines, those that predict these actions.

    Raises:
        InputError: `also` has an unknown name.
    """
    best: dict[str, Aggregator] = {}
    for line in aggregators:
        if isinstance(line, Learned) and set(line.predicts) != set(predicts):
            continue
        if line.name not in best or line.version > best[line.name].version:
            best[line.name] = line
    made = (kind(version=1, predicts=tuple(predicts)) for kind in learned_kinds().values())
    known = {line.name: line for line in made}
    for name in also:
        if name not in known:
            raise InputError(f"--also: expected one of {', '.join(known)}, got {name!r}")
        best.setdefault(name, known[name])
    return list(best.values())


def _join_sequences(
    world: World, aggregators: Sequence[Aggregator], data: EvaluationData, stages: Stages
) -> dict[str, Sequences]:
    store = world.store(aggregators)
    with stages.stage("sequences joined") as stage:
        found = {
            name: join_sequences(store, world.config, data, period)
            for name, period in data.periods.items()
        }
        stage.rows_out = sum(len(period.frame) for period in data.periods.values())
    return found


def _decay_grid(
    world: World,
    data: EvaluationData,
    sequences: Mapping[str, Sequences],
    protocol: Protocol,
    stages: Stages,
) -> dict[float, float]:
    """Return CHOSEN_BY on the validation period for each r, with vectors made in process."""
    metric: dict[float, float] = {}
    with stages.stage("decay grid", len(protocol.decays), "settings") as stage:
        for r in protocol.decays:
            line = _decay(r)
            package(line, world.config)
            features = {
                name: RankerFeatures(
                    in_process(line, world.config, data, sequences[name].padded),
                    sequences[name].member_features,
                )
                for name in ("train", "validation")
            }
            variant = Variant(line.name, line, features)
            metric[r] = on_validation(variant, data, variant.settings)
            stage.advance(1)
        best = max(metric, key=lambda r: metric[r])
        stage.note = f"r = {best:g}: {CHOSEN_BY} {metric[best]:.4f} on validation"
    return metric


def _decay(r: float) -> GeometricDecay:
    return GeometricDecay(name=f"decay_r{round(1000 * r)}", version=1, decay=r)


def _with_baseline(
    aggregators: Sequence[Aggregator], r: float
) -> tuple[GeometricDecay, list[Aggregator]]:
    """Return the decay with this r (the catalogue's line if it has one), and all lines with it."""
    for line in aggregators:
        if isinstance(line, GeometricDecay) and line.decay == r:
            return line, list(aggregators)
    baseline = _decay(r)
    return baseline, [*aggregators, baseline]


def _variants(
    world: World, lines: Sequence[Aggregator], data: EvaluationData, stages: Stages
) -> list[Variant]:
    """Join each line's features; return the ranker without activity first."""
    store = world.store(lines)
    variants: list[Variant] = []
    with stages.stage("training joins", len(lines), "lines") as stage:
        for line in lines:
            variants.append(variant_of(line, store, world.config, data))
            stage.advance(1)
        stage.rows_out = len(lines) * sum(len(period.frame) for period in data.periods.values())
    return [without_activity(variants[0]), *variants]


def _fit(
    variants: Sequence[Variant], data: EvaluationData, protocol: Protocol, stages: Stages
) -> None:
    """Choose each variant's settings, fit its rankers and measure them."""
    total = len(variants) * (protocol.seeds + len(protocol.l2))
    with stages.stage("rankers", total, "fits") as s:
        for variant in variants:
            choose_settings(variant, data, protocol)
            s.advance(len(protocol.l2))
            measure_all(variant, data, range(protocol.seeds))
            s.advance(protocol.seeds)
        s.rows_out = len(variants) * protocol.seeds
