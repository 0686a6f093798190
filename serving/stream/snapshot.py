"""The base of the stream: the last snapshot, folded into the states, again when they are lost."""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from models.spec import Aggregator
from operations.fits import chosen
from operations.ledger import Ledger, ledger_exists
from serving import publish
from serving.stream.bus.messages import Id, StreamEvent
from serving.stream.bus.protocol import Bus
from serving.stream.offline_log import parts
from serving.stream.updater import MemberUpdater
from stores.eviction import eviction
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.errors import InputError
from transformations.layout import as_of_name, partition, partitions, snapshot_files
from transformations.stream import from_sequences

logger = logging.getLogger(__name__)

MEMBERS_AT_ONCE = 5_000
# An event can reach the bus before a snapshot's as_of, and the events' source after it. Then it is
# neither in the snapshot nor on the bus since as_of. Replaying too much is harmless.
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
    """Identify a snapshot's content: a repeated run of the same as_of gets another note."""
    folder = config.layout.sequences
    files = snapshot_files(folder, as_of) or [partition(folder, as_of)]
    changed = max(file.stat().st_mtime_ns for file in files)
    return f"{as_of_name(as_of)} {changed}"


def some_members(config: Config, limit: int = 3) -> list[Id]:
    """Return the first members of the newest online snapshot; none where it is empty."""
    for file in snapshot_files(config.layout.sequences, last_snapshot(config)):
        with pq.ParquetFile(file) as opened:
            for rows in opened.iter_batches(limit, columns=["member_id"]):
                return rows["member_id"].to_pylist()
    return []


def follow_snapshot(config: Config, updater: MemberUpdater) -> bool:
    """Fold the newest published snapshot into the states if it is new; return whether it was.

    New item vectors are taken over in any case: items are refreshed between snapshots too.
    """
    as_of = last_snapshot(config)
    note = note_of(config, as_of)
    updater.forgotten.follow(as_of, note)
    if updater.vectors.has_new_items():
        updater.vectors.refresh(updater.clock())
    if updater.states.base() == note:
        return False
    rewritten = _seed(config, updater, as_of)
    updater.states.set_base(note)
    logger.info(
        "folded in the snapshot of %s; it differed from the stream for %d members",
        as_of_name(as_of),
        rewritten,
    )
    return True


def prepare(
    config: Config,
    store: FeatureStore,
    updater: MemberUpdater,
    bus: Bus,
    aggregators: Sequence[Aggregator] | None = None,
    again: bool = False,
) -> None:
    """Prepare a worker for its first batch: build the states if they are missing, or if asked to.

    Args:
        again: Rebuild the states even if they exist.
    """
    aggregators = chosen(config, aggregators)
    if (lost := eviction(store)) is not None:
        logger.warning(
            "the online store evicts keys when its memory is full (%s): states and vectors of "
            "members may go. Lost states are made again at the member's next action; set "
            "maxmemory-policy noeviction", lost,
        )  # fmt: skip
    updater.log.recover()
    if again or updater.states.base() is None:
        with updater.states.rebuilding():
            # Another worker, started at the same time, may have done it meanwhile.
            if again or updater.states.base() is None:
                rebuild(config, store, updater, bus, aggregators)
                return
    follow_snapshot(config, updater)


def rebuild(
    config: Config,
    store: FeatureStore,
    updater: MemberUpdater,
    bus: Bus,
    aggregators: Sequence[Aggregator] | None = None,
) -> None:
    """Recreate states and online rows from the last snapshot, the streamed rows and the bus.

    It can be killed and run again at any point, because the states become valid only at the end.
    """
    aggregators = chosen(config, aggregators)
    updater.states.clear()
    as_of = last_snapshot(config)
    note = note_of(config, as_of)
    updater.forgotten.follow(as_of, note)
    logger.info("publishing the snapshot of %s again", as_of_name(as_of))
    publish.publish(config, store, as_of, aggregators)
    updater.seeding = True
    try:
        _seed(config, updater, as_of)
        members = 0
        for events in _streamed_since(config, as_of):
            members += updater.apply(events).members
    finally:
        updater.seeding = False
    bus.rewind(as_of - REPLAYED_BEFORE)
    updater.states.set_base(note)
    logger.info(
        "rebuilt from the snapshot of %s and the streamed rows of %d members; replaying the bus",
        as_of_name(as_of),
        members,
    )


def _seed(config: Config, updater: MemberUpdater, as_of: datetime) -> int:
    rewritten = 0
    for file in snapshot_files(config.layout.sequences, as_of):
        with pq.ParquetFile(file) as opened:
            for rows in opened.iter_batches(MEMBERS_AT_ONCE):
                rewritten += updater.seed(rows, as_of)
    return rewritten


def _streamed_since(config: Config, as_of: datetime) -> Iterator[list[StreamEvent]]:
    """Yield the events of each member's newest streamed row, some members at a time."""
    files = parts(config.layout.sequences)
    if not files:
        return
    with connect(config) as con:
        # Those of before an attribute was configured have no list of it.
        con.execute(f"create temp view streamed as from {parquet(files, 'union_by_name = true')}")
        query = sql("streamed_since", __file__)
        newest = con.sql(query, params={"as_of": as_of})
        for rows in newest.to_arrow_reader(MEMBERS_AT_ONCE):
            yield _events(config, rows)


def _events(config: Config, rows: pa.RecordBatch) -> list[StreamEvent]:
    actions = from_sequences(config.rules, rows).actions
    members = rows["member_id"].to_pylist()
    values = [values.tolist() for values in actions.attributes.values()]
    carried = [dict(zip(actions.attributes, one, strict=True)) for one in zip(*values, strict=True)]
    return [
        StreamEvent(members[index], item, code, timestamp, attributes)
        for index, item, code, timestamp, attributes in zip(
            actions.member.tolist(),
            actions.item.tolist(),
            actions.code.tolist(),
            actions.timestamp.tolist(),
            carried or [{}] * len(actions),
            strict=True,
        )
    ]
