"""What was pushed, appended to the offline tables that the Feast views read.

A training join is to see what a ranker could see at each moment, so every row that was readable
online is kept, with its true created_timestamp. Rows go to a spool first, a file a view that only
grows, before their events are acknowledged; a few times an hour a spool becomes one Parquet part,
whole or not at all. What a killed worker has spooled, the others append within a minute, or the
next one that starts.

    state/stream/<worker>/<view>/<part>.arrows                    the spool
    member_embeddings/<view>/as_of=stream-<day>/<part>.parquet    the part

A snapshot's partition is `as_of=<its moment>/part-0.parquet` and nothing else: a daily run that is
repeated, its restamping and its reading back never touch these parts, and `partitions` does not
list them.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from transformations.config import Config
from transformations.names import SEQUENCE_VIEW

logger = logging.getLogger(__name__)

PARTITION = "as_of=stream-"
ROWS_A_GROUP = 16_384
LOCK, NEW = "lock", ".new"


class OfflineLog:
    """The spools of one worker.

    Args:
        seconds: A spool becomes a part when it is so old.
        size: Or when it has so many bytes.
    """

    def __init__(
        self, config: Config, worker: str, seconds: float = 600.0, size: int = 128 << 20
    ) -> None:
        self._config = config
        self._seconds, self._size = seconds, size
        self._folder = spools(config) / f"{worker}-{uuid4().hex[:8]}"
        # Locked before it has its name, and held as long as this process lives: whoever gets the
        # lock of a spool knows that it is nobody's.
        new = self._folder.with_name(self._folder.name + NEW)  # a host's name may hold dots
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
        """Make the spools parts of the tables; return how many rows they hold."""
        spools, self._open = self._open, {}
        self._since = time.monotonic()
        for spool in spools.values():
            spool.close()
        return _append_folder(self._config, self._folder)

    def recover(self) -> int:
        """Append what workers that are no more had spooled; return how many rows."""
        rows = 0
        for folder in sorted(spools(self._config).iterdir()):
            if folder == self._folder or folder.suffix == NEW:
                continue
            try:
                lock = (folder / LOCK).open("r")
            except FileNotFoundError:
                continue  # another worker has just appended it
            with lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its worker lives
                rows += _append_folder(self._config, folder)
                shutil.rmtree(folder, ignore_errors=True)
        if rows:
            logger.info("appended %d rows that a worker before had spooled", rows)
        return rows

    def close(self) -> None:
        """Make the spools parts, and remove their folder."""
        self.flush()
        shutil.rmtree(self._folder)
        self._lock.close()


class _Spool:
    """One growing Arrow stream: what is written of it can be read, whatever comes after."""

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


def spools(config: Config) -> Path:
    """Return the folder of all workers' spools."""
    return config.layout.state / "stream"


def parts(folder: Path) -> list[Path]:
    """Return the streamed parts of a view's table, oldest first."""
    found = folder.glob(f"{PARTITION}*/*.parquet")
    return sorted(found, key=lambda file: (file.parent.name, file.stat().st_mtime_ns))


def table_folder(config: Config, view: str) -> Path:
    """Return the folder of a view's table."""
    return config.layout.sequences if view == SEQUENCE_VIEW else config.layout.embeddings(view)


def _append_folder(config: Config, folder: Path) -> int:
    """Append every spool of a worker that is not growing; remove it."""
    rows = 0
    for spool in sorted(folder.glob("*/*.arrows")):
        # A part has its spool's name: one that was appended by a process that was killed before
        # it removed the spool replaces itself.
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        table = table_folder(config, spool.parent.name)
        there = [*table.glob(f"{PARTITION}*/{spool.stem}.parquet")]
        part = there[0] if there else table / f"{PARTITION}{day}" / f"{spool.stem}.parquet"
        rows += _append(spool, part)
        spool.unlink()
    return rows


def _append(spool: Path, part: Path) -> int:
    """Write a spool's rows as one part; the temporary file lies in the spool's folder.

    Beside the part it would be in the way of a daily run, which removes what killed runs left.
    """
    temporary = spool.with_suffix(".part")
    rows = 0
    writer = None
    try:
        for table in _groups(spool):
            if writer is None:
                writer = pq.ParquetWriter(temporary, table.schema, compression="lz4")
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        _sync(temporary)
        part.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(part)
        _sync(part.parent)
    return rows


def _groups(spool: Path) -> Iterator[pa.Table]:
    """Yield a spool's rows, some thousands at a time; a tail that was cut off ends it."""
    waiting: list[pa.RecordBatch] = []
    for batch in _batches(spool):
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= ROWS_A_GROUP:
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
            # acknowledged: they come again, and are written again.
            logger.info("%s ends in the middle of a batch", spool.name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
