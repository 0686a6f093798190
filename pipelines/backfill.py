"""Snapshots of past timestamps, for training joins."""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta

from duckdb import DuckDBPyConnection as Connection

from models.candidates.build import build_lists
from models.candidates.clusters import clusters_at
from models.embed import embed_snapshots
from models.items.saved import fitted_until
from models.spec import Aggregator
from operations.fits import Fits, fit_until, listing_sources, note_fits, seen_until
from pipelines.daily import (
    DAY,
    fill,
    stage_events,
    stage_the_items,
    train_lines,
    without_vector,
)
from pipelines.engine import engine_of
from pipelines.fitting import fit_items, fold_items, lines_to_serve, prepare
from pipelines.progress import Stages
from serving import publish
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.last_actions import Snapshot
from transformations.layout import partition, rows_of, snapshot_files
from transformations.stats.item_stats import build_item_stats
from transformations.stats.member_stats import build_member_stats
from transformations.tables import build_sequences_of


def run_backfill(
    config: Config,
    as_ofs: Sequence[datetime],
    stages: Stages,
    aggregators: Sequence[Aggregator] | None = None,
    staged: bool = False,
    step: timedelta = DAY,
) -> list[datetime]:
    """Build the snapshots of past timestamps for training joins.

    Where a snapshot is online already, members whose last row is one of these go online too: a
    join finds their row, so a ranker has to be served the same.

    A snapshot that a live run published is kept as it is: its created_timestamp is a fact, not
    an assumption. A fit makes no row before the moment that it saw last; what is left out for that
    is said, with the command that makes an earlier fit. Returns the timestamps that were built.

    Args:
        staged: A run just before has read the sources and packaged the aggregators.
        step: Time between two snapshots: members of the one before get a row too.

    Raises:
        InputError: no line was fitted on what was known before any of the timestamps.
    """
    kept = stages.ledger.first_published()
    wanted = sorted(as_ofs)
    with connect(config) as con:
        if not staged:
            # A row is "from the future" against the newest as_of that anything here was run for.
            newest = max(wanted[-1], stages.ledger.newest_as_of() or wanted[-1])
            stage_events(config, con, newest, stages)
            stage_the_items(config, con, newest, stages)
        served, _ = lines_to_serve(config, aggregators, stages)
        config = config.in_space(Fits(config).space)
        if not staged:
            # What is fitted for the first time sees nothing of what is built.
            until = min(fit_until(config, newest), wanted[0])
            missing = fit_items(config, con, wanted[0], until, served, stages)
            served = [line for line in served if line.config_of(config).space not in missing]
            train_lines(config, prepare(config, wanted[0], served, stages), until, stages)
        served = [line for line in served if line.is_packaged(config)]
        seen = {line.view: seen_until(line, config) or wanted[0] for line in served}
        _say_too_early(served, seen, wanted, stages)
        # A line may be newer than what was published: it gets its rows beside the others'.
        lacking = {
            at: [
                line
                for line in served
                if at >= seen[line.view] and not (at in kept and _is_built(config, line, at))
            ]
            for at in wanted
        }
        # A published one whose file was damaged and taken away.
        gone = {
            at for at in wanted if at in kept and not snapshot_files(config.layout.sequences, at)
        }
        # A version that knew no statistics may have published it.
        bare = {at for at in wanted if at in kept and _lacks_stats(config, at)}
        built = [at for at in wanted if lacking[at] or at in gone or at in bare]
        if not built:
            _lists(config, con, wanted, kept, stages)
            return []
        views = {line.view for at in built for line in lacking[at]}
        note_fits(config, [line for line in served if line.view in views], used=True)
        snapshots = {
            at: Snapshot(at, at - step, max(at + config.publish_delay, kept.get(at, at)))
            for at in built
        }
        sequences = [snapshot for at, snapshot in snapshots.items() if at not in kept or at in gone]
        if sequences:
            with stages.stage("member_sequences", len(sequences), "snapshots") as stage:
                made = build_sequences_of(config, con, sequences, stage.advance, engine_of(config))
                fill(stage, made)
                stage.note = _span([snapshot.as_of for snapshot in sequences])
        again = {snapshot.as_of for snapshot in sequences}
        _build_stats(config, con, list(snapshots.values()), kept, again, stages)
        fold_items(config, con, built, served, stages)
        for at_once in _together(lacking):
            lines = lacking[at_once[0]]
            with stages.stage("member_embeddings", total=_rows(config, at_once)) as stage:
                some = [snapshots[at] for at in at_once]
                report = embed_snapshots(
                    config, con, some, lines, stage.advance, engine=engine_of(config)
                )
                stage.rows_in, stage.rows_out = report.members, sum(report.rows.values())
                stage.note = without_vector(report)
        _lists(config, con, wanted, kept, stages)
        online = stages.ledger.newest_published()
        if online is not None and built[0] < online:
            with stages.stage("publish") as stage:
                store = publish.open_store(config)
                stage.rows_out = publish.publish_lapsed(config, store, built[0], online, served)
                stage.note = "of members who left the window before the newest snapshot"
    return built


def _lists(
    config: Config,
    con: Connection,
    wanted: Sequence[datetime],
    kept: Mapping[datetime, datetime],
    stages: Stages,
) -> None:
    """Build the lists of the candidate sources that a past timestamp lacks.

    A ranker learns from what they brought then. A space makes none before what it saw last. An
    item that has a list of the days before keeps it: all lists of each day would be most of a
    backfill's time, and change little.
    """
    sources = listing_sources(config)
    lacking = {
        at: [
            (source, own)
            for source, own in sources
            if not partition(own.layout.lists(source.view(own.space)), at).exists()
            and (not source.reads_vectors or at >= (fitted_until(own) or at))
        ]
        for at in wanted
    }
    total = sum(map(len, lacking.values()))
    if not total:
        return
    with stages.stage("candidate_lists", total, "lists") as stage:
        stage.rows_out = 0
        for at, some in lacking.items():
            created = max(at + config.publish_delay, kept.get(at, at))
            rows = (
                build_lists(config, con, at, created, some, stage.advance, only_new=True)
                if some
                else {}
            )
            stage.rows_out += sum(rows.values())
        stage.note = _span([at for at, some in lacking.items() if some])


def _lacks_stats(config: Config, as_of: datetime) -> bool:
    folders = (config.layout.member_stats, config.layout.item_stats)
    return not all(snapshot_files(folder, as_of) for folder in folders)


def _build_stats(
    config: Config,
    con: Connection,
    snapshots: Sequence[Snapshot],
    kept: Container[datetime],
    again: Container[datetime],
    stages: Stages,
) -> None:
    """Build the statistics of members and items, as of these snapshots.

    Args:
        kept: Those that a run published: what it counted stays.
        again: Those whose sequences were built just now.
    """
    tables = (config.layout.member_stats, config.layout.item_stats)
    members, items = (
        [one for one in snapshots if one.as_of not in kept or not snapshot_files(t, one.as_of)]
        for t in tables
    )
    members += [one for one in snapshots if one.as_of in again and one not in members]
    with stages.stage("member_stats", len(members), "snapshots") as stage:
        stage.rows_out = 0
        for one in members:
            stage.rows_out += build_member_stats(config, one.as_of, engine_of(config)).rows_out
            stage.advance(1)
    with stages.stage("item_stats", len(items), "snapshots") as stage:
        stage.rows_out = 0
        for one in items:
            made = build_item_stats(
                config,
                con,
                one.as_of,
                one.created_timestamp,
                clusters=clusters_at(config, con, one.as_of),
            )
            stage.rows_out += made.rows_out
            stage.advance(1)


def _is_built(config: Config, line: Aggregator, as_of: datetime) -> bool:
    return bool(snapshot_files(config.layout.embeddings(line.view), as_of))


def _together(lacking: Mapping[datetime, Sequence[Aggregator]]) -> list[list[datetime]]:
    """Return the timestamps that the same lines are built for, together."""
    groups: dict[tuple[str, ...], list[datetime]] = {}
    for at, lines in lacking.items():
        if lines:
            groups.setdefault(tuple(line.view for line in lines), []).append(at)
    return list(groups.values())


def _rows(config: Config, as_ofs: Sequence[datetime]) -> int:
    return sum(rows_of(snapshot_files(config.layout.sequences, at)) for at in as_ofs)


def _span(as_ofs: Sequence[datetime]) -> str:
    return f"{len(as_ofs)} snapshots, {as_ofs[0]:%Y-%m-%d} to {as_ofs[-1]:%Y-%m-%d}"


def _say_too_early(
    lines: Sequence[Aggregator],
    seen: Mapping[str, datetime],
    wanted: Sequence[datetime],
    stages: Stages,
) -> None:
    """Say which rows are left out because their fit saw what came later; refuse if all are."""
    early = [
        f"{line} was fitted on what was known before {seen[line.view]:%Y-%m-%d %H:%M} UTC: "
        f"{sum(at < seen[line.view] for at in wanted)} of {len(wanted)} snapshots are left out"
        for line in lines
        if wanted[0] < seen[line.view]
    ]
    if not early:
        return
    mend = f"For an earlier fit beside it: activity fit --until {wanted[0]:%Y-%m-%d}"
    message = "\n".join([*early, mend])
    if all(wanted[-1] < seen[line.view] for line in lines):
        raise InputError(message)
    stages.console.print(message, highlight=False, markup=False, soft_wrap=True)
