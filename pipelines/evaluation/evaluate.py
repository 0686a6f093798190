"""The evaluation: choices on the validation, then the test, each a world of its own."""

import json
from collections.abc import Sequence
from pathlib import Path

from models.lines import catalogue_lines
from models.spec import Aggregator, Learned, learned_kinds
from operations.trials import Trial, note_trial
from pipelines.evaluation.choices import (
    PUBLISHED,
    Choices,
    Measured,
    choose,
    decayed,
    untuned,
    variants_of,
    with_decayed,
)
from pipelines.evaluation.comparison import Comparison, measure_all
from pipelines.evaluation.controls import controls
from pipelines.evaluation.gaps import figures, refuse_too_little
from pipelines.evaluation.labels import positive_times, read_data
from pipelines.evaluation.protocol import Protocol, Times, WorldName
from pipelines.evaluation.result import result_of
from pipelines.evaluation.serving_costs import serving_costs
from pipelines.evaluation.variants import Bench
from pipelines.evaluation.world import World, encode, open_world, train_lines
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

    The events must be staged. Everything is fitted in separate data folders; what serves is not
    touched. What was measured is kept there: called again with the same data and settings, it goes
    on where it was. The baseline is the geometric decay with the r, in the item space, that does
    best on the validation; the challenger is the first learned line.

    Args:
        command: The command line that reproduces this.

    Raises:
        InputError: there is too little to evaluate on, or no learned aggregator.
    """
    aggregators = catalogue_lines(config) if aggregators is None else aggregators
    if not any(isinstance(line, Learned) for line in aggregators):
        what = f" that predicts {', '.join(protocol.predicts)}" if protocol.predicts else ""
        raise InputError(
            f"expected a learned aggregator{what} in {short(config.catalogue)} to compare with "
            "the decayed vectors, found none"
        )
    _refuse_equal_names(aggregators)
    with connect(config) as con:
        times = positive_times(config, con, protocol.predicts)
    if protocol.tuned:
        validation = open_bench(config, "validation", times, protocol, aggregators, stages)
        bound = validation.world.bound(aggregators)
        train_lines(validation.world, stages, bound)
        choices = choose(Measured(validation), bound, protocol, stages)
        del validation  # its item vectors and features
    bench = open_bench(config, "test", times, protocol, aggregators, stages)
    # As the first fits in a world: the same names in both.
    aggregators = bench.world.bound(aggregators)
    if not protocol.tuned:
        choices = untuned(bench.world.config, aggregators, protocol)
    challenger = next(line for line in aggregators if isinstance(line, Learned))
    bench.knn = choices.knn
    own = bench.world.config
    lines = with_decayed(own, aggregators, choices.decays)
    manifests = train_lines(bench.world, stages, lines)
    baseline = decayed(
        own, aggregators, choices.baseline, choices.decays[choices.baseline, PUBLISHED]
    )
    comparison = _compared(bench, lines, baseline, challenger, choices, protocol, stages)
    note_trial(stages.ledger, stages.run_id, Trial("test", comparison.title, {"command": command}))
    with stages.stage("controls") as stage:
        controlled = list(controls(comparison, stages))
        stage.rows_out = len(controlled)
    with stages.stage("costs"):
        costs = serving_costs(comparison)
    with stages.stage("intervals"):
        result = result_of(
            comparison, protocol, manifests, controlled, costs, command, stages.ledger
        )
    file = config.layout.evaluation / RESULT
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(result, indent=1, default=str))
    return file


def prepare(
    config: Config,
    name: WorldName,
    times: Times,
    protocol: Protocol,
    aggregators: Sequence[Aggregator],
    stages: Stages,
) -> World:
    """Open a world and encode its items in every space of these lines."""
    with connect(config) as con:
        world = open_world(config, name, times, protocol)
        encode(world, con, stages, world.bound(aggregators))
    return world


def open_bench(
    config: Config,
    name: WorldName,
    times: Times,
    protocol: Protocol,
    aggregators: Sequence[Aggregator],
    stages: Stages,
) -> Bench:
    """Open a world and read its labels.

    Raises:
        InputError: a period has too few of them.
    """
    world = prepare(config, name, times, protocol, aggregators, stages)
    with connect(world.config) as con, stages.stage("labels") as stage:
        data = read_data(world, con, protocol)
        for period in data.periods.values():
            refuse_too_little(period, world.config)
        stage.rows_out = sum(len(period.frame) for period in data.periods.values())
        stage.note = "; ".join(f"{n} {figures(one)}" for n, one in data.periods.items())
        return Bench.of(world, con, data)


def _compared(
    bench: Bench,
    lines: Sequence[Aggregator],
    baseline: Aggregator,
    challenger: Aggregator,
    choices: Choices,
    protocol: Protocol,
    stages: Stages,
) -> Comparison:
    """Measure every variant and every reference on the test."""
    variants = {one.name: one for one in variants_of(bench.world.config, lines)}
    settings = dict(choices.settings)
    for name in ("none", baseline.name, challenger.name):
        with_knn = variants[name].with_knn()
        variants[with_knn.name], settings[with_knn.name] = with_knn, settings[name]
    measured = Measured(bench)
    scores = measure_all(measured, list(variants.values()), settings, choices, protocol, stages)
    return Comparison(
        bench=bench,
        variants=list(variants.values()),
        settings=settings,
        scores=scores,
        freshness=protocol.freshness,
        choices=choices,
        baseline=variants[baseline.name],
        challenger=variants[challenger.name],
        resamples=bench.resamples(
            protocol.seeds, protocol.resamples, items=len(bench.data.item_ids)
        ),
    )


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
