"""What a release is made of: noted from what is published, and bound again for what answers."""

from collections.abc import Collection, Iterable, Set
from datetime import datetime

import sqlalchemy as sa

from models.lines import (
    Aggregator,
    CandidateSource,
    candidate_lines,
    catalogue_lines,
    encoder_lines,
    ranker_lines,
)
from models.rankers.package import is_packaged, read_manifest
from operations.fits import FITS, LINE, SPACE, Fits, Key, key_of, listing_sources, seen_until
from operations.ledger import Ledger, now_text
from operations.rankers import RANKER, made_fits
from operations.releases import (
    RELEASE_FITS,
    RELEASES,
    Release,
    Target,
    release_of,
    releases,
    serving,
)
from transformations import names
from transformations.config import Config
from transformations.errors import InputError

SOURCE = "source"


def served_fits(config: Config, target: Target = "online") -> Fits:
    """Return the fits that a target answers by: its release's; all that there are without one."""
    number = serving(config, target)
    return Fits(config) if number is None else fits_of(config, number)


def served_lines(config: Config, target: Target = "online") -> list[Aggregator]:
    """Return the catalogue's lines as the fits that a target answers by, if they are made."""
    return served_fits(config, target).made(catalogue_lines(config))


def fits_of(config: Config, number: int) -> Fits:
    """Return the fits of a release.

    Raises:
        InputError: there is no such one.
    """
    return Fits(config).of_release(number, release_of(config, number).fits)


def sources_of(config: Config, fits: Fits) -> list[CandidateSource]:
    """Return the candidate sources that a release names; all of the catalogue without one."""
    lines = candidate_lines(config)
    if fits.release is None:
        return list(lines)
    named = {key[:3] for key in release_of(config, fits.release).fits}
    return [line for line in lines if (SOURCE, _source_name(line), line.version) in named]


def published_lists(config: Config) -> list[tuple[CandidateSource, Config]]:
    """Return the candidate sources that keep lists, each with a space that it reads.

    First as `listing_sources`, then those of the spaces of before that a release still names.
    """
    fits, found = Fits(config), listing_sources(config)
    named = {key for one in releases(config) if one.is_living for key in one.fits}
    for space in fits.kept_spaces():
        if (SPACE, space.encoder, space.version, space.fit) in named:
            encoder, own = names.fitted(space.encoder, space.version), config.in_space(space)
            found += [(x, own) for x in candidate_lines(config) if x.lists and x.space == encoder]
    return found


def note_release(config: Config) -> Release | None:
    """Note what is published now as the next release; None where there is one like it.

    Call it when all that was fitted is online: a fit that nothing was published from is no part.

    Raises:
        InputError: what is published lacks a part of the newest release that the catalogue names.
    """
    every, fits, until = releases(config), *_published(config)
    if not fits or any(one.fits == fits for one in every if one.is_living):
        return None
    if every and every[0].is_living:
        missing = _missing(config, every[0].fits, fits)
        if missing:
            raise InputError(
                f"no release is made of what is published: expected all that {every[0]} has, got "
                f"none of {', '.join(missing)} in the newest item space. The next run makes it "
                "where there is enough to learn from; to take it out, remove its line"
            )
    with Ledger(config).engine.begin() as connection:
        number = connection.execute(
            sa.insert(RELEASES)
            .values(made_at=now_text(), fitted_until=until and until.isoformat())
            .returning(RELEASES.c.number)
        ).scalar_one()
        columns = ("kind", "name", "version", "fit")
        rows = [{"release": number, **dict(zip(columns, key, strict=True))} for key in fits]
        connection.execute(sa.insert(RELEASE_FITS), rows)
        # Its names never stand for anything else from here on: it may serve, and come back.
        for kind, name, version, fit in fits:
            mine = sa.and_(
                FITS.c.kind == kind,
                FITS.c.name == name,
                FITS.c.version == version,
                FITS.c.fit == fit,
                FITS.c.used_at.is_(None),
            )
            connection.execute(sa.update(FITS).where(mine).values(used_at=now_text()))
    return release_of(config, number)


def _published(config: Config) -> tuple[set[Key], datetime | None]:
    """Return the newest fits that are published, with all that their rankers read.

    And the moment that any of them saw last.
    """
    fits = Fits(config).published()
    spaces = {space for space in fits.spaces.values() if fits.is_made(space)}
    lines = fits.made(catalogue_lines(config))
    every = {line.view: line for line in fits.other_fits(()) if fits.is_made(line)} | {
        line.view: line for line in lines
    }
    found: set[Key] = set()
    moments: list[datetime | None] = []
    for ranker in ranker_lines(config):
        for fit in reversed(made_fits(config, ranker)):
            one = ranker.of_fit(fit)
            if not is_packaged(one, config):
                continue
            manifest = read_manifest(config, one)
            reads = [own["view"] for own in manifest.get("fits", {}).values()]
            if all(view in every for view in reads):
                found.add((RANKER, one.name, one.version, one.fit))
                lines += [every[view] for view in reads if every[view] not in lines]
                moments.append(datetime.fromisoformat(manifest["trained_until"]))
                break
    spaces |= {line.config_of(config).space for line in lines}
    moments += [seen_until(line, config) for line in lines]
    found |= {key_of(space) for space in spaces} | {key_of(line) for line in lines}
    found |= set(_sources(config, fits, found))
    return found, max((moment for moment in moments if moment is not None), default=None)


def _sources(config: Config, fits: Fits, found: Set[Key]) -> Iterable[Key]:
    """Yield the candidate sources whose space or aggregator is among the fits found."""
    spaces = fits.spaces
    for line in candidate_lines(config):
        fit: int | None = 1
        if line.space is not None:
            space = spaces[line.space]
            fit = space.fit if (SPACE, space.encoder, space.version, space.fit) in found else None
        elif (aggregator := getattr(line, "aggregator", None)) is not None:
            of = [
                key[3] for key in found if key[0] == LINE and names.fitted(*key[1:3]) == aggregator
            ]
            fit = max(of, default=None)
        if fit is not None:
            yield SOURCE, _source_name(line), line.version, fit


def _source_name(line: CandidateSource) -> str:
    return f"{line.kind}_{line.name}"


def _missing(config: Config, before: Set[Key], after: Set[Key]) -> list[str]:
    """Return what a release had of the catalogue's lines and rankers that another lacks."""
    named = {(LINE, line.name, line.version) for line in catalogue_lines(config)}
    named |= {(RANKER, line.name, line.version) for line in ranker_lines(config)}
    named |= {(SPACE, line.name, line.version) for line in encoder_lines(config)}
    lacks = {key[:3] for key in before} & named - {key[:3] for key in after}
    return sorted(names.fitted(name, version) for _, name, version in lacks)


def only_in(config: Config, numbers: Collection[int]) -> list[Key]:
    """Return the fits that these releases name, and no other living one."""
    every = releases(config)
    others = {
        key for one in every if one.is_living and one.number not in numbers for key in one.fits
    }
    return sorted({key for one in every if one.number in numbers for key in one.fits} - others)


def dead_fits(config: Config) -> list[Key]:
    """Return the fits that retired releases name, and no living one does."""
    return only_in(config, [one.number for one in releases(config) if not one.is_living])
