"""The whole flow, one call per stage: events → sequences → vectors → Feast → read back."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from duckdb import DuckDBPyConnection as Connection

from models.candidates.build import build_lists
from models.candidates.clusters import clusters_at
from models.embed import EmbedReport, embed_snapshot
from models.lines import by_space
from models.spec import Aggregator, Learned
from operations.composition import published_lists
from operations.drift import pauses_fitting
from operations.fits import Fits, fit_until, note_fits
from operations.sources import note_sources
from pipelines.check.say import say_staged
from pipelines.drift.watch import say_paused, watch_inputs, watch_vectors
from pipelines.engine import engine_of
from pipelines.fitting import fit_items, lines_to_serve, prepare, refuse_future
from pipelines.progress import Stage, Stages
from pipelines.sharing import watch_share
from pipelines.terminal import escape
from pipelines.training import train_line
from serving import publish
from serving.stream.offline_log import streamed
from transformations import clock
from transformations.config import Config
from transformations.duck import TableReport, connect
from transformations.errors import InputError, RunFailedError, TooFewError
from transformations.files import sweep
from transformations.layout import partition_files, rows_of, snapshot_files, span
from transformations.names import ITEM_STATS_VIEW, SEQUENCE_VIEW
from transformations.sources import stage_activity, stage_items, stage_members
from transformations.sources.files import say_passed_over
from transformations.stats.item_stats import build_item_stats
from transformations.stats.member_stats import build_member_stats
from transformations.stats.streamed import LATE
from transformations.tables import build_sequences

DAY = timedelta(days=1)


def run_daily(
    config: Config,
    as_of: datetime | None,
    stages: Stages,
    aggregators: Sequence[Aggregator] | None = None,
    backfilled: timedelta = timedelta(0),
    with_lists: bool = True,
) -> datetime:
    """Build the snapshot of `as_of`, publish it, and read it back from the online store.

    What needs no training goes online first; what learns is trained after that, and follows.
    Running it again for the same `as_of` replaces that snapshot and nothing else. While drift has
    stopped it (`operations.drift`), nothing is fitted that was not before. Returns as_of.

    Args:
        as_of: None stands for the end of the last day that has events (a data set that ended
            long ago has its last snapshot there), at most the last midnight.
        backfilled: A backfill of this time before as_of follows; what is fitted now sees nothing
            of it.
        with_lists: Make the lists of the candidate sources too; else the last ones stay online.

    Raises:
        InputError: a snapshot newer than `as_of` is already online, or a fit in use saw more.
        RunFailedError: too many rows were refused, a check failed, or what the online store
            returns is not what was published.
    """
    ledger = stages.ledger
    if as_of is not None:
        _refuse_older(as_of, ledger.newest_published())
    publish.ask(config, publish.open_store(config))
    with connect(config) as con:
        # What lies after a past as_of is not from the future: a later snapshot will see it.
        stage_events(config, con, max(as_of or last_midnight(), last_midnight()), stages)
        if as_of is None:
            as_of = end_of_last_day(config)
            _refuse_older(as_of, ledger.newest_published())
        ledger.resolve(stages.run_id, as_of)
        stage_the_items(config, con, as_of, stages)
        stage_the_members(config, con, as_of, stages)
        say_staged(stages.console, config, con, as_of)
        watch_inputs(config, con, as_of, stages)
        watch_share(config, con, as_of, stages)
        paused = pauses_fitting(ledger, as_of)
        until = fit_until(config, as_of, backfilled)
        served, still = lines_to_serve(config, aggregators, stages)
        fits = Fits(config)
        config = config.in_space(fits.space)
        refuse_future(config, served, as_of)
        # A caller's lines come alone, and so do the spaces that they read.
        spaces = [*fits.spaces.values(), *fits.kept_spaces()] if aggregators is None else []
        missing = fit_items(config, con, as_of, until, served, stages, spaces, paused)
        served = [line for line in served if line.config_of(config).space not in missing]
        note_fits(config, [], used=False, spaces={*spaces} - {*missing})
        untrained = prepare(config, as_of, served, stages)
        if as_of in ledger.published_as_ofs():
            publish.set_aside(config, as_of, served)
        previous = ledger.newest_published(before=as_of) or as_of - DAY
        build_snapshot(config, con, as_of, previous, stages)

    ready = [line for line in served if not any(line is other for other in untrained)]
    serve(config, as_of, ready, still, stages)
    if paused and untrained:
        say_paused(stages, untrained)
        untrained = []
    trained = train_lines(config, untrained, until, stages)
    if trained:
        serve(config, as_of, trained, [*ready, *still], stages, with_sequences=False)
    with connect(config) as con:
        watch_vectors(config, con, as_of, [*ready, *trained], stages)
    serve_beside(config, as_of, stages, with_lists=with_lists)
    return as_of


def stage_events(config: Config, con: Connection, as_of: datetime, stages: Stages) -> None:
    """Read the events source into typed periods and quarantine."""
    note_sources(config)
    sweep(config.data)
    engine = engine_of(config)
    if engine.where:
        stages.console.print(f"• {escape(engine.where)}", highlight=False, soft_wrap=True)
    with stages.stage("stg_activity") as stage:
        staged = stage_activity(config, con, as_of, engine=engine)
        fill(stage, staged, "periods rewritten")
    _say_passed_over(config, "events", stages)


def stage_the_items(config: Config, con: Connection, as_of: datetime, stages: Stages) -> None:
    """Read the items source."""
    with stages.stage("stg_items") as stage:
        fill(stage, stage_items(config, con, as_of))
    _say_passed_over(config, "items", stages)


def stage_the_members(config: Config, con: Connection, as_of: datetime, stages: Stages) -> None:
    """Read the members source, where there is one."""
    if config.members.source:
        with stages.stage("members") as stage:
            fill(stage, stage_members(config, con, as_of))
        _say_passed_over(config, "members", stages)


def _say_passed_over(config: Config, section: str, stages: Stages) -> None:
    for said in say_passed_over(config, (section,)):
        stages.console.print(f"[yellow]•[/] {escape(said)}", highlight=False, soft_wrap=True)


def build_snapshot(
    config: Config, con: Connection, as_of: datetime, previous: datetime, stages: Stages
) -> None:
    """Compute the sequences of one timestamp, and what is counted in them."""
    with stages.stage("member_sequences") as stage:
        created, engine = _not_yet(config), engine_of(config)
        fill(stage, build_sequences(config, con, as_of, previous, created, engine))
        stage.note = f"as of {as_of:%Y-%m-%d %H:%M} UTC"
    with stages.stage("member_stats") as stage:
        fill(stage, build_member_stats(config, as_of, engine))


def train_lines(
    config: Config, lines: Sequence[Learned], until: datetime, stages: Stages
) -> list[Learned]:
    """Train these lines; return those that had enough to learn from. The others are named."""
    trained = []
    with connect(config) as con:
        for line in lines:
            try:
                train_line(config, con, line, until, stages)
            except TooFewError as error:
                said = f"[yellow]•[/] {line} is not trained, and not served: {escape(str(error))}"
                stages.console.print(said, highlight=False, soft_wrap=True)
            else:
                trained.append(line)
    return trained


def serve(
    config: Config,
    as_of: datetime,
    lines: Sequence[Aggregator],
    others: Sequence[Aggregator],
    stages: Stages,
    with_sequences: bool = True,
) -> None:
    """Embed a snapshot by these lines, publish it, read it back, and note since when it is online.

    Args:
        others: What stays registered as it is.
        with_sequences: Publish the view of sequences too.
    """
    members = rows_of(snapshot_files(config.layout.sequences, as_of))
    passes = sum(1 for _ in by_space(config, lines))
    with (
        connect(config) as con,
        stages.stage("member_embeddings", total=members * passes) as stage,
    ):
        report = embed_snapshot(
            config, con, as_of, _not_yet(config), lines, stage.advance, engine=engine_of(config)
        )
        stage.rows_in, stage.rows_out = report.members, sum(report.rows.values())
        stage.note = without_vector(report)
    store = publish.open_store(config)
    with stages.stage("feast apply") as stage:
        stage.note = f"{publish.apply(config, store, [*lines, *others])} objects"
    # From here on what they made may be online: their names never stand for anything else. Of a
    # space that no line reads, items are.
    spaces = {own.space for own, _ in Fits(config).all_spaces(lines)}
    note_fits(config, lines, used=True, spaces=spaces)
    views = publish.views(lines, with_sequences)
    with stages.stage("publish", total=members * len(views)) as stage:
        stage.rows_out = publish.publish(
            config, store, as_of, lines, stage.advance, with_sequences, engine_of(config)
        )
        published_at = clock.now()
    with stages.stage("read back") as stage:
        stage.rows_out = publish.read_back(
            config, store, as_of, lines, with_sequences=with_sequences
        )
        stage.note = "what the online store returns is what was published"
    with stages.stage("created_timestamp") as stage:
        stage.rows_out = publish.restamp(config, as_of, published_at, lines, with_sequences)
        stage.note = f"readable since {published_at:%Y-%m-%d %H:%M:%S} UTC"
    if with_sequences:
        stages.ledger.published(stages.run_id, published_at)


def serve_beside(
    config: Config,
    as_of: datetime,
    stages: Stages,
    only_new: bool = False,
    with_lists: bool = True,
) -> None:
    """Build what stands beside the members' rows, publish it, and read it back.

    They are the statistics of items, the lists of the candidate sources and members' profiles.

    Args:
        only_new: Between two runs: of items alone that are new or that something happened to, and
            the list of what is new; no profiles.
        with_lists: Whether lists are made at all.
    """
    rows: dict[str, int] = {}
    with connect(config) as con, stages.stage("item_stats") as stage:
        clusters = clusters_at(config, con, as_of)
        told = streamed(config, con, SEQUENCE_VIEW, since=as_of - LATE)
        report = build_item_stats(config, con, as_of, _not_yet(config), only_new, clusters, told)
        fill(stage, report)
        rows[ITEM_STATS_VIEW] = report.rows_out
    sources = [
        (source, own)
        for source, own in (published_lists(config) if with_lists else [])
        if source.is_refreshed or not only_new
    ]
    if sources:
        with (
            connect(config) as con,
            stages.stage("candidate_lists", total=len(sources), unit="sources") as stage,
        ):
            lists = build_lists(
                config, con, as_of, _not_yet(config), sources, stage.advance, only_new
            )
            stage.rows_out = sum(lists.values())
            stage.note = ", ".join(lists)
            rows |= lists
    tables = [table for table in publish.tables_beside(config) if rows.get(table.view)]
    has_profiles = bool(config.members.source) and not only_new
    store = publish.open_store(config)
    with stages.stage("publish") as stage:
        stage.rows_out = publish.publish_tables(store, as_of, tables)
        published_at = clock.now()
        if has_profiles:
            stage.rows_out += publish.publish_profiles(config, store, as_of)
    with stages.stage("read back") as stage:
        stage.rows_out = publish.read_back_tables(config, store, as_of, tables)
        if has_profiles:
            stage.rows_out += publish.read_back_profiles(config, store, as_of)
    publish.restamp_tables(config, as_of, published_at, tables)


def without_vector(report: EmbedReport) -> str:
    """Say how many actions were on items that have no vector."""
    return f"{report.share_without_vector:.1%} of actions on items without a vector"


def _not_yet(config: Config) -> datetime:
    """Return the created_timestamp of rows that are not published: the latest that it could be."""
    return clock.now() + config.publish_delay


def last_midnight() -> datetime:
    """Return the last midnight UTC that has passed."""
    return clock.now().replace(hour=0, minute=0, second=0, microsecond=0)


def end_of_last_day(config: Config) -> datetime:
    """Return the midnight after the newest staged event, at most the last midnight."""
    staged = span(partition_files(config.layout.activity))
    if staged is None:
        raise RunFailedError(
            f"no usable event was found in {config.events.source}; nothing to build a snapshot "
            f"of. Refused rows lie in {config.layout.quarantine}"
        )
    newest = staged[1].astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return min(newest + DAY, last_midnight())


def _refuse_older(as_of: datetime, newest: datetime | None) -> None:
    if as_of > clock.now():
        raise InputError(f"as_of {as_of:%Y-%m-%d %H:%M} lies in the future; it is not over yet")
    if newest is not None and as_of < newest:
        day = f"{as_of:%Y-%m-%d}"
        raise InputError(
            f"the snapshot of {newest:%Y-%m-%d %H:%M} is online, and that of {day} would overwrite "
            f"newer rows; to compute past days: activity backfill --from {day} --to {day}"
        )


def fill(stage: Stage, table: TableReport, written: str = "") -> None:
    """Show what a table took, gave and refused."""
    stage.rows_in, stage.rows_out, stage.refused = table.rows_in, table.rows_out, table.refused
    if written:
        stage.note = f"{len(table.written)} {written}"
