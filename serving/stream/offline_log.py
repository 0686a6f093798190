"""Streamed rows, appended to the offline tables that the Feast views read.

A training join must see what a ranker could see at each time. So every row that was readable online
is kept, with its true created_timestamp. Rows first go to a spool, one growing file per view,
before their events are acknowledged. A few times an hour a spool becomes one Parquet part, whole or
not at all. The spool of a killed worker is appended within a minute by another worker, or by the
next one that starts.

    state/stream/<worker>/<view>/<part>.arrows                    the spool
    member_embeddings/<view>/as_of=stream-<day>/<part>.parquet    the part

Messages are spooled beside them, and become an object of the archive (transformations/archive.py).

A snapshot's partition holds only `as_of=<timestamp>/part-0.parquet`. So a repeated daily run, its
restamping and its reading back never touch the streamed parts, and `partitions` does not list them.
"""

import fcntl
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from serving.stream import kept
from transformations import archive, clock
from transformations.config import Config
from transformations.duck import parquet
from transformations.files import sync
from transformations.seals import seal
from transformations.tombstones import Tombstones

logger = logging.getLogger(__name__)

PARTITION = "as_of=stream-"
ROWS_PER_GROUP = 16_384
LOCK, NEW, SEEN = "lock", ".new", "tombstones"


class OfflineLog:
    """The spools of one worker.

    Args:
        seconds: A spool becomes a part at this age,
        size: or at this size in bytes.
    """

    def __init__(
        self, config: Config, worker: str, seconds: float = 600.0, size: int = 128 << 20
    ) -> None:
        self._config = config
        self._seconds, self._size = seconds, size
        self._folder = spools(config) / f"{worker}-{uuid4().hex[:8]}"
        # Locked before it gets its final name, and for as long as this process lives: whoever
        # obtains a spool's lock knows that its worker is gone.
        new = self._folder.with_name(self._folder.name + NEW)  # a host's name may contain dots
        new.mkdir(parents=True)
        self._lock = (new / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self._folder)
        self._open: dict[str, _Spool] = {}
        self._since = time.monotonic()

    def append(self, view: str, rows: pa.RecordBatch) -> None:
        """Spool rows of a view; they survive the end of this process, however it ends."""
        if view not in self._open:
            self._open[view] = _Spool(self._folder / view, rows.schema)
        self._open[view].write(rows)

    def due(self) -> bool:
        """Whether the spools are old or large enough to become parts."""
        if not self._open:
            self._since = time.monotonic()
            return False
        size = max(spool.size for spool in self._open.values())
        return size >= self._size or time.monotonic() - self._since >= self._seconds

    def flush(self) -> int:
        """Turn the spools into parts of the tables; return the number of rows.

        Those of messages go into the archive, and are not counted.
        """
        spools, self._open = self._open, {}
        self._since = time.monotonic()
        for spool in spools.values():
            spool.close()
        return _append_folder(self._config, self._folder)

    def recover(self) -> int:
        """Append the spools of dead workers; return the number of rows."""
        return append_dead(self._config, self._folder)

    def forget(self, version: str) -> int:
        """Turn the spools into parts, without forgotten members, and note that this is done.

        `activity forget` waits for the note: what this worker writes after it lacks them too.

        Args:
            version: Of the tombstones that the worker knows from now on.
        """
        rows = self.flush()
        (self._folder / SEEN).write_text(version)
        return rows

    def close(self) -> None:
        """Turn the spools into parts, and remove their folder."""
        self.flush()
        shutil.rmtree(self._folder)
        self._lock.close()


class _Spool:
    """One growing Arrow stream; what was written stays readable, whatever follows."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(exist_ok=True)
        self._file = pa.OSFile(str(folder / f"{uuid4().hex}.arrows"), "wb")
        self._writer = pa.ipc.new_stream(self._file, schema)

    @property
    def size(self) -> int:
        return int(self._file.tell())

    def write(self, rows: pa.RecordBatch) -> None:
        self._writer.write_batch(rows)

    def close(self) -> None:
        self._writer.close()
        self._file.close()


def append_dead(config: Config, but: Path | None = None) -> int:
    """Append the spools of dead workers to the tables; return the number of rows.

    Args:
        but: A worker's folder, which is its own.
    """
    rows = 0
    for folder in _folders(config):
        if folder == but:
            continue
        with _lock_of_dead(folder) as is_dead:
            if is_dead:
                rows += _append_folder(config, folder)
                shutil.rmtree(folder, ignore_errors=True)
    if rows:
        logger.info("appended %d rows from the spool of a dead worker", rows)
    return rows


def unaware(config: Config, version: str) -> list[str]:
    """Return the living workers that may still write what tombstones of this version forbid."""
    found = []
    for folder in _folders(config):
        with _lock_of_dead(folder) as is_dead:
            if is_dead is False and _seen(folder) != version:
                found.append(folder.name)
    return found


def _folders(config: Config) -> list[Path]:
    folder = spools(config)
    there = sorted(folder.iterdir()) if folder.exists() else []
    return [each for each in there if each.suffix != NEW]


@contextmanager
def _lock_of_dead(folder: Path) -> Iterator[bool | None]:
    """Yield whether a spool's worker is dead, its lock held then; None if the spool is gone."""
    try:
        lock = (folder / LOCK).open("r")
    except FileNotFoundError:
        yield None  # another worker has just appended it
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            is_dead = False
        else:
            is_dead = True
        yield is_dead


def _seen(folder: Path) -> str | None:
    try:
        return (folder / SEEN).read_text()
    except FileNotFoundError:
        return None


def spools(config: Config) -> Path:
    """Return the folder of all workers' spools."""
    return config.layout.state / "stream"


def spooled(config: Config, view: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a view that are in a spool, any worker's, as far as they are written."""
    for spool in sorted(spools(config).glob(f"*/{view}/*.arrows")):
        try:
            yield from _batches(spool)
        except FileNotFoundError:
            continue  # it has just become a part


def parts(folder: Path, since: datetime | None = None) -> list[Path]:
    """Return the streamed parts of a view's table, oldest first.

    Args:
        since: Leave out days on which nothing was written that could be read from then on.
    """
    first = "" if since is None else f"{PARTITION}{since.astimezone(UTC):%Y-%m-%d}"
    found = [each for each in folder.glob(f"{PARTITION}*/*.parquet") if each.parent.name >= first]
    return sorted(found, key=lambda file: (file.parent.name, file.stat().st_mtime_ns))


def streamed(
    config: Config,
    con: DuckDBPyConnection,
    view: str,
    since: datetime | None = None,
    members: pa.Array | None = None,
) -> str | None:
    """Return the query of a view's streamed rows, in parts and spools; None where there is none.

    Spools grow while they are read. A row that becomes a part meanwhile is met twice.

    Args:
        since: Rows that could be read before may be left out.
        members: Rows in spools of others are left out.
    """
    rows = [
        batch if members is None else batch.filter(pc.is_in(batch["member_id"], members))
        for batch in spooled(config, view)
    ]
    files = parts(config.layout.table(view), since)
    # Those of before an attribute was configured have no list of it.
    queries = [f"from {parquet(files, 'union_by_name = true')}"] if files else []
    if rows:
        con.register("spooled", pa.Table.from_batches(rows))
        queries.append("from spooled")
    return " union all by name ".join(queries) or None


def _append_folder(config: Config, folder: Path) -> int:
    """Append every closed spool of a worker, without forgotten members, and remove it."""
    rows, tombstones = 0, Tombstones(config)
    for spool in sorted(folder.glob("*/*.arrows")):
        if spool.parent.name == kept.SPOOL:
            _archive(config, spool, tombstones)
            spool.unlink()
            continue
        # A part has its spool's name. So a spool that was appended, but not removed before a kill,
        # is written over its own part.
        day = f"{clock.now():%Y-%m-%d}"
        table = config.layout.table(spool.parent.name)
        existing = [*table.glob(f"{PARTITION}*/{spool.stem}.parquet")]
        part = existing[0] if existing else table / f"{PARTITION}{day}" / f"{spool.stem}.parquet"
        rows += _append(spool, part, tombstones)
        spool.unlink()
    return rows


def _append(spool: Path, part: Path, tombstones: Tombstones) -> int:
    """Write a spool's rows as one part; the temporary file lies in the spool's folder.

    A daily run removes temporary files beside the parts, because killed runs leave them there.
    """
    temporary = spool.with_suffix(".part")
    rows = 0
    writer = None
    try:
        for table in map(tombstones.kept, _groups(spool)):
            if writer is None:
                writer = pq.ParquetWriter(
                    temporary, table.schema, compression="lz4", write_page_checksum=True
                )
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        sync(temporary)
        part.parent.mkdir(parents=True, exist_ok=True)
        seal(part, "activity stream", temporary)
        temporary.replace(part)
        sync(part.parent)
    return rows


def _archive(config: Config, spool: Path, tombstones: Tombstones) -> None:
    """Keep a spool's messages in the archive; a spool that is there twice is kept twice."""
    file = spool.with_suffix(".part")
    with archive.writer(file, kept.SCHEMA) as writer:
        for rows in _groups(spool):
            writer.write_table(archive.kept(config, tombstones, rows, "member_id"))
    archive.keep(config, kept.read_now(), file)


def _groups(spool: Path) -> Iterator[pa.Table]:
    """Yield a spool's rows, some thousands at a time, up to a truncated tail."""
    waiting: list[pa.RecordBatch] = []
    for batch in _batches(spool):
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= ROWS_PER_GROUP:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _batches(spool: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(spool), "rb") as file:
        try:
            with pa.ipc.open_stream(file) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError):
            # A process was killed while it wrote the last rows. Their events were not
            # acknowledged, so they are delivered and written again.
            logger.info("%s ends in the middle of a batch", spool.name)
