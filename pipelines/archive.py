"""Stages what the archive holds, in place of the source: read after read, as it was then.

    reads of some days ──► are they whole? ──► each one: as of then, into activity and quarantine

Each read is staged as a run stages a source: periods are replaced one by one, each whole, and what
is there already counts once. Killed at any point, it can be run again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date

from operations.sources import note_sources
from serving.stream import kept
from transformations import archive, read_so_far
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.files import sweep
from transformations.sources import stage_activity
from transformations.sources.activity import TooManyRefusedError
from transformations.sources.event_source import Given, read_again, table_name
from transformations.sources.spool import spool


@dataclass
class Replayed:
    """What a replay staged.

    Attributes:
        source: Whose reads.
        reads: How many there were.
        rows: Rows that they gave.
        gained: Actions that `activity` did not have.
        refused: Reason → rows in quarantine; of messages, those that were dead letters.
        periods: The periods of `activity` that were written.
        not_staged: What a run refused as a whole, and this did too.
    """

    source: str
    reads: int = 0
    rows: int = 0
    gained: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    periods: set[str] = field(default_factory=set)
    not_staged: list[str] = field(default_factory=list)

    def refuse(self, refused: dict[str, int]) -> None:
        """Count rows that were refused."""
        for reason, rows in refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + rows


def chosen(
    config: Config, start: date | None, end: date | None, source: str | None
) -> tuple[str, list[archive.Read]]:
    """Return a source and what was read of it on the days from `start` to `end`, both included.

    Args:
        source: As the index calls it. Default: the configured table of events.

    Raises:
        InputError: there is nothing of it.
        RunFailedError: a line of the index, or an object, is damaged; the message names it.
    """
    found = archive.reads(config, start, end)
    wanted = source or (table_name(config) if config.events.is_sql else None)
    reads = [read for read in found if read.source == wanted]
    if wanted is None or not reads:
        there = sorted({read.source for read in found})
        raise InputError(
            f"expected reads of {wanted or 'a source that --source names'} in the archive "
            f"{config.layout.archive}, from {start or 'its beginning'} to {end or 'its end'} (days "
            f"of reading, UTC); there are reads of: {', '.join(there) or 'nothing'}"
        )
    for damage in archive.damage(config, reads):
        held = [read for read in reads if read.sha256 == damage.file.stem]
        days = sorted({f"{read.read_at:%Y-%m-%d}" for read in held})
        raise RunFailedError(
            f"{damage.file} is damaged: {damage.why}. It holds what was read on {', '.join(days)}. "
            "Nothing was staged. Restore it from a copy, or leave those days out (--from, --to)"
        )
    return wanted, reads


def replay(
    config: Config,
    start: date | None = None,
    end: date | None = None,
    source: str | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Replayed:
    """Stage again what was read on some days; the caller holds the workspace's lock.

    Days are those of reading, not of events: so a replay gives what runs knew on a day, late rows
    and all, and which rows were refused as lying in the future is decided as it was then. What the
    runs noted as read stays. Forgotten members are passed over.

    Args:
        start: The first day (UTC); default: all before `end`.
        end: The last day, included.
        advance: Is told of each read.

    Raises:
        InputError, RunFailedError: as `chosen`, or the data were made from other sources.
    """
    name, reads = chosen(config, start, end, source)
    note_sources(config)
    sweep(config.data)
    read_so_far.drop_if_void(config)
    done = Replayed(name)
    for read in reads:
        _stage(config, read, done)
        advance(1)
    return done


def _stage(config: Config, read: archive.Read, done: Replayed) -> None:
    done.reads += 1
    with spool(config, "messages") as folder, connect(config) as con:
        given: Given
        if read.kind == archive.MESSAGES:
            given, refused = kept.events_of(config, read, folder)
            config = kept.staged_like(config)
            done.refuse(refused)
            done.rows += sum(refused.values())
        else:
            given = read_again(config, read)
        try:
            report = stage_activity(config, con, read.as_of, given)
        except TooManyRefusedError as error:
            done.rows += read.rows
            done.not_staged.append(f"{read.read_at:%Y-%m-%d %H:%M} UTC: {error}")
            return
    done.rows += report.rows_in
    done.gained += report.rows_out
    done.refuse(report.refused)
    done.periods |= {*report.written}
