"""What tables and buses gave, kept as it came: objects named by their SHA-256, and an index.

    archive/objects/5f/5f3c….parquet     the rows of one read, as texts; or messages, as bytes
    archive/index/2026-03-10.jsonl       a line per read of this day (UTC), each with its own sum

An object is in place before the line that names it. So a killed command leaves an object that no
line names, and never a line without its object. A line that was cut off is none: the next one is
written over it. Equal bytes lie there once, however often they were read.

No name ends in .tmp: a run removes such files below the data folder while stream workers write.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from re import fullmatch

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transformations.config import Config
from transformations.errors import RunFailedError
from transformations.files import locked, sync
from transformations.readers import WHOLE_NUMBERS
from transformations.seals import Damage, digest
from transformations.tombstones import Tombstones

TABLE, MESSAGES = "table", "messages"
SUM = 64
"""Hexadecimal digits of the sum that a line of the index begins with."""
NEW = ".new"
ORPHANED = timedelta(days=1)
"""How old an object is that no line names before a sweep takes it: its line may be on its way."""


@dataclass(frozen=True)
class Read:
    """One reading of a source: a line of the index.

    Attributes:
        read_at: When it began; its day is what a replay chooses by.
        as_of: What its rows were judged as of: up to here they lie in the past.
        source: The table with its database, or the bus.
        kind: TABLE or MESSAGES.
        label: What quarantine calls the source.
        member: The object's column with the members' ids, as texts.
        rows: How many it gave, but those of members who were forgotten.
        sha256: Names the object; None where it gave no row.
    """

    read_at: datetime
    as_of: datetime
    source: str
    kind: str
    label: str
    member: str
    rows: int = 0
    bytes: int = 0
    sha256: str | None = None


def put(config: Config, file: Path) -> str:
    """Move a file into the archive; return its SHA-256. One that is there already stays."""
    found = digest(file)
    place = config.layout.archived(found)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and digest(place) == found:
        file.unlink()
        os.utime(place)  # so that no sweep takes it before its line is written
    else:
        sync(file)
        file.replace(place)
        sync(place.parent)
    return found


def held(config: Config, read: Read, file: Path) -> Read:
    """Move the rows of a read into the archive, and return the read with their sum and counts."""
    rows, size = pq.read_metadata(file).num_rows, file.stat().st_size
    if not rows:
        file.unlink()
        return read
    return replace(read, rows=rows, bytes=size, sha256=put(config, file))


def note(config: Config, read: Read) -> None:
    """Append the line of a read whose object is in place."""
    with locked(config.layout.archive):
        _append(config, read)


def keep(config: Config, read: Read, file: Path) -> None:
    """Move the rows of a read into the archive, and note it; nothing where it has none."""
    with locked(config.layout.archive):  # no sweep comes between
        done = held(config, read, file)
        if done.rows:
            _append(config, done)


def _append(config: Config, read: Read) -> None:
    index = config.layout.archive_index
    index.mkdir(parents=True, exist_ok=True)
    with (index / f"{read.read_at.astimezone(UTC):%Y-%m-%d}.jsonl").open("a+b") as file:
        file.seek(0)
        written, end, tail = file.read().rpartition(b"\n")
        if _is_whole(tail[:-1]):  # a line whose end is damaged is not cut off: it stays, as damaged
            file.write(b"\n")
        else:
            file.truncate(len(written) + len(end))
        file.write(_line(read))
        file.flush()
        os.fsync(file.fileno())
    sync(index)


def reads(config: Config, start: date | None = None, end: date | None = None) -> list[Read]:
    """Return what was read on the days from `start` to `end`, both included, in its order.

    Raises:
        RunFailedError: a line of the index is damaged; the message names it.
    """
    found = []
    for file in _days(config):
        day = date.fromisoformat(file.stem)
        if (start is None or start <= day) and (end is None or day <= end):
            for read in _lines(file):
                if isinstance(read, Damage):
                    raise RunFailedError(
                        f"{read.file} is damaged: {read.why}. Restore it from a copy; or, which "
                        "gives up what that line names: activity rebuild --damaged"
                    )
                found.append(read)
    return sorted(found, key=lambda read: read.read_at)


def damage(config: Config, among: Iterable[Read] | None = None) -> Iterator[Damage]:
    """Yield lines and objects that are not what was written; every byte is read.

    Args:
        among: Only the objects of these reads; default: the whole archive.
    """
    if among is None:
        lines = [each for file in _days(config) for each in _lines(file)]
        yield from (line for line in lines if isinstance(line, Damage))
        among = [line for line in lines if isinstance(line, Read)]
    for found in dict.fromkeys(read.sha256 for read in among if read.sha256):
        file = config.layout.archived(found)
        try:
            is_whole = digest(file) == found
            why = f"its {file.stat().st_size:,} bytes have another SHA-256 than its name says"
        except OSError as error:
            is_whole, why = False, f"it cannot be read: {error}"
        if not is_whole:
            yield Damage(file, why)


def give_up_damaged(config: Config) -> list[Damage]:
    """Remove damaged lines, damaged objects and the lines that name those; return them."""
    with locked(config.layout.archive):
        found = list(damage(config))
        gone = {one.file.stem for one in found}
        _rewrite(config, lambda read: None if read.sha256 in gone else read, is_mending=True)
        for one in found:
            if one.file.suffix == ".parquet":
                one.file.unlink(missing_ok=True)
    return found


def forget(config: Config, tombstones: Tombstones) -> int:
    """Write each object that holds forgotten members again without them; return the rows removed.

    The caller holds the workspace's lock. Killed at any point, it can be run again. Objects that no
    line names are removed: they may be of before.

    Raises:
        RunFailedError: the index or an object is damaged; the message names it.
    """
    if not config.layout.archive.exists():
        return 0
    removed = 0
    rest: dict[str | None, Read] = {}
    for read in {read.sha256: read for read in reads(config) if read.sha256}.values():
        rows, left = _without_forgotten(config, read, tombstones)
        if rows:
            removed += rows
            rest[read.sha256] = left

    def changed(read: Read) -> Read:
        left = rest.get(read.sha256, read)
        return replace(read, rows=left.rows, bytes=left.bytes, sha256=left.sha256)

    with locked(config.layout.archive):
        _rewrite(config, changed)
        for file in _unnamed(config):
            file.unlink()
    return removed


def kept(config: Config, tombstones: Tombstones, rows: pa.Table, column: str) -> pa.Table:
    """Return rows without those of forgotten members, whose ids a column of texts holds."""
    if not len(tombstones):
        return rows
    texts = [text for text in pc.unique(rows[column]).to_pylist() if text is not None]
    are = tombstones.are([_plain(config, text) for text in texts])
    gone = [text for text, is_gone in zip(texts, are, strict=True) if is_gone]
    if not gone:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows[column], pa.array(gone, pa.string()))))


def old(config: Config, cut: datetime) -> list[Path]:
    """Return the days of the index that ended by then, and the objects that only they name."""
    gone: set[str | None] = set()
    left: set[str | None] = {None}
    last = cut.astimezone(UTC).date() - timedelta(days=1)
    for read in reads(config):
        (gone if read.read_at.astimezone(UTC).date() <= last else left).add(read.sha256)
    days = [file for file in _days(config) if date.fromisoformat(file.stem) <= last]
    return [*days, *(config.layout.archived(one) for one in sorted(map(str, gone - left)))]


def orphans(config: Config, now: datetime) -> list[Path]:
    """Return the objects that no line has named for a day: a killed command left them."""
    if not config.layout.archive.exists():
        return []
    with locked(config.layout.archive):
        latest = (now - ORPHANED).timestamp()
        return [file for file in _unnamed(config) if file.stat().st_mtime < latest]


def _unnamed(config: Config) -> list[Path]:
    named = {read.sha256 for read in reads(config)}
    objects = sorted((config.layout.archive / "objects").glob("*/*"))
    return [file for file in objects if file.stem not in named]


def _without_forgotten(config: Config, read: Read, tombstones: Tombstones) -> tuple[int, Read]:
    """Write what an object holds of others; return the rows removed, and where the rest lies."""
    file = config.layout.archived(str(read.sha256))
    for found in damage(config, [read]):
        raise RunFailedError(f"{found.file} is damaged: {found.why}; activity rebuild --damaged")
    with pq.ParquetFile(file) as whole:
        members = whole.read(columns=[read.member])
        gone = len(members) - len(kept(config, tombstones, members, read.member))
        if not gone:
            return 0, read
        beside = file.with_name(file.name + NEW)
        with writer(beside, whole.schema_arrow) as writing:
            for group in range(whole.num_row_groups):
                rows = kept(config, tombstones, whole.read_row_group(group), read.member)
                if len(rows):
                    writing.write_table(rows)
    return gone, held(config, replace(read, rows=0, bytes=0, sha256=None), beside)


def writer(file: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a file for rows that go into the archive."""
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)


def _rewrite(
    config: Config, change: Callable[[Read], Read | None], is_mending: bool = False
) -> None:
    """Write the days of the index again of which a line changes or goes."""
    for file in _days(config):
        lines = list(_lines(file))
        found = [line for line in lines if isinstance(line, Read)]
        rest = [left for left in map(change, found) if left is not None]
        if rest == found and not (is_mending and len(found) < len(lines)):
            continue
        beside = file.with_name(file.name + NEW)
        beside.write_bytes(b"".join(map(_line, rest)))
        sync(beside)
        beside.replace(file)
        sync(file.parent)


def _days(config: Config) -> list[Path]:
    return sorted(config.layout.archive_index.glob("????-??-??.jsonl"))  # no copy of one


def _line(read: Read) -> bytes:
    times = {"read_at": read.read_at.isoformat(), "as_of": read.as_of.isoformat()}
    text = json.dumps(asdict(read) | times, ensure_ascii=False).encode()
    return sha256(text).hexdigest().encode() + b" " + text + b"\n"


def _lines(file: Path) -> Iterator[Read | Damage]:
    """Yield the whole lines of a day, or what is wrong with one."""
    *lines, tail = file.read_bytes().split(b"\n")
    if _is_whole(tail[:-1]):
        lines.append(tail)  # its end is damaged; any other tail was not written whole
    for number, line in enumerate(lines, 1):
        if not _is_whole(line):
            yield Damage(file, f"line {number} has another SHA-256 than it begins with")
            continue
        given = json.loads(line[SUM + 1 :])
        times = {key: datetime.fromisoformat(given[key]) for key in ("read_at", "as_of")}
        yield Read(**given | times)


def _is_whole(line: bytes) -> bool:
    return line[: SUM + 1] == sha256(line[SUM + 1 :]).hexdigest().encode() + b" "


def _plain(config: Config, text: str) -> str:
    """Return an id as staging spells it: of whole numbers ' 42' and '42.0' are 42."""
    if config.member_id_type == "int64" and fullmatch(WHOLE_NUMBERS, text):
        return str(int(text.strip().partition(".")[0]))
    return text
