"""What is due: which parts a run makes again, in order of dependence, and why.

The ledger knows when each part was made last, `rhythm` of activity.yaml how often it is to be. Time
is counted in whole days (or in the rhythm itself, where that is shorter), so that a part which is
made somewhat later each time does not move on through the week.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from operations.drift import pauses_fitting, standing
from operations.fits import FITS, LINE, SPACE, Fits
from operations.incremental import Start, Starts
from operations.ledger import METADATA, RUNS, STAGES, Ledger, now_text
from operations.rankers import RANKER
from operations.readers import Aggregator, Lines, rhythms
from transformations import clock
from transformations.config import Config
from transformations.durations import said
from transformations.secrets import redact
from transformations.timestamps import EPOCH

SNAPSHOT, CANDIDATES = "snapshot", "candidates"
PUBLISH = "publish"
"""What the ledger calls putting rows of a new fit online."""
DAY = timedelta(days=1)
MISSED = timedelta(days=28)
"""How far back missed snapshots are made: as far as most rankers learn from labels."""
Outcome = Literal["done", "waits", "paused", "failed"]
Key = tuple[str, str, int, int]

ATTEMPTS = sa.Table(
    "attempt",
    METADATA,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("as_of", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    # `waits`: there was too little to learn from, so the next snapshot is the next chance.
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("said", sa.String, nullable=False),
)
"""One row per part: how the newest attempt to make it again ended."""


@dataclass(frozen=True)
class Part:
    """Something that is made in a rhythm.

    Attributes:
        kind: `snapshot`, `space`, `ranker` or `candidates`.
        name: Of a space or ranker, as the catalogue has it (trained_v1); else nothing.
        is_due: Whether a run makes it now.
        at: Since when it is due, or when it will be; None where nothing was made yet, or never.
        why: What was made last, and what the rhythm is.
    """

    kind: str
    name: str
    is_due: bool
    at: datetime | None
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        as_of: Of the snapshot that is built, or that serves where none is due.
        missed: Snapshots between the last one and `as_of`, oldest first, for training joins.
        parts: All of them, in the order in which they are made.
        paused: Whether drift pauses fitting.
    """

    as_of: datetime
    missed: tuple[datetime, ...]
    parts: tuple[Part, ...]
    paused: bool

    @property
    def due(self) -> tuple[Part, ...]:
        """The parts that a run makes."""
        return tuple(part for part in self.parts if part.is_due)

    def of(self, kind: str) -> list[str]:
        """Return the names of what is due of a kind."""
        return [part.name for part in self.due if part.kind == kind]

    def makes(self, kind: str) -> bool:
        """Whether something of a kind is due."""
        return bool(self.of(kind))


def plan(config: Config, ledger: Ledger, now: datetime | None = None) -> Plan:
    """Say what is due, from the ledger and the configuration; nothing else is read.

    Raises:
        InputError: the configuration's rhythms contradict each other, or its catalogue is wrong.
    """
    now = now or clock.now()
    lines = Lines.of(config)
    every = rhythms(config, lines)
    known = _Known(config, ledger, lines)
    snapshot, as_of, missed = _snapshot(known, now)
    paused = pauses_fitting(ledger, as_of)
    spaces = [] if known.newest is None else list(_spaces(known, every, as_of))
    refit = {part.name for part in spaces if part.is_due}
    lists = _candidates(known, as_of, snapshot.is_due, refit & lines.of_candidates)
    rankers = list(_rankers(known, every, as_of, refit))
    spaces, rankers = _begun(known, spaces, rankers)
    sources = [lists] if lines.candidates else []
    return Plan(as_of, missed, (snapshot, *spaces, *sources, *rankers), paused)


def note_attempt(
    ledger: Ledger, kind: str, name: str, as_of: datetime, outcome: Outcome, why: str = ""
) -> None:
    """Note how making a part again ended, in place of the attempt before."""
    key = sa.and_(ATTEMPTS.c.kind == kind, ATTEMPTS.c.name == name)
    row = {"kind": kind, "name": name, "as_of": _key(as_of), "at": now_text()}
    with ledger.engine.begin() as connection:
        connection.execute(sa.delete(ATTEMPTS).where(key))
        connection.execute(sa.insert(ATTEMPTS).values(**row, outcome=outcome, said=redact(why)))


def paused_parts(ledger: Ledger) -> list[str]:
    """Return the parts whose newest attempt waits since drift pauses fitting: `ranker decayed`."""
    query = sa.select(ATTEMPTS.c.kind, ATTEMPTS.c.name).where(ATTEMPTS.c.outcome == "paused")
    with ledger.engine.connect() as connection:
        return [f"{kind} {name}" for kind, name in connection.execute(query)]


def next_after(made: datetime, every: timedelta) -> datetime:
    """Return when a part is due again that was made at a time; days count whole.

    >>> next_after(datetime(2026, 3, 1, 4, 30, tzinfo=UTC), timedelta(days=7)).isoformat()
    '2026-03-08T00:00:00+00:00'
    """
    return _floor(made, min(every, DAY)) + every


def short(error: str) -> str:
    """Return the first line of an error, and of that the first 200 characters.

    >>> short("RunFailedError: no space is left\\nmore")
    'RunFailedError: no space is left'
    """
    first, *_ = error.splitlines() or [""]
    return first if len(first) <= 200 else f"{first[:199]}…"


class _Known:
    """What the ledger knows of the parts."""

    def __init__(self, config: Config, ledger: Ledger, lines: Lines) -> None:
        self.config, self.ledger, self.lines = config, ledger, lines
        self.newest = ledger.newest_published()
        self.fits = Fits(config)
        with ledger.engine.connect() as connection:
            rows = connection.execute(sa.select(FITS)).mappings().all()
            tried = connection.execute(sa.select(ATTEMPTS)).mappings().all()
            listed = (
                sa.select(sa.func.max(RUNS.c.as_of))
                .join(STAGES, STAGES.c.run_id == RUNS.c.run_id)
                .where(RUNS.c.command == "run", STAGES.c.stage == "candidate_lists")
            )
            newest_lists = connection.execute(listed).scalar()
        self.rows = {_of_row(row): row for row in map(dict, rows)}
        self.tried = {(row["kind"], row["name"]): dict(row) for row in tried}
        self.newest_lists = None if newest_lists is None else datetime.fromisoformat(newest_lists)

    def made_at(self, key: Key) -> datetime | None:
        row = self.rows.get(key)
        return None if row is None else datetime.fromisoformat(row["made_at"])

    def is_unused(self, key: Key) -> bool:
        """Whether a fit is made, and nothing that it made is online."""
        row = self.rows.get(key)
        return row is not None and row["used_at"] is None

    def ranker_made_at(self, name: str, version: int) -> datetime | None:
        """When the newest fit of a ranker that serves was made."""
        of = [
            row["made_at"]
            for key, row in self.rows.items()
            if key[:3] == (RANKER, name, version) and row["retired_at"] is None
        ]
        return datetime.fromisoformat(max(of)) if of else None

    def attempt(self, kind: str, name: str, as_of: datetime) -> dict[str, Any] | None:
        """How the newest attempt for this snapshot ended, unless it was done."""
        row = self.tried.get((kind, name))
        if row is None or row["as_of"] != _key(as_of) or row["outcome"] == "done":
            return None
        return row

    def run_of(self, as_of: datetime, command: str) -> dict[str, Any] | None:
        """The newest run of a snapshot."""
        query = sa.select(RUNS).where(RUNS.c.command == command, RUNS.c.as_of == _key(as_of))
        with self.ledger.engine.connect() as connection:
            found = connection.execute(query.order_by(RUNS.c.run_id.desc()).limit(1)).mappings()
            return next((dict(row) for row in found), None)


def _snapshot(known: _Known, now: datetime) -> tuple[Part, datetime, tuple[datetime, ...]]:
    """Return the snapshot's part, its as_of, and what was missed before it."""
    step = known.config.rhythm.step
    grid = min(step, DAY)
    last, newest = _floor(now, grid), known.newest
    if newest is None:
        return Part(SNAPSHOT, "", True, None, "nothing is online yet"), last, ()
    rhythm = f"the last is of {_short(newest)}, and rhythm.snapshot is {said(step)}"
    since = next_after(newest, step)
    if since <= last:
        steps = (last - newest) // step
        missed = [last - back * step for back in range(steps, 0, -1)]
        missed = [at for at in missed if newest < at and last - at <= MISSED]
        if missed:
            rhythm += f"; {len(missed)} missed before it for training joins"
        return Part(SNAPSHOT, "", True, since, rhythm), last, tuple(missed)
    why = _again(known, newest)
    if why is not None:
        return Part(SNAPSHOT, "", True, newest, why), newest, ()
    return Part(SNAPSHOT, "", False, since, rhythm), newest, ()


def _again(known: _Known, newest: datetime) -> str | None:
    """Say why the snapshot that is online is built again; None where it is as it should be."""
    run = known.run_of(newest, "run")
    published = known.run_of(newest, PUBLISH)
    if published and run and published["run_id"] < run["run_id"]:
        published = None  # the run since then has put all online
    for one in (run, published, known.run_of(newest, "recommend")):
        if one is not None and one["status"] != "done":
            error = one["error"] or "it was killed"
            return f"the run of {_short(newest)} did not end: {short(error)}"
    if run is None:
        return None
    for file in (known.config.file, known.config.catalogue):
        if datetime.fromtimestamp(file.stat().st_mtime, UTC) > datetime.fromisoformat(
            str(run["started_at"])
        ):
            return f"{file.name} was changed after the last run"
    for line in known.fits.bind(known.lines.aggregators):
        if known.is_unused((LINE, line.name, line.version, line.fit)):
            return f"{line} is fitted, and has no rows yet"
    for space in known.fits.spaces.values():
        if space.fit > 1 and known.is_unused((SPACE, space.encoder, space.version, space.fit)):
            return f"{space} is fitted, and its items are not online yet"
    if standing(known.ledger):
        return "drift has stopped fitting; the sources are read once more"
    return None


def _spaces(
    known: _Known, every: Mapping[str, timedelta | None], as_of: datetime
) -> Iterator[Part]:
    """Yield the item spaces in which something is fitted, with what learns in them."""
    for name in known.lines.fitted:
        space = known.fits.spaces[name]
        made = known.made_at((SPACE, space.encoder, space.version, space.fit))
        if made is None:
            continue  # the snapshot makes its first fit
        part = _fitted(known, SPACE, name, made, every[name], as_of)
        if every[name] is None and not known.lines.is_read(name):
            why = "no candidate source and no ranker reads it; a new fit: activity fit --items "
            part = Part(SPACE, name, False, None, f"{why}{name}")
        yield part


def _rankers(
    known: _Known, every: Mapping[str, timedelta | None], as_of: datetime, refit: set[str]
) -> Iterator[Part]:
    """Yield the rankers: due by themselves, or because what they read is made again."""
    for line in known.lines.rankers:
        name = str(line)
        made = known.ranker_made_at(line.name, line.version)
        if made is None:
            tried = known.attempt(RANKER, name, as_of)
            waits = tried is not None and tried["outcome"] == "waits"
            why = "no fit of it was made yet" + (f": {short(tried['said'])}" if tried else "")
            yield Part(RANKER, name, not waits, None, why)
            continue
        part = _fitted(known, RANKER, name, made, every[name], as_of)
        reads = known.lines.reads(line)
        again = sorted(refit & {known.lines.space_of(one) for one in reads})
        newer = [str(one) for one, at in _fits_of(known, reads) if at > made]
        tried = known.attempt(RANKER, name, as_of)
        if again:
            part = Part(RANKER, name, True, as_of, f"it reads {', '.join(again)}, fitted again")
        elif newer and not (tried and tried["outcome"] == "waits"):
            since = min(at for _, at in _fits_of(known, reads) if at > made)
            part = Part(RANKER, name, True, since, f"{', '.join(newer)} is newer than it")
        yield part


def _begun(
    known: _Known, spaces: Sequence[Part], rankers: Sequence[Part]
) -> tuple[list[Part], list[Part]]:
    """Return the parts; what is due and asked to go on says where its next fit begins."""
    starts, lines = Starts(known.config, known.lines), known.lines
    due = {part.name for part in spaces if part.is_due}
    begins: dict[str, Start | None] = {}
    again = set()
    for encoder in lines.encoders:
        if str(encoder) not in due:
            continue
        begins[str(encoder)] = starts.of_space(encoder)
        space = encoder.in_fit(known.fits.next_fit(SPACE, encoder.name, encoder.version))
        key = (SPACE, space.encoder, space.version, space.fit)
        starts.suppose(key, begins[str(encoder)] or Start(None))
        for line in (one for one in lines.aggregators if lines.space_of(one) == str(encoder)):
            of_line = starts.of_line(line, space)
            if of_line is None or of_line.parent is None:
                again.add(str(line))
    for ranker in lines.rankers:
        reads = sorted(again & {*ranker.aggregators})
        begins[str(ranker)] = starts.of_ranker(ranker, reads)
    return [_saying(part, begins) for part in spaces], [_saying(part, begins) for part in rankers]


def _saying(part: Part, begins: Mapping[str, Start | None]) -> Part:
    start = begins.get(part.name)
    return part if start is None or not part.is_due else replace(part, why=f"{part.why}; {start}")


def _fits_of(known: _Known, lines: list[Aggregator]) -> Iterator[tuple[object, datetime]]:
    """Yield the present fits of lines and of their spaces, each with when it was made."""
    for line in known.fits.bind(lines):
        space = known.fits.spaces[known.lines.space_of(line)]
        for one, key in (
            (line, (LINE, line.name, line.version, line.fit)),
            (space, (SPACE, space.encoder, space.version, space.fit)),
        ):
            at = known.made_at(key)
            if at is not None:
                yield one, at


def _fitted(
    known: _Known,
    kind: str,
    name: str,
    made: datetime,
    every: timedelta | None,
    as_of: datetime,
) -> Part:
    """Return the part of a fit that was made at a time, and is to be made every so often."""
    why = f"fitted {_short(made)}, and its rhythm is {said(every)}"
    if every is None:
        return Part(kind, name, False, None, why)
    since = next_after(made, every)
    tried = known.attempt(kind, name, as_of)
    is_due = since <= as_of
    if is_due and tried is not None:
        at = tried["at"][:16].replace("T", " ")
        why += f"; {tried['outcome']} at {at}: {short(tried['said'])}"
        is_due = tried["outcome"] != "waits"
    return Part(kind, name, is_due, since, why)


def _candidates(known: _Known, as_of: datetime, is_built: bool, refit: set[str]) -> Part:
    """Return the part of the lists, which are made with a snapshot, or with a new fit."""
    every, last = known.config.rhythm.lists, known.newest_lists
    if refit:
        why = f"{', '.join(sorted(refit))} is fitted again"
        return Part(CANDIDATES, "", True, as_of, why)
    if last is None:
        return Part(CANDIDATES, "", is_built, None, "no list was made yet")
    why = f"the last are of {_short(last)}, and rhythm.candidates is {said(every)}"
    if every is None:
        return Part(CANDIDATES, "", False, None, why)
    since = next_after(last, every)
    is_again = as_of == known.newest  # what changed may be a source
    is_due = is_built and (since <= as_of or is_again)
    return Part(CANDIDATES, "", is_due, as_of if is_due and is_again else since, why)


def _floor(moment: datetime, grid: timedelta) -> datetime:
    """Return the last whole day (or hour) by a moment, in UTC."""
    return moment - (moment - EPOCH) % grid


def _short(moment: datetime) -> str:
    form = "%Y-%m-%d" if _floor(moment, DAY) == moment else "%Y-%m-%d %H:%M"
    return moment.strftime(form)


def _key(as_of: datetime) -> str:
    return as_of.astimezone(UTC).isoformat(timespec="microseconds")


def _of_row(row: Mapping[str, Any]) -> Key:
    return row["kind"], row["name"], row["version"], row["fit"]
