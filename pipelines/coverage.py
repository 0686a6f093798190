"""Which snapshots labels would have read that are not there, and the command that builds them.

A label at t reads the newest snapshot that could be read then. Where one follows the other by a
step (`rhythm.snapshot`), that one is younger than step + publish_delay. Where it is not, snapshots
are missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operations.fits import lines_of, seen_until
from operations.ledger import Ledger, ledger_exists
from transformations.config import Config
from transformations.last_actions import Series
from transformations.layout import partitions
from transformations.names import SEQUENCE_VIEW
from transformations.timestamps import MICROSECOND, day, microseconds, timestamp_of

Times = NDArray[np.int64]
"""Microseconds since 1970."""
GAPS_SHOWN = 3


@dataclass(frozen=True)
class Gap:
    """Snapshots that are missing, one step after the other.

    Attributes:
        first, last: The as_of of the first and of the last of them.
        labels: How many labels would have read one of them.
        before: The newest snapshot that these labels can read instead; None where there is none.
    """

    first: datetime
    last: datetime
    labels: int
    before: datetime | None

    @property
    def command(self) -> str:
        """What builds them."""
        ends = (day(end).replace(" ", "T") for end in (self.first, self.last))
        return "activity backfill --from {} --to {}".format(*ends)


def gaps(config: Config, labels: Times, view: str = SEQUENCE_VIEW) -> list[Gap]:
    """Return which snapshots of a member view labels lack, oldest first.

    Args:
        labels: Their timestamps, in any order.
    """
    as_ofs, seen = _readable(config, view)
    step, delay = config.rhythm.step // MICROSECOND, config.publish_delay // MICROSECOND
    newest, at = _needed(as_ofs, seen)
    origin = as_ofs[0] if len(as_ofs) else 0
    series = Series(timestamp_of(int(origin)), config.rhythm.step, config.publish_delay)
    wanted = series.newest(labels - delay)
    index = np.searchsorted(at, labels, side="right") - 1
    # One that is there was published late: a backfill would not make it readable earlier.
    lacks = ~np.isin(wanted, as_ofs)
    if len(newest):
        lacks &= (index < 0) | (labels - newest[index] >= step + delay)
    index, wanted = index[lacks], wanted[lacks]
    found = []
    for one in np.unique(index):
        own = wanted[index == one]
        before = timestamp_of(int(newest[one])) if one >= 0 else None
        first, last = (timestamp_of(int(end)) for end in (own.min(), own.max()))
        found.append(Gap(first, last, len(own), before))
    return found


def gaps_within(config: Config, view: str = SEQUENCE_VIEW) -> list[Gap]:
    """Return which snapshots are missing between the first and the last one of a view.

    `labels` of a gap counts them.
    """
    as_ofs, _ = _readable(config, view)
    if not len(as_ofs):
        return []
    step, delay = config.rhythm.step // MICROSECOND, config.publish_delay // MICROSECOND
    return gaps(config, np.arange(as_ofs[0], as_ofs[-1], step) + delay, view)


def sayings(config: Config, coverage: Sequence[Any], labels: Times) -> Iterator[str]:
    """Say what a training join could not give, and what would mend it; nothing where it gave all.

    Args:
        coverage: What the job of `stores.duckdb_asof` has counted, per view.
        labels: Their timestamps.
    """
    lacking = [one for one in coverage if one.without_row or one.old]
    yield from map(str, lacking)
    # Only member views say what an old row is, and only they have snapshots.
    views = [one.view for one in lacking if one.max_age is not None]
    missing: dict[tuple[Gap, ...], list[str]] = {}
    for view in views:
        missing.setdefault(tuple(gaps(config, labels, view)), []).append(view)
    for found, of in missing.items():
        whose = f" of {', '.join(of)}" if len(missing) > 1 else ""
        if not found:
            yield (
                f"no snapshot{whose} is missing: these members had not acted before, or their last "
                "action had left the window, which leaves them the default vector"
            )
        yield from say_gaps(found, "label", whose)
        if found:
            yield from _say_fits(config, of, found[0].first)


def _say_fits(config: Config, views: Sequence[str], first: datetime) -> Iterator[str]:
    """Say of which views a backfill makes no rows as of `first`: their fit saw what came later."""
    for line in lines_of(config):
        if line.view not in views or not line.is_packaged(config):
            continue
        seen = seen_until(line, config)
        if seen is not None and first < seen:
            yield (
                f"{line} was fitted on what was known before {day(seen)} and makes no row before "
                "that. For an earlier fit, with views of its own: "
                f"activity fit --until {day(first)}"
            )


def say_gaps(found: Sequence[Gap], counted: str, whose: str = "") -> Iterator[str]:
    """Say of the longest gaps what is missing and what builds it.

    Args:
        counted: What `labels` counts: "label" or "snapshot".
        whose: Of which views, as in " of member_activity_decay_v1".
    """
    longest = sorted(found, key=lambda gap: gap.first - gap.last)[:GAPS_SHOWN]
    for gap in sorted(longest, key=lambda gap: gap.first):
        ends = f"from {day(gap.first)} to {day(gap.last)}"
        if gap.first == gap.last:
            ends = f"of {day(gap.first)}"
        count = f"{gap.labels:,} {counted}{'' if gap.labels == 1 else 's'}"
        told = f"{count} would read one" if counted == "label" else count
        instead = f"get that of {day(gap.before)}" if gap.before else "get no row"
        yield (
            f"no snapshot{whose} {ends} ({told}): labels there {instead}. To build them: "
            f"{gap.command}"
        )
    if len(found) > GAPS_SHOWN:
        first, last = min(gap.first for gap in found), max(gap.last for gap in found)
        whole = Gap(first, last, 0, None).command
        yield f"{len(found) - GAPS_SHOWN} shorter gaps{whose} besides; all at once: {whole}"


def _readable(config: Config, view: str) -> tuple[Times, Times]:
    """Return the as_of of each snapshot, ascending, and since when it could be read."""
    as_ofs = partitions(config.layout.table(view))
    live = Ledger(config).first_published() if ledger_exists(config) else {}
    seen = [live.get(as_of, as_of + config.publish_delay) for as_of in as_ofs]
    both = ([microseconds(one) for one in times] for times in (as_ofs, seen))
    first, second = (np.array(times, np.int64) for times in both)
    return first, second


def _needed(as_ofs: Times, seen: Times) -> tuple[Times, Times]:
    """Return snapshots and since when a label reads each, without those that a newer one hid.

    2 was published late, when 3 could be read already:

    >>> _needed(np.array([1, 2, 3]), np.array([1, 5, 4]))
    (array([1, 3]), array([1, 4]))
    """
    if not len(as_ofs):
        return as_ofs, seen
    first_seen = np.minimum.accumulate(seen[::-1])[::-1]
    kept = np.append(seen[:-1] < first_seen[1:], True)
    return as_ofs[kept], seen[kept]
