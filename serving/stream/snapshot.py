"""What the stream adds to: the last snapshot, folded into the states once, and again when lost."""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from models.catalog import AGGREGATORS
from models.spec import Aggregator
from operations.ledger import Ledger, ledger_exists
from serving import publish
from serving.stream.bus.messages import Event
from serving.stream.bus.protocol import Bus
from serving.stream.offline_log import parts
from serving.stream.updater import Fresh
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.errors import InputError
from transformations.layout import as_of_name, partition, partitions
from transformations.stream import from_sequences

logger = logging.getLogger(__name__)

MEMBERS_AT_ONCE = 5_000
# What reached the bus before a snapshot's moment and the events' source after it is in neither;
# replaying too much is harmless.
REPLAYED_BEFORE = timedelta(days=1)


def last_snapshot(config: Config) -> datetime:
    """Return the as_of of the newest snapshot that is online.

    Raises:
        InputError: there is none.
    """
    published = Ledger(config).newest_published() if ledger_exists(config) else None
    built = partitions(config.layout.sequences)
    if published is None and not built:
        raise InputError(
            f"no snapshot was built yet into {config.data}, and the stream only adds to one; "
            "first: activity run"
        )
    return published or built[-1]


def note_of(config: Config, as_of: datetime) -> str:
    """Return what names a snapshot's content: a repeated run of the same moment has another."""
    changed = partition(config.layout.sequences, as_of).stat().st_mtime_ns
    return f"{as_of_name(as_of)} {changed}"


def follow_snapshot(config: Config, fresh: Fresh) -> bool:
    """Fold the newest published snapshot into the states, unless that is done; return whether."""
    as_of = last_snapshot(config)
    note = note_of(config, as_of)
    if fresh.states.base() == note:
        return False
    fresh.vectors.refresh(fresh.clock())
    rewritten = _seed(config, fresh, as_of)
    fresh.states.set_base(note)
    logger.info(
        "folded in the snapshot of %s; it and the stream knew different things of %d members",
        as_of_name(as_of),
        rewritten,
    )
    return True


def prepare(
    config: Config,
    store: FeatureStore,
    fresh: Fresh,
    bus: Bus,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
    anew: bool = False,
) -> None:
    """Do what a worker does before its first batch: states, if there are none or if asked to."""
    fresh.log.recover()
    if anew or fresh.states.base() is None:
        with fresh.states.rebuilding():
            # Another worker, started at the same time, may have done it while this one waited.
            if anew or fresh.states.base() is None:
                rebuild(config, store, fresh, bus, aggregators)
                return
    follow_snapshot(config, fresh)


def rebuild(
    config: Config,
    store: FeatureStore,
    fresh: Fresh,
    bus: Bus,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
) -> None:
    """Make states and online rows anew: the last snapshot, what was streamed since, the bus.

    The order makes it safe to be killed and run again: only at the end do the states count.
    """
    fresh.states.clear()
    as_of = last_snapshot(config)
    note = note_of(config, as_of)
    logger.info("publishing the snapshot of %s again", as_of_name(as_of))
    publish.publish(config, store, as_of, aggregators)
    fresh.seeding = True
    try:
        _seed(config, fresh, as_of)
        members = 0
        for events in _streamed_since(config, as_of):
            members += fresh.apply(events).members
    finally:
        fresh.seeding = False
    bus.rewind(as_of - REPLAYED_BEFORE)
    fresh.states.set_base(note)
    logger.info(
        "rebuilt from the snapshot of %s and the streamed rows of %d members; what the bus holds "
        "is replayed",
        as_of_name(as_of),
        members,
    )


def _seed(config: Config, fresh: Fresh, as_of: datetime) -> int:
    rewritten = 0
    with pq.ParquetFile(partition(config.layout.sequences, as_of)) as file:
        for rows in file.iter_batches(MEMBERS_AT_ONCE):
            rewritten += fresh.seed(rows, as_of)
    return rewritten


def _streamed_since(config: Config, as_of: datetime) -> Iterator[list[Event]]:
    """Yield the events in the newest streamed rows of the offline table, some members at a time."""
    files = parts(config.layout.sequences)
    if not files:
        return
    with connect(config) as con:
        con.execute(f"create temp view streamed as from {parquet(files)}")
        query = sql("streamed_since", __file__)
        newest = con.sql(query, params={"as_of": as_of})
        for rows in newest.to_arrow_reader(MEMBERS_AT_ONCE):
            yield _events(config, rows)


def _events(config: Config, rows: pa.RecordBatch) -> list[Event]:
    actions = from_sequences(config.rules, rows).actions
    members = rows["member_id"].to_pylist()
    return [
        Event(members[place], item, code, moment)
        for place, item, code, moment in zip(
            actions.member.tolist(),
            actions.item.tolist(),
            actions.code.tolist(),
            actions.moment.tolist(),
            strict=True,
        )
    ]
