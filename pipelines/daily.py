"""The whole flow, one call per stage: events → sequences → vectors → Feast → read back."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from duckdb import DuckDBPyConnection as Connection

from models.embed import embed_snapshot, embed_snapshots
from models.items import build_items
from models.lines import chosen
from models.packaging import package, to_fetch
from models.spec import Aggregator, Learned
from operations.sources import note_sources
from pipelines.progress import Stage, Stages
from pipelines.training import first_until, train_line, trains
from serving import publish
from transformations.config import Config
from transformations.duck import TableReport, connect
from transformations.errors import InputError, RunFailedError
from transformations.files import sweep
from transformations.last_actions import Snapshot
from transformations.layout import partition_files, span
from transformations.sources import stage_activity, stage_items
from transformations.tables import build_sequences, build_sequences_of

DAY = timedelta(days=1)


def run_daily(
    config: Config,
    as_of: datetime | None,
    stages: Stages,
    aggregators: Sequence[Aggregator] | None = None,
) -> datetime:
    """Build the snapshot of `as_of`, publish it, and read it back from the online store.

    Running it again for the same `as_of` replaces that snapshot and nothing else. Returns as_of.

    Args:
        as_of: None stands for the end of the last day that has events (a data set that ended
            long ago has its last snapshot there), at most the last midnight.

    Raises:
        InputError: a snapshot newer than `as_of` is already online.
        RunFailedError: too many rows were refused, a check failed, or what the online store
            returns is not what was published.
    """
    aggregators = chosen(config, aggregators)
    ledger = stages.ledger
    if as_of is not None:
        _refuse_older(as_of, ledger.newest_published())
    with connect(config) as con:
        # What lies after a past as_of is not from the future: a later snapshot will see it.
        stage_events(config, con, max(as_of or last_midnight(), last_midnight()), stages)
        if as_of is None:
            as_of = end_of_last_day(config)
            _refuse_older(as_of, ledger.newest_published())
        ledger.resolve(stages.run_id, as_of)
        encode_items(config, con, as_of, stages)
        package_all(config, con, as_of, stages, aggregators)
        previous = ledger.newest_published(before=as_of) or as_of - DAY
        # Not readable yet: until it is published, a row claims the latest time that it could be.
        created = datetime.now(UTC) + config.publish_delay
        snapshot(config, con, as_of, previous, created, stages, aggregators)

    store = publish.open_store(config)
    with stages.stage("feast apply") as stage:
        stage.note = f"{publish.apply(config, store, aggregators)} objects"
    with stages.stage("publish") as stage:
        stage.rows_out = publish.publish(config, store, as_of, aggregators, stage.advance)
        published_at = datetime.now(UTC)
    with stages.stage("read back") as stage:
        stage.rows_out = publish.read_back(config, store, as_of, aggregators)
        stage.note = "what the online store returns is what was published"
    with stages.stage("created_timestamp") as stage:
        stage.rows_out = publish.restamp(config, as_of, published_at, aggregators)
        stage.note = f"readable since {published_at:%Y-%m-%d %H:%M:%S} UTC"
    ledger.published(stages.run_id, published_at)
    return as_of


def run_backfill(
    config: Config,
    as_ofs: Sequence[datetime],
    stages: Stages,
    aggregators: Sequence[Aggregator] | None = None,
    staged: bool = False,
    step: timedelta = DAY,
) -> list[datetime]:
    """Build the snapshots of past timestamps for training joins; nothing goes online.

    A snapshot that a live run published is kept as it is: its created_timestamp is a fact, not
    an assumption. Returns the timestamps that were built.

    Args:
        staged: A run just before has read the sources and packaged the aggregators.
        step: Time between two snapshots: members of the one before get a row too.
    """
    aggregators = chosen(config, aggregators)
    kept = stages.ledger.published_as_ofs()
    wanted = [as_of for as_of in sorted(as_ofs) if as_of not in kept]
    if not wanted:
        return []
    with connect(config) as con:
        if not staged:
            # A row is "from the future" against the newest as_of that anything here was run for.
            newest = max(wanted[-1], stages.ledger.newest_as_of() or wanted[-1])
            stage_events(config, con, newest, stages)
            encode_items(config, con, newest, stages, first=wanted[0])
            package_all(config, con, wanted[0], stages, aggregators)
        snapshots = [Snapshot(at, at - step, at + config.publish_delay) for at in wanted]
        with stages.stage("member_sequences", total=len(wanted)) as stage:
            table = build_sequences_of(config, con, snapshots, stage.advance)
            _fill(stage, table)
            stage.note = f"{len(wanted)} snapshots, {wanted[0]:%Y-%m-%d} to {wanted[-1]:%Y-%m-%d}"
        with stages.stage("member_embeddings", total=table.rows_out) as stage:
            report = embed_snapshots(config, con, snapshots, aggregators, stage.advance)
            stage.rows_in, stage.rows_out = table.rows_out, report.members * len(aggregators)
            stage.note = f"{report.share_without_vector:.1%} of actions on items without a vector"
    return wanted


def stage_events(config: Config, con: Connection, as_of: datetime, stages: Stages) -> None:
    """Read the events source into typed periods and quarantine."""
    note_sources(config)
    sweep(config.data)
    with stages.stage("stg_activity") as stage:
        _fill(stage, stage_activity(config, con, as_of), "periods rewritten")


def encode_items(
    config: Config,
    con: Connection,
    as_of: datetime,
    stages: Stages,
    first: datetime | None = None,
) -> None:
    """Read the items source and encode the items that are new.

    Args:
        as_of: The newest timestamp that is built now.
        first: The oldest one, when there are several: the item encoder must not have seen more.
    """
    with stages.stage("stg_items") as stage:
        _fill(stage, stage_items(config, con, as_of))
    with stages.stage("items") as stage:
        _fill(stage, build_items(config, con, first or as_of))
        stage.note = f"{config.items.encoder.name} v{config.items.encoder.version}"


def package_all(
    config: Config,
    con: Connection,
    as_of: datetime,
    stages: Stages,
    aggregators: Sequence[Aggregator],
) -> None:
    """Make the SavedModels of the aggregators that have none yet; train those that learn.

    Args:
        as_of: The oldest timestamp that is built now.
    """
    for aggregator in aggregators:
        if isinstance(aggregator, Learned) and trains(aggregator, config):
            until = first_until(config, as_of, aggregator.recipe.validation)
            train_line(config, con, aggregator, until, stages)
    for aggregator in aggregators:
        registered = to_fetch(aggregator, config)
        if registered is not None:
            with stages.stage("copy model") as stage:
                package(aggregator, config)
                stage.note = "{} version {} from the model registry".format(*registered)
    with stages.stage("package", total=len(aggregators)) as stage:
        for aggregator in aggregators:
            package(aggregator, config)
            stage.advance(1)
        stage.note = ", ".join(f"{a.name} v{a.version}" for a in aggregators)


def snapshot(
    config: Config,
    con: Connection,
    as_of: datetime,
    previous: datetime,
    created: datetime,
    stages: Stages,
    aggregators: Sequence[Aggregator],
) -> None:
    """Compute the sequences of one timestamp and every aggregator's vectors from them."""
    with stages.stage("member_sequences") as stage:
        table = build_sequences(config, con, as_of, previous, created)
        _fill(stage, table)
        stage.note = f"as of {as_of:%Y-%m-%d %H:%M} UTC"
    with stages.stage("member_embeddings", total=table.rows_out) as stage:
        report = embed_snapshot(config, con, as_of, created, aggregators, stage.advance)
        stage.rows_in, stage.rows_out = table.rows_out, report.members * len(aggregators)
        stage.note = f"{report.share_without_vector:.1%} of actions on items without a vector"


def last_midnight() -> datetime:
    """Return the last midnight UTC that has passed."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


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
    if as_of > datetime.now(UTC):
        raise InputError(f"as_of {as_of:%Y-%m-%d %H:%M} lies in the future; it is not over yet")
    if newest is not None and as_of < newest:
        day = f"{as_of:%Y-%m-%d}"
        raise InputError(
            f"the snapshot of {newest:%Y-%m-%d %H:%M} is online, and that of {day} would overwrite "
            f"newer rows; to compute past days: activity backfill --from {day} --to {day}"
        )


def _fill(stage: Stage, table: TableReport, written: str = "") -> None:
    stage.rows_in, stage.rows_out, stage.refused = table.rows_in, table.rows_out, table.refused
    if written:
        stage.note = f"{len(table.written)} {written}"
