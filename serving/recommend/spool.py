"""Rows that are written while the next answer is made: a spool with a bound, and parts that grow.

    add ──► spool: at most `most` items, in memory ──► one thread, each `every` ──► a part
              full: refused                              or when the spool is half full

An item leaves the spool when its rows are on disk, so a killed process loses at most what the spool
holds. A part is written whole again with each write until it is full, and then another
one begins: readers see whole files, and few of them.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from transformations.errors import RunFailedError
from transformations.files import locked
from transformations.layout import note_period, period_of
from transformations.seals import sealing
from transformations.tombstones import Tombstones

logger = logging.getLogger(__name__)

T = TypeVar("T")

PART_ROWS = 65_536
TRIES = 3
"""At the end, before what waits is given up."""


class Spool(Generic[T]):
    """What waits to be written, and the thread that writes it; threads share it.

    Args:
        what: What waits, for people.
        most: Items that may wait.
        every: Seconds between two writes.
        write: Writes the first of the items it gets, and returns how many these are. After OSError
            or RunFailedError they are tried again; after another error all of them are lost.
        lose: Is told the items that are given up.
    """

    def __init__(
        self,
        what: str,
        most: int,
        every: float,
        write: Callable[[Sequence[T]], int],
        lose: Callable[[Sequence[T]], object],
    ) -> None:
        self._what, self._most, self._every, self._write, self._lose = (
            what, most, every, write, lose,
        )  # fmt: skip
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed, self._failing = False, False
        # A process that ends without close() shall not hang here.
        self._thread = threading.Thread(target=self._run, name=f"spool of {what}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many items wait: what a kill would lose."""
        return len(self._items)

    def add(self, item: T) -> bool:
        """Spool an item; return whether there was room. It never waits for a disk."""
        with self._changed:
            if len(self._items) >= self._most or self._closed:
                return False
            self._items.append(item)
            if self._is_half_full():
                self._changed.notify()
            return True

    def close(self) -> None:
        """Write what waits; what cannot be written is lost."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._items:
            logger.warning("%d %s could not be written", len(self._items), self._what)
            self._lose([*self._items])

    def _is_half_full(self) -> bool:
        return 2 * len(self._items) >= self._most

    def _run(self) -> None:
        while True:
            with self._changed:
                # A disk that fails is tried again after the time, however full the spool is.
                self._changed.wait_for(
                    lambda: self._closed or (not self._failing and self._is_half_full()),
                    self._every,
                )
                is_last = self._closed
            for _ in range(TRIES if is_last else 1):
                self._failing = not self._emptied()
                if not self._failing:
                    break
            if is_last:
                return

    def _emptied(self) -> bool:
        """Write what waits now; return whether that succeeded."""
        with self._changed:
            waiting = [*self._items]
        while waiting:
            try:
                done = self._write(waiting)
            except (OSError, RunFailedError) as error:
                # Also where a daily run swept the temporary file away: the next try writes it.
                log = logger.debug if self._failing else logger.warning
                log("%s wait, since they cannot be written: %s", self._what, error)
                return False
            except Exception:
                # What no try can write would wait forever, and all that comes after it.
                logger.exception("%d %s cannot be written", len(waiting), self._what)
                done = len(waiting)
                self._lose(waiting)
            waiting = waiting[done:]
            with self._changed:
                for _ in range(done):
                    self._items.popleft()
        return True


class Parts:
    """The part that grows: the rows of one process and one day (UTC), in a table's folder.

    Forgotten members are not in it: neither in what comes, nor in what was written before.

    Args:
        most: Rows with which a part is full.
    """

    def __init__(self, folder: Path, tombstones: Tombstones, most: int = PART_ROWS) -> None:
        self._folder, self._name, self._most = folder, "", most
        self._tombstones = tombstones
        self._day: date | None = None
        self._rows = pa.table({})

    def append(self, day: date, rows: pa.Table) -> None:
        """Write the part again with further rows; after an error it is as it was."""
        with locked(self._folder):  # `activity forget` writes a part again meanwhile
            self._append(day, rows)

    def _append(self, day: date, rows: pa.Table) -> None:
        if self._tombstones.refresh() and len(self._rows):
            self._rows = self._tombstones.kept(self._rows)
        rows = self._tombstones.kept(rows)
        if not len(rows):
            return
        is_new = day != self._day or self._rows.schema != rows.schema
        if is_new or len(self._rows) >= self._most:
            self._day, self._name, self._rows = day, f"{uuid4().hex}.parquet", rows.slice(0, 0)
        if period_of(self._folder) is None:
            note_period(self._folder, "day")
        rows = pa.concat_tables([self._rows, rows]).combine_chunks()
        folder = self._folder / f"period={day.isoformat()}"
        with sealing(folder / self._name, "activity serve") as file:
            pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
        self._rows = rows
