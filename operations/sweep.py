"""What `activity sweep` removes: what is older than `retention`, and what nothing in use names.

Age counts from the snapshot that is online, so that a workspace whose data ended keeps them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from models.lines import catalogue_lines, ranker_lines
from models.spec import Packaged
from operations.fits import FITS, LINE, SPACE, Fits
from operations.ledger import Ledger
from operations.rankers import RANKER
from transformations import archive, clock
from transformations.config import Config
from transformations.durations import said
from transformations.errors import InputError
from transformations.layout import (
    PERIOD_DAYS,
    as_of_name,
    parse_as_of_name,
    partition_files,
    period_of,
    span,
)
from transformations.names import Space
from transformations.read_so_far import forget_periods

STREAM = "stream-"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Unneeded:
    """Files or folders that go together.

    Attributes:
        what: The table, or what they are.
        why: Older than when, or what no longer names them.
    """

    what: str
    why: str
    paths: tuple[Path, ...]


def unneeded(config: Config, ledger: Ledger) -> list[Unneeded]:
    """Return what goes, without removing it.

    Raises:
        InputError: `retention` is shorter than the labels of a ranker of the catalogue.
    """
    _refuse_short(config)
    newest = ledger.newest_published()
    found = [] if newest is None else list(_old(config, newest))
    found += _unnamed(config, ledger)
    orphans = tuple(archive.orphans(config, clock.now()))
    found.append(Unneeded("archive", "no line of its index names it", orphans))
    half = tuple(sorted(path for path in config.data.rglob("*.tmp") if path.exists()))
    found.append(Unneeded("half-written", "a killed command left them", half))
    return [one for one in found if one.paths]


def before_removing(config: Config, found: list[Unneeded]) -> None:
    """Note that periods of activity go, or the next run would read all sources again."""
    activity = config.layout.activity
    paths = [path for one in found if one.what == "activity" for path in one.paths]
    gone = [str(path.relative_to(activity)) for path in paths]
    if gone:
        forget_periods(config, gone)


def _refuse_short(config: Config) -> None:
    """Raise where a ranker learns from labels older than what would be kept for them."""
    kept = config.retention
    for line in ranker_lines(config):
        days = line.days * DAY
        for key, least in (
            ("activity", days + config.window),
            ("snapshots", days + config.rhythm.step),
            ("impressions", days + config.recommend.attribution),
        ):
            given: timedelta | None = getattr(kept, key)
            if given is not None and given < least:
                raise InputError(
                    f"{config.file.name}: retention.{key}: {line} learns from the labels of "
                    f"{line.days} days, so expected at least {said(least)}, got {said(given)}"
                )


def _old(config: Config, newest: datetime) -> Iterator[Unneeded]:
    """Yield what is older than it is kept for, table by table."""
    layout, kept = config.layout, config.retention
    if kept.activity is not None:
        ends = [(file, span([file])) for file in partition_files(layout.activity)]
        cut = newest - kept.activity
        old = [file.parent for file, end in ends if end is not None and end[1] < cut]
        yield Unneeded("activity", _why(cut), tuple(old))
    if kept.snapshots is not None:
        cut = newest - kept.snapshots
        tables = [layout.sequences, layout.member_stats, layout.item_stats, layout.recommendations]
        tables += [layout.item_marks, *_folders(layout.all_embeddings), *_folders(layout.all_lists)]
        for table in tables:
            old = [path for path in _folders(table) if _snapshot_end(path) < cut]
            yield Unneeded(str(table.relative_to(layout.root)), _why(cut), tuple(old))
    for table, every in (
        (layout.impressions, kept.impressions),
        (layout.quarantine, kept.quarantine),
    ):
        if every is not None and table.exists():
            cut = newest - every
            period = period_of(table)
            length = (PERIOD_DAYS[period] + (period == "month")) * DAY if period else DAY
            old = [path for path in _folders(table) if _period_start(path) + length <= cut]
            yield Unneeded(table.name, _why(cut), tuple(old))
    if kept.archive is not None:
        cut = newest - kept.archive
        yield Unneeded("archive", _why(cut), tuple(archive.old(config, cut)))


def _unnamed(config: Config, ledger: Ledger) -> Iterator[Unneeded]:
    """Yield packages, spaces and unfinished trainings that no fit in use names."""
    with ledger.engine.connect() as connection:
        rows = connection.execute(sa.select(FITS)).mappings().all()
    if not rows:
        return  # of before there were fits: the next run notes them
    layout, fits = config.layout, Fits(config)
    current = fits.bind(catalogue_lines(config))
    used: set[Path] = {line.artifact(config) for line in current}
    spaces: set[Space] = {
        *fits.spaces.values(),
        *(line.config_of(config).space for line in current),
    }
    for row in rows:
        if row["retired_at"] is not None:
            continue
        key = row["name"], row["version"], row["fit"]
        if row["kind"] == LINE:
            used.add(Path(row["path"]) if row["path"] else layout.artifact(*key))
            spaces.add(Space(row["encoder"], row["encoder_version"], row["encoder_fit"]))
        elif row["kind"] == RANKER:
            used.add(layout.ranker(*key))
        elif row["kind"] == SPACE:
            spaces.add(Space(*key))
    used |= {config.path(line.path) for line in current if isinstance(line, Packaged)}
    why = "no fit in use names it"
    rankers = layout.artifacts / "rankers"
    packages = [path for path in layout.artifacts.glob("*/v*") if path.parent != rankers]
    packages += rankers.glob("*/v*")
    unused = sorted({path for path in packages if path.is_dir()} - used)
    yield Unneeded("artifacts", why, tuple(unused))
    for one in (layout.items, layout.item_table, layout.item_encoder):
        named = {one(space) for space in spaces}
        root = layout.root / one(fits.space).relative_to(layout.root).parts[0]
        there = {path for path in root.glob("*/*") if path.is_dir()}
        yield Unneeded(root.name, why, tuple(sorted(there - named)))
    waiting = {str(line) for line in current if not line.is_packaged(config)}
    trainings = [*(layout.state / "training").glob("*")]
    old = [path for path in trainings if path.name.split(".")[0] not in waiting]
    yield Unneeded("checkpoints", "no training that waits goes on from it", tuple(sorted(old)))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _snapshot_end(folder: Path) -> datetime:
    """Return the moment that the rows of a partition are of; the end of time where it has none."""
    name = folder.name.removeprefix("as_of=")
    try:
        if name.startswith(STREAM):
            return parse_as_of_name(name.removeprefix(STREAM)) + DAY
        return parse_as_of_name(name)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def _period_start(folder: Path) -> datetime:
    try:
        return parse_as_of_name(folder.name.removeprefix("period="))
    except ValueError:
        return datetime.max.replace(tzinfo=UTC) - 40 * DAY


def _why(cut: datetime) -> str:
    return f"older than {as_of_name(cut)}"
