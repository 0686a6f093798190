"""Where a fit begins: from nothing, or from the weights of the fit before it.

A fit that goes on from another is a fit of its own, with its own name, package and release. The
ledger keeps its parent, so the way back to the last full one is known. All fits of that way share
coordinates: entry i of a vector goes on to mean what it meant, so that whatever learned from the
vectors of one may go on learning from those of the next. They are compared by nobody.

What goes on begins with what serves, since only that was judged; before there is a release, with
the newest fit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from models.lines import Aggregator, ItemEncoder, Ranker
from models.spec import Learned
from operations.fits import FITS, LINE, SPACE, Key
from operations.ledger import METADATA, Ledger, ledger_exists
from operations.rankers import RANKER
from operations.readers import Lines, incremental
from operations.releases import release_of, serving
from transformations import names
from transformations.config import Config
from transformations.names import Space

STARTS = sa.Table(
    "start",
    METADATA,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("fit", sa.Integer, primary_key=True),
    # Null of a full fit.
    sa.Column("parent", sa.Integer),
    sa.Column("since_full", sa.Integer, nullable=False),
    sa.Column("why", sa.String, nullable=False),
)
"""One row per fit whose line is trained by `train: incremental`."""


@dataclass(frozen=True)
class Start:
    """Where a fit begins.

    Attributes:
        parent: The number of the fit that it goes on from; None of a full one.
        since_full: How many incremental fits there are since the last full one, with this one.
        why: Of a full one, why it is.
    """

    parent: int | None
    since_full: int = 0
    why: str = ""

    def __str__(self) -> str:
        if self.parent is None:
            return f"full: {self.why}"
        return f"incremental ({ordinal(self.since_full)} since full)"


class Starts:
    """Where the next fits of a workspace's lines begin, by the ledger and the configuration.

    Attributes:
        goes_on: The lines that `train` of activity.yaml asks to go on.
    """

    def __init__(self, config: Config, lines: Lines | None = None) -> None:
        """Read the ledger; it is not made here.

        Raises:
            InputError: as `operations.readers.incremental`.
        """
        self.config = config
        self.lines = Lines.of(config) if lines is None else lines
        self.goes_on = incremental(config, self.lines)
        self._fits: dict[Key, dict[str, Any]] = {}
        self._starts: dict[Key, Start] = {}
        self._serving: frozenset[Key] = frozenset()
        if not ledger_exists(config):
            return
        with Ledger(config).engine.connect() as connection:
            for row in connection.execute(sa.select(FITS)).mappings():
                self._fits[_key(row)] = dict(row)
            for row in connection.execute(sa.select(STARTS)).mappings():
                self._starts[_key(row)] = Start(row["parent"], row["since_full"], row["why"])
        number = serving(config)
        if number is not None:
            self._serving = frozenset(release_of(config, number).fits)

    def of_space(self, encoder: ItemEncoder) -> Start | None:
        """Return where an encoder's next fit begins; None where it is not asked to go on."""
        if str(encoder) not in self.goes_on:
            return None
        return self._next(SPACE, encoder.name, encoder.version)

    def of_line(self, line: Aggregator, space: Space) -> Start | None:
        """Return where a line's next fit begins; None where nothing goes on.

        A formula, and a line whose weights come of its space's training, begin as the space does.

        Args:
            space: What it reads. Where that goes on, `note` or `suppose` has said so.
        """
        if not isinstance(line, Learned) or self.lines.trained_with(line) is not None:
            of_space = self._starts.get((SPACE, space.encoder, space.version, space.fit))
            if of_space is None or of_space.parent is None:
                return None
            start = self._next(LINE, line.name, line.version, counted=False)
            return replace(start, since_full=of_space.since_full) if start.parent else None
        if names.fitted(line.name, line.version) not in self.goes_on:
            return None
        start = self._next(LINE, line.name, line.version)
        if start.parent is None:
            return start
        before = self.space_of(line, start.parent)
        if self._root_of(space) != self._root_of(before):
            return Start(None, why=f"{space} has other coordinates than {before}")
        return start

    def of_ranker(self, line: Ranker, changed: Iterable[str] = ()) -> Start | None:
        """Return where a ranker's next fit begins; None where it is not asked to go on.

        Args:
            changed: What it reads in other coordinates than its newest fit did.
        """
        if names.fitted(line.name, line.version) not in self.goes_on:
            return None
        start, changed = self._next(RANKER, line.name, line.version), [*changed]
        if start.parent is None or not changed:
            return start
        return Start(None, why=f"{', '.join(changed)}, which it reads, has other coordinates now")

    def note(self, key: Key, start: Start | None) -> None:
        """Note where a fit begins, in place of what was noted of a try before; None: nowhere."""
        known = self._starts.pop(key, None)
        if start is not None:
            self.suppose(key, start)
        if start != known:
            _write(self.config, key, start)

    def suppose(self, key: Key, start: Start) -> None:
        """Take it that a fit begins there, without noting it."""
        self._starts[key] = start

    def space_of(self, line: Aggregator, fit: int) -> Space:
        """Return the space that a fit of a line reads, as the ledger has it."""
        row = self._fits[LINE, line.name, line.version, fit]
        return Space(row["encoder"], row["encoder_version"], row["encoder_fit"])

    def root(self, key: Key) -> Key:
        """Return the full fit that a fit goes back to."""
        while (start := self._starts.get(key)) is not None and start.parent is not None:
            key = (*key[:3], start.parent)
        return key

    def root_of_view(self, view: str) -> Key | None:
        """Return the full fit that the line of a view goes back to; None of an unknown one."""
        for key in self._fits:
            if key[0] == LINE and names.view(*key[1:]) == view:
                return self.root(key)
        return None

    def _next(self, kind: str, name: str, version: int, counted: bool = True) -> Start:
        of = [key for key in self._fits if key[:3] == (kind, name, version)]
        if not of:
            return Start(None, why="it is the first fit")
        parent = max([key for key in of if key in self._serving] or of)
        if self._fits[parent]["retired_at"] is not None:
            return Start(None, why=f"{names.fitted(*parent[1:])}, its newest fit, is retired")
        before = self._starts.get(parent)
        since_full = 1 + (0 if before is None else before.since_full)
        every = self.config.train.full_every
        if counted and since_full >= every:
            return Start(None, why="every fit is" if every == 1 else f"every {ordinal(every)} is")
        return Start(parent[3], since_full)

    def _root_of(self, space: Space) -> Key:
        return self.root((SPACE, space.encoder, space.version, space.fit))


def _write(config: Config, key: Key, start: Start | None) -> None:
    row = dict(zip(("kind", "name", "version", "fit"), key, strict=True))
    where = sa.and_(*(STARTS.c[column] == value for column, value in row.items()))
    with Ledger(config).engine.begin() as connection:
        connection.execute(sa.delete(STARTS).where(where))
        if start is not None:
            values = {"parent": start.parent, "since_full": start.since_full, "why": start.why}
            connection.execute(sa.insert(STARTS).values(**row, **values))


def starts_of(config: Config) -> dict[Key, Start]:
    """Return where each fit began whose line is asked to go on, as the ledger has it."""
    if not ledger_exists(config):
        return {}
    with Ledger(config).engine.connect() as connection:
        rows = connection.execute(sa.select(STARTS)).mappings().all()
    return {_key(row): Start(row["parent"], row["since_full"], row["why"]) for row in rows}


def ordinal(number: int) -> str:
    """Write a number that counts.

    >>> [ordinal(number) for number in (1, 2, 3, 4, 11, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd']
    """
    last = 0 if 10 < number % 100 < 20 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _key(row: Any) -> Key:
    return row["kind"], row["name"], row["version"], row["fit"]
