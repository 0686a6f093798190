"""A release's share of the members: how it begins, what its experiment says, what comes of that.

harm, void                   the release that served serves all again; alert; fitting waits
no difference worth the cost the release that served serves all again
ship                         the new one serves all, where `release.promote` lets a run say so
go on                        nothing
"""

import math
from dataclasses import replace
from datetime import datetime

from duckdb import DuckDBPyConnection as Connection

from operations.drift import carried, note
from operations.drift_rule import Finding
from operations.experiments.intervals import Effect
from operations.experiments.metrics import Metric
from operations.experiments.records import Experiment, note_said
from operations.experiments.sample_ratio import VOID_BELOW
from operations.experiments.verdict import Guardrail
from operations.ledger import Ledger
from operations.traffic import Terms, end_share, promote_in_part, traffic
from pipelines.drift.watch import say_found
from pipelines.experiments.history import planned_members
from pipelines.experiments.reading import (
    WRONG_SHARE,
    Reading,
    default_guardrails,
    read,
    read_guardrail,
)
from pipelines.progress import Stages
from pipelines.terminal import escape
from transformations import clock
from transformations.config import Config
from transformations.duck import connect

ABOUT = "releases"
"""What the ledger of drift calls what a share came to."""
HARM, VOID = "harm", "void"
Bounds = tuple[float | None, float | None]


def terms_of(config: Config, con: Connection, share: float, until: datetime) -> Terms:
    """Return what decides about a share, by `release` of the configuration.

    Args:
        until: How many members come is read from the weeks before.

    Raises:
        InputError: the metric or a guardrail names nothing that is there.
    """
    effect, (metric, guardrails) = config.release.minimum_effect, measured(config)
    weeks = config.release.weeks
    planned = planned_members(config, con, metric, effect, share, weeks, until)
    return Terms(str(metric), guardrails, effect, weeks, planned)


def measured(config: Config) -> tuple[Metric, list[Guardrail]]:
    """Return the metric and the guardrails of `release`.

    Raises:
        InputError: they name nothing that is there.
    """
    guardrails = [read_guardrail(text, config) for text in config.release.guardrails]
    metric = Metric.read(config.release.metric, config)
    return metric, guardrails or default_guardrails(config)


def begin_share(
    config: Config,
    number: int,
    share: float,
    why: str | None = None,
    at: datetime | None = None,
    salt: str | None = None,
) -> Experiment:
    """Let a release answer a share of the members, or a larger one; `release` says what decides.

    Args:
        at, salt: As `promote_in_part` takes them.

    Raises:
        InputError: as `promote_in_part` and `terms_of` raise it.
    """
    until = Ledger(config).newest_published() or clock.now()
    with connect(config) as con:
        terms = terms_of(config, con, share, until)
    return promote_in_part(config, number, share, terms, why, at, salt)


def watch_share(config: Config, con: Connection, as_of: datetime, stages: Stages) -> None:
    """Read the experiment that a release is in, note its verdict, and act by it.

    A stop that nobody accepted goes on from snapshot to snapshot. What was noted before a kill is
    read again by the next run, and comes to the same.

    Args:
        as_of: Of the snapshot whose sources are staged: nothing after it is read.

    Raises:
        InputError: `release` names a metric or a guardrail that is not there.
    """
    ledger, shared = stages.ledger, traffic(config).shared
    measured(config)  # what is wrong is said now, and not when the next release is made
    found, reading = carried(ledger, as_of, ABOUT), None
    if shared is not None and shared.started_at < as_of:
        with stages.stage(f"share of release {shared.release}") as stage:
            reading = read(config, con, shared, as_of)
            note_said(ledger, shared.name, reading.verdict)
            stage.rows_in, stage.note = sum(reading.members), reading.verdict.kind
        stop = stop_of(config, reading)
        found = found if stop is None else [*(one for one in found if one.key != stop.key), stop]
    # Noted first: of a run that is killed here, the next one finds the same and ends it.
    kept = note(ledger, as_of, ABOUT, found) if found else []
    if shared is not None and reading is not None:
        _act(config, shared, reading, stages)
    say_found(config, as_of, kept, stages)


def _act(config: Config, shared: Experiment, reading: Reading, stages: Stages) -> None:
    verdict, number = reading.verdict, shared.release
    has = f"release {number}, with {shared.share:.0%} of the members"
    color, what = "bold", "goes on"
    if verdict.kind in ("stop for harm", "void"):
        color, what = "bold red", f"is taken back: release {shared.control} serves all"
        end_share(config, shared, verdict, "taken back by the run")
    elif verdict.kind == "no difference worth the cost":
        what = f"ends: release {shared.control} serves all"
        end_share(config, shared, verdict, "ended by the run")
    elif verdict.kind == "ship":
        manual = config.release.promote == "manual"
        what = f"may serve all: activity release promote {number}" if manual else "is to serve all"
    stages.console.print(
        f"[{color}]• {has}, {escape(what)}.[/] {escape(str(verdict))}",
        highlight=False,
        soft_wrap=True,
    )


def stop_of(config: Config, reading: Reading) -> Finding | None:
    """Return what a reading stops, as drift notes it; None where it stops nothing."""
    # By name: the harm of another share of the same release is another one, to be accepted again.
    kind, name = reading.verdict.kind, reading.experiment.name
    members = sum(reading.members)
    if kind == "void":
        wrong = reading.wrong / max(members, 1)
        by_ratio = reading.p_ratio < VOID_BELOW
        value = reading.p_ratio if by_ratio else wrong
        bounds: Bounds = (VOID_BELOW, None) if by_ratio else (None, WRONG_SHARE)
        found = Finding(ABOUT, VOID, name, "share", value, members, baseline=0.0, stop=bounds)
    elif kind == "stop for harm":
        metric, lift, bounds = _harmed(config, reading)
        part = f"{name}, {metric}"
        found = Finding(ABOUT, HARM, part, "lift", lift, members, baseline=0.0, stop=bounds)
    else:
        return None
    may_stop = found.measure not in config.drift.only_warn
    return replace(found, verdict="stop" if may_stop else "warning")


def _harmed(config: Config, reading: Reading) -> tuple[str, float, Bounds]:
    """Return the metric that stopped it, its change, and what was allowed."""
    experiment = reading.experiment
    for guardrail in experiment.guardrails:
        effect = reading.effects[guardrail.metric]
        if guardrail.is_broken(effect):
            bounds = (None, guardrail.bound) if guardrail.is_upper else (guardrail.bound, None)
            return guardrail.metric, _change(effect), bounds
    effect = reading.effects[experiment.metric]
    wants_more = Metric.read(experiment.metric, config).wants(config) > 0
    return experiment.metric, _change(effect), (0.0, None) if wants_more else (None, 0.0)


def _change(effect: Effect) -> float:
    """Return the lift; of one from nothing, which is infinite, its lower end."""
    found = effect.lift if effect.error != math.inf else effect.low
    return found or 0.0


def may_serve_all(config: Config) -> int | None:
    """Return the release that has a share and is to serve all by itself now; None where none is."""
    shared = traffic(config).shared
    if shared is None or config.release.promote == "manual":
        return None
    return shared.release if (shared.verdict or "").startswith("ship:") else None
