"""Which fits there are: what each version became from data, which are served, which are retired.

A version is a definition, raised by a person; a fit is a number that the ledger counts. The first
fit of a version bears its name alone (decay_v1), later ones add theirs (decay_v1_f2). A new fit of
an item space makes a new fit of every line that reads it. A fit freezes when something made by it
was published or backfilled; from then on its name never stands for anything else, and it is served
until it is retired, also when its line leaves the catalogue.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from models.lines import (
    Aggregator,
    CandidateSource,
    ItemEncoder,
    by_space,
    candidate_lines,
    catalogue_lines,
    encoder_lines,
)
from models.manifest import MANIFEST
from models.spec import Packaged
from operations.ledger import METADATA, RUNS, Ledger, ledger_exists, now_text
from transformations.config import Config
from transformations.layout import files_between, span
from transformations.names import Space
from transformations.timestamps import EPOCH

LINE, SPACE = "line", "space"
Key = tuple[str, str, int, int]
"""Kind, name, version and fit of what was made."""
HOLDBACK, SHARE = timedelta(days=28), 10
"""What is held back of the newest data by default: 28 days, or a tenth of the span if shorter."""
Line = TypeVar("Line", bound=Aggregator)

FITS = sa.Table(
    "fit",
    METADATA,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("fit", sa.Integer, primary_key=True),
    # Of a line: the item space that it reads, the path of a package made elsewhere, the stream.
    sa.Column("encoder", sa.String),
    sa.Column("encoder_version", sa.Integer),
    sa.Column("encoder_fit", sa.Integer),
    sa.Column("path", sa.String),
    sa.Column("stream", sa.Boolean),
    sa.Column("made_at", sa.String, nullable=False),
    sa.Column("used_at", sa.String),
    sa.Column("retired_at", sa.String),
)


class Fits:
    """The fits of one workspace, as the ledger has them; without a ledger, none.

    Attributes:
        release: The release that they are narrowed to (`of_release`); None: all that there are.
    """

    def __init__(self, config: Config) -> None:
        """Read the ledger; it is not made here."""
        self.config = config
        self.release: int | None = None
        self._named: Set[Key] | None = None
        self._rows: list[dict[str, Any]] = []
        if ledger_exists(config):
            with Ledger(config).engine.connect() as connection:
                rows = connection.execute(sa.select(FITS).order_by(*FITS.primary_key.columns))
                self._rows = [dict(row) for row in rows.mappings()]

    def of_release(self, release: int, named: Set[Key]) -> Self:
        """Return these fits narrowed to what a release names: only that is present and made.

        Args:
            named: Kind, name, version and fit of each.
        """
        narrowed = copy(self)
        narrowed.release, narrowed._named = release, named
        return narrowed

    def published(self) -> Self:
        """Return these fits narrowed to those that something online was made from."""
        narrowed = copy(self)
        narrowed._named = {_of_row(row) for row in self._rows if row["used_at"] is not None}
        return narrowed

    def names(self, key: Key) -> bool:
        """Whether a fit is among those that these are narrowed to."""
        return self._named is None or key in self._named

    def made(self, lines: Iterable[Line]) -> list[Line]:
        """Return lines of the catalogue as present fits, without those that are not made."""
        bound = self.bind(lines)
        if self._named is not None:
            bound = [line for line in bound if self.is_made(line)]
        return [line for line in bound if line.is_packaged(self.config)]

    @property
    def space(self) -> Space:
        """The present space of the catalogue's first encoder."""
        return next(iter(self.spaces.values()))

    @property
    def spaces(self) -> dict[str, Space]:
        """Each encoder of the catalogue → its newest fit; the next one where it has none."""
        return {str(line): self._space_of(line) for line in encoder_lines(self.config)}

    def all_spaces(self, lines: Iterable[Aggregator]) -> Iterator[tuple[Config, list[Aggregator]]]:
        """Yield each item space's configuration with the lines that read it, as `by_space`.

        Then the spaces that were made and that none of these lines reads: the present ones, and
        those that are kept.
        """
        read = dict.fromkeys([*self.spaces.values(), *self.kept_spaces()], False)
        for own, of_space in by_space(self.config, lines):
            read[own.space] = True
            yield own, of_space
        for space, is_read in read.items():
            if not is_read and self.is_made(space):
                yield self.config.in_space(space), []

    def is_made(self, made: Aggregator | Space) -> bool:
        """Whether the ledger knows this fit, and it is not retired."""
        key = key_of(made)
        return self.names(key) and any(
            row["retired_at"] is None for row in self._rows if _of_row(row) == key
        )

    def not_retired(self) -> set[Key]:
        """Return every fit that is not retired, of rankers too."""
        return {_of_row(row) for row in self._rows if row["retired_at"] is None}

    def is_present(self, space: Space) -> bool:
        """Whether a space may be read: narrowed fits have to name it."""
        return self._named is None or self.is_made(space)

    def _space_of(self, encoder: ItemEncoder) -> Space:
        fits = self._served(SPACE, encoder.name, encoder.version)
        newest = max((row["fit"] for row in fits), default=None)
        if newest is None:
            newest = self.next_fit(SPACE, encoder.name, encoder.version)
        return encoder.in_fit(newest)

    def next_fit(self, kind: str, name: str, version: int) -> int:
        """Return the number after every fit that there ever was: a name never moves."""
        return 1 + max((row["fit"] for row in self._of(kind, name, version)), default=0)

    def bind(
        self,
        lines: Iterable[Line],
        spaces: Mapping[str, Space] | None = None,
        as_next: bool = False,
    ) -> list[Line]:
        """Return lines of the catalogue, each as its newest fit in the item space that it names.

        Args:
            spaces: Other spaces than the present ones, as `spaces` has them.
            as_next: Each as its next fit, which is to be made.
        """
        present = self.spaces if spaces is None else spaces
        first = next(iter(present.values()))
        return [self._bind(line, present.get(line.items, first), as_next) for line in lines]

    def kept(self, current: Iterable[Aggregator]) -> list[Aggregator]:
        """Return the fits that were used, are not retired, and are not among the current lines.

        They are packages by now: the class and settings of their line may be gone.
        """
        return [line for line in self.other_fits(current) if self.is_kept(line)]

    def kept_spaces(self) -> list[Space]:
        """Return the spaces that were used, are not retired, and are not present ones."""
        present = {*self.spaces.values()}
        used = [
            Space(row["name"], row["version"], row["fit"])
            for row in self._rows
            if row["kind"] == SPACE and row["used_at"] and row["retired_at"] is None
        ]
        return [space for space in used if space not in present]

    def other_fits(self, current: Iterable[Aggregator]) -> list[Aggregator]:
        """Return every fit that there ever was, retired ones too, but the current lines'."""
        present = {str(line) for line in current}
        made = [self._package(row) for row in self._rows if row["kind"] == LINE]
        return [line for line in made if str(line) not in present]

    def is_used(self, made: Aggregator | Space) -> bool:
        """Whether something made by this fit was published or backfilled: it is frozen."""
        key = key_of(made)
        return any(row["used_at"] for row in self._rows if _of_row(row) == key)

    def is_kept(self, line: Aggregator) -> bool:
        """Whether a fit was used and is not retired."""
        return any(
            row["used_at"] is not None and row["retired_at"] is None
            for row in self._rows
            if _of_row(row) == key_of(line)
        )

    def _served(self, kind: str, name: str, version: int) -> list[dict[str, Any]]:
        fits = [row for row in self._of(kind, name, version) if row["retired_at"] is None]
        return [row for row in fits if self.names(_of_row(row))]

    def _of(self, kind: str, name: str, version: int) -> list[dict[str, Any]]:
        key = (kind, name, version)
        return [row for row in self._rows if (row["kind"], row["name"], row["version"]) == key]

    def _bind(self, line: Line, space: Space, as_next: bool) -> Line:
        if isinstance(line, Packaged):
            # Made elsewhere: it is what it is, in the fit of the space that its manifest names.
            made = _space_of_package(self.config, line, space)
            ours = {(one.encoder, one.version) for one in self.spaces.values()}
            return line.of_fit(1, made if (made.encoder, made.version) in ours else space)
        fits = [
            row["fit"]
            for row in self._served(LINE, line.name, line.version)
            if _space_of(row) == space
        ]
        if as_next or not fits:
            fits = [self.next_fit(LINE, line.name, line.version)]
        return line.of_fit(max(fits), space)

    def _package(self, row: dict[str, Any]) -> Aggregator:
        key = row["name"], row["version"], row["fit"]
        path = row["path"] or str(self.config.layout.artifact(*key))
        package = Packaged(path, name=row["name"], version=row["version"], stream=row["stream"])
        return package.of_fit(row["fit"], _space_of(row))


def current_lines(config: Config) -> list[Aggregator]:
    """Return the catalogue's lines, each as the fit that is served."""
    return Fits(config).bind(catalogue_lines(config))


def made_lines(config: Config) -> list[Aggregator]:
    """Return the catalogue's lines as their newest fits, without those that are not made."""
    return Fits(config).made(catalogue_lines(config))


def lines_of(config: Config) -> list[Aggregator]:
    """Return all that is served: the catalogue's lines, then the fits that are kept."""
    fits = Fits(config)
    current = fits.bind(catalogue_lines(config))
    return [*current, *fits.kept(current)]


def embedded_lines(config: Config) -> list[Aggregator]:
    """Return the fits that get new rows: all that is served but those that stand still."""
    fits = Fits(config)
    current = fits.bind(catalogue_lines(config))
    return [*current, *(line for line in fits.kept(current) if not stands_still(line, config))]


def listing_sources(
    config: Config, fits: "Fits | None" = None
) -> list[tuple[CandidateSource, Config]]:
    """Return the candidate sources that keep lists, each with the present space that it reads.

    Without those whose space is not made yet. One that names no space has the first.

    Args:
        fits: Those of a release. Default: the newest.
    """
    found = []
    fits = Fits(config) if fits is None else fits
    for line in candidate_lines(config):
        if line.lists is None:
            continue
        if line.space is None:
            found.append((line, config.in_space(fits.space)))
        elif fits.is_made(fits.spaces[line.space]):
            found.append((line, config.in_space(fits.spaces[line.space])))
    return found


def stands_still(line: Aggregator, config: Config) -> list[str]:
    """Return in what a kept fit differs from the configuration, so that it can make no new rows."""
    from models.packaging import differences  # TensorFlow, where rows are made anyway

    return differences(line, config)


def say_kept(kept: Sequence[Aggregator], still: Sequence[Aggregator] = ()) -> list[str]:
    """Say which fits are served beside the current ones, and how that ends."""
    how = "activity retire NAME VERSION --fit FIT takes one down"
    said = []
    if kept:
        said.append(f"kept beside the catalogue's newest: {', '.join(map(str, kept))}; {how}")
    if still:
        names = ", ".join(map(str, still))
        said.append(
            f"kept as they are, made with other settings, so without new rows: {names}; {how}"
        )
    return said


def chosen(config: Config, lines: Sequence[Aggregator] | None) -> Sequence[Aggregator]:
    """Return the lines that a caller gave, or all that is served where it gave none."""
    return lines_of(config) if lines is None else lines


def fit_until(config: Config, as_of: datetime, at_least: timedelta = timedelta(0)) -> datetime:
    """Return the time before which a run at `as_of` fits: as_of minus fit_holdback.

    Args:
        at_least: Hold back this much in any case: what is backfilled in the same run.
    """
    held_back = config.fit_holdback
    if held_back is None:
        ends = span(files_between(config.layout.activity, EPOCH, as_of))
        held_back = min(HOLDBACK, (as_of - ends[0]) / SHARE) if ends else HOLDBACK
    return (as_of - max(held_back, at_least)).replace(minute=0, second=0, microsecond=0)


def seen_until(line: Aggregator, config: Config) -> datetime | None:
    """Return the moment that a fit saw last, its space's included; None if it saw nothing.

    Nothing that it makes may stand in a row before that moment.
    """
    from models.items.saved import fitted_until  # scikit-learn, and every command imports this

    own = line.config_of(config)
    trained = line.manifest(own)["trained_until"]
    moments = [fitted_until(own), datetime.fromisoformat(trained) if trained else None]
    return max((moment.astimezone(UTC) for moment in moments if moment), default=None)


def note_fits(
    config: Config, lines: Iterable[Aggregator], used: bool, spaces: Iterable[Space] = ()
) -> None:
    """Note that these fits, and the item spaces that they read, were made; or that they are used.

    In one transaction: a new space and the lines that read it become current together.

    Args:
        spaces: Further spaces.
    """
    lines = list(lines)
    spaces = {*spaces, *(line.config_of(config).space for line in lines)} or {config.space}
    fits: list[Aggregator | Space] = [*sorted(spaces), *lines]
    now = now_text()
    with Ledger(config).engine.begin() as connection:
        for made in fits:
            kind, name, version, fit = key_of(made)
            key = {"kind": kind, "name": name, "version": version, "fit": fit}
            where = sa.and_(*(FITS.c[column] == value for column, value in key.items()))
            if connection.execute(sa.select(FITS.c.fit).where(where)).first() is None:
                values = key | _details(config, made) | {"made_at": now}
                connection.execute(sa.insert(FITS).values(values))
            if used:
                unused = sa.and_(where, FITS.c.used_at.is_(None))
                connection.execute(sa.update(FITS).where(unused).values(used_at=now))


def retire_fit(config: Config, made: Aggregator | Space) -> None:
    """Note that a fit is no longer served; its number is never given again."""
    retire_fits(config, [key_of(made)])


def retire_fits(config: Config, keys: Iterable[Key]) -> None:
    """As `retire_fit`, of several, rankers' too, in one transaction."""
    columns = (FITS.c.kind, FITS.c.name, FITS.c.version, FITS.c.fit)
    unretired = sa.and_(sa.tuple_(*columns).in_([*keys]), FITS.c.retired_at.is_(None))
    with Ledger(config).engine.begin() as connection:
        connection.execute(sa.update(FITS).where(unretired).values(retired_at=now_text()))


def adopt(config: Config) -> None:
    """Note the packages of a workspace that published before there were fits, as first fits."""
    with Ledger(config).engine.connect() as connection:
        known = connection.execute(sa.select(sa.func.count()).select_from(FITS)).scalar_one()
        published = sa.select(RUNS.c.run_id).where(RUNS.c.published_at.is_not(None)).limit(1)
        if known or connection.execute(published).first() is None:
            return
    found: list[Aggregator] = []
    for manifest in sorted(config.layout.artifacts.glob(f"*/v*/{MANIFEST}")):
        number = manifest.parent.name.removeprefix("v")
        if number.isdigit():
            path, name = str(manifest.parent), manifest.parent.parent.name
            package = Packaged(path, name=name, version=int(number))
            space = _space_of_package(config, package, config.space)
            found.append(package.of_fit(1, space))
    note_fits(config, found, used=True)


def key_of(made: Aggregator | Space) -> Key:
    """Return kind, name, version and fit."""
    if isinstance(made, Space):
        return SPACE, made.encoder, made.version, made.fit
    return LINE, made.name, made.version, made.fit


def _of_row(row: dict[str, Any]) -> Key:
    return row["kind"], row["name"], row["version"], row["fit"]


def _details(config: Config, made: Aggregator | Space) -> dict[str, Any]:
    if isinstance(made, Space):
        return {}
    space = made.config_of(config).space
    own = isinstance(made, Packaged) and not config.path(made.path).is_relative_to(
        config.layout.artifacts
    )
    return {
        "encoder": space.encoder,
        "encoder_version": space.version,
        "encoder_fit": space.fit,
        "path": made.path if own and isinstance(made, Packaged) else None,
        "stream": made.stream,
    }


def _space_of(row: dict[str, Any]) -> Space:
    return Space(row["encoder"], row["encoder_version"], row["encoder_fit"])


def _space_of_package(config: Config, line: Packaged, present: Space) -> Space:
    """Return the space that a package's manifest names; the present one where it is not there."""
    if not line.is_packaged(config):
        return present
    made = line.manifest(config)["item_encoder"]
    if made is None:  # it reads no items
        return present
    return Space(made["name"], made["version"], made["fit"])
