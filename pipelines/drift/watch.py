"""What a run does about drift: measure, note, say, alert."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from duckdb import DuckDBPyConnection as Connection

from models.spec import Aggregator
from operations.drift import counts, note, noted_before
from operations.drift_rule import Finding, Measured
from pipelines.drift.alerts import alert_of_stops
from pipelines.drift.measure import Series, activity_series, item_measures, judged
from pipelines.drift.rankers import ranker_series
from pipelines.drift.vectors import vector_measures
from pipelines.progress import Stage, Stages
from pipelines.terminal import escape
from transformations import clock
from transformations.config import Config

STAGED = "stg_activity"


def watch_inputs(config: Config, con: Connection, as_of: datetime, stages: Stages) -> None:
    """Measure what a snapshot is of: the newest day's actions, the items, the reading, scores."""
    with stages.stage("drift of inputs") as stage:
        noted = noted_before(stages.ledger, as_of, config.drift.days)
        about = {
            "activity": activity_series(config, con, as_of),
            "items": [Series(made, {}, None) for made in item_measures(config, con, as_of)],
            "reading": [Series(made, {}, None) for made in _reading(stages.done)],
            "rankers": ranker_series(config, con, as_of),
        }
        found = []
        for name, series in about.items():
            found += note(stages.ledger, as_of, name, judged(config, series, noted))
        _fill(stage, found)
    say_found(config, as_of, found, stages)


def watch_vectors(
    config: Config, con: Connection, as_of: datetime, lines: Sequence[Aggregator], stages: Stages
) -> None:
    """Measure the vectors that a snapshot's lines have made."""
    with stages.stage("drift of vectors") as stage:
        noted = noted_before(stages.ledger, as_of, config.drift.days)
        series = [Series(made, {}, None) for made in vector_measures(config, con, as_of, lines)]
        found = note(stages.ledger, as_of, "vectors", judged(config, series, noted))
        _fill(stage, found)
    say_found(config, as_of, found, stages)


def say_paused(stages: Stages, waiting: Iterable[object]) -> None:
    """Say what is not fitted while a stop stands."""
    said = ", ".join(map(str, waiting))
    stages.console.print(
        f"[bold red]• fitting is paused:[/] {escape(said)} waits. Why, and what to do: "
        "activity drift",
        highlight=False,
        soft_wrap=True,
    )


def _reading(done: Sequence[Stage]) -> list[Measured]:
    """Measure what a run read of the events: the share that was there, and that was refused."""
    for stage in done:
        if stage.name == STAGED and stage.rows_in:
            refused = sum(stage.refused.values())
            there = max(stage.rows_in - refused - (stage.rows_out or 0), 0)
            return [
                Measured("reading", name, "", "share", rows / stage.rows_in, stage.rows_in)
                for name, rows in (("duplicates", there), ("refused", refused))
            ]
    return []


def _fill(stage: Stage, found: Sequence[Finding]) -> None:
    stage.rows_out = len(found)
    of = counts(found) | {"not judged yet": sum(one.verdict == "unknown" for one in found)}
    stage.note = ", ".join(f"{count} {name}" for name, count in of.items() if count) or "usual"


def say_found(config: Config, as_of: datetime, found: Sequence[Finding], stages: Stages) -> None:
    """Say what is beyond a bound, and alert of stops that nobody was told of."""
    for one in found:
        if one.verdict in ("warning", "stop"):
            color = "bold red" if one.stops else "yellow"
            accepted = f", accepted: {one.accepted}" if one.accepted else ""
            said = f"[{color}]• drift, {one.verdict}:[/] {escape(one.said + accepted)}"
            stages.console.print(said, highlight=False, soft_wrap=True)
    new = [one for one in found if one.stops and one.alerted_at is None]
    for said in alert_of_stops(config, stages.ledger, as_of, new, clock.now()):
        line = f"[bold red]• alerts:[/] {escape(said)}"
        stages.console.print(line, highlight=False, soft_wrap=True)
