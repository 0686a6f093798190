"""The lines of a workspace: what its catalogue file says now, loaded by path."""

import runpy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from models.candidates.spec import CLUSTER, CandidateSource, Popular
from models.items.spec import Given, ItemEncoder, TfidfSvd
from models.rankers.spec import Ranker
from models.spec import Aggregator
from transformations import names
from transformations.config import Config
from transformations.errors import InputError
from transformations.names import Space
from transformations.stats.columns import profile_columns

__all__ = [
    "Aggregator",
    "CandidateSource",
    "ItemEncoder",
    "Ranker",
    "by_space",
    "candidate_lines",
    "catalogue_lines",
    "encoder_lines",
    "ranker_lines",
    "similarity_of",
]


def catalogue_lines(config: Config) -> tuple[Aggregator, ...]:
    """Return the AGGREGATORS of the workspace's catalogue, as the file is now.

    They are definitions, each as its first fit; `operations.fits.lines_of` knows what is served.
    The file is run each time and never imported: each workspace has its own, and a long-running
    service sees a changed one.

    Raises:
        InputError: the file fails, has no AGGREGATORS that are all aggregators, or one reads items
            of an encoder that ITEM_ENCODERS does not name.
    """
    scope = _run(config)
    lines = scope.get("AGGREGATORS")
    if not isinstance(lines, tuple | list) or not all(
        isinstance(line, Aggregator) for line in lines
    ):
        raise InputError(
            f"{config.catalogue}: expected AGGREGATORS, a tuple of lines such as "
            f"Average(version=1), got {lines!r}"
        )
    known = [str(line) for line in _encoders(config, scope)]
    for line in lines:
        if line.items and line.items not in known:
            raise InputError(
                f"{config.catalogue}: {line}: items: expected one of {', '.join(known)}, as "
                f"ITEM_ENCODERS names them, got {line.items!r}"
            )
    return tuple(lines)


def encoder_lines(config: Config) -> tuple[ItemEncoder, ...]:
    """Return the ITEM_ENCODERS of the workspace's catalogue, as the file is now.

    A catalogue without them has what `items` of activity.yaml asks for: TfidfSvd for text, and the
    given vectors of each column.

    Raises:
        InputError: the file fails, or has ITEM_ENCODERS that are no encoders, none, one twice, or
            one that reads what `items` of activity.yaml does not name.
    """
    return _encoders(config, _run(config))


def candidate_lines(config: Config) -> tuple[CandidateSource, ...]:
    """Return the CANDIDATES of the workspace's catalogue, as the file is now; none without them.

    Raises:
        InputError: the file fails, or has CANDIDATES that are no candidate sources, one twice, or
            one that reads a space or an aggregator which the catalogue does not name.
    """
    scope = _run(config)
    lines = scope.get("CANDIDATES", ())
    if not isinstance(lines, tuple | list) or not all(
        isinstance(line, CandidateSource) for line in lines
    ):
        raise InputError(
            f"{config.catalogue}: expected CANDIDATES, a tuple of lines such as "
            f"Popular(version=1), got {lines!r}"
        )
    _refuse_twice(config, "CANDIDATES", [f"{line.table} {line}".strip() for line in lines])
    encoders = [str(line) for line in _encoders(config, scope)]
    aggregators = [str(line) for line in scope.get("AGGREGATORS", ())]
    for line in lines:
        for named, known, section in (
            (line.space, encoders, "ITEM_ENCODERS"),
            (getattr(line, "aggregator", None), aggregators, "AGGREGATORS"),
        ):
            if named is not None and named not in known:
                raise InputError(
                    f"{config.catalogue}: {line}: expected one of {', '.join(known)}, as {section} "
                    f"names them, got {named!r}"
                )
        _refuse_by(config, line)
    return tuple(lines)


def _refuse_by(config: Config, line: CandidateSource) -> None:
    """Raise InputError where a line goes by a category that profiles do not have."""
    named = line.profile if isinstance(line, Popular) else None
    known = [name for name, kind in profile_columns(config).items() if kind == "category"]
    if named is not None and named not in known:
        raise InputError(
            f"{config.catalogue}: {line}: by: expected {CLUSTER!r} or one of "
            f"{', '.join(known) or 'no category'}, as members.categorical of {config.file.name} "
            f"has them, got {named!r}"
        )


def ranker_lines(config: Config) -> tuple[Ranker, ...]:
    """Return the RANKERS of the workspace's catalogue, as the file is now; none without them.

    They are definitions, each as its first fit.

    Raises:
        InputError: the file fails, or has RANKERS that are no rankers, one twice, or one that reads
            an aggregator which AGGREGATORS does not name, or weighs an action that there is not.
    """
    scope = _run(config)
    lines = scope.get("RANKERS", ())
    if not isinstance(lines, tuple | list) or not all(isinstance(line, Ranker) for line in lines):
        raise InputError(
            f"{config.catalogue}: expected RANKERS, a tuple of lines such as Linear(version=1), "
            f"got {lines!r}"
        )
    _refuse_twice(config, "RANKERS", [str(line) for line in lines])
    known = [str(line) for line in scope.get("AGGREGATORS", ())]
    for line in lines:
        unknown = [name for name in line.aggregators if name not in known]
        if unknown:
            raise InputError(
                f"{config.catalogue}: {line}: aggregators: expected some of {', '.join(known)}, as "
                f"AGGREGATORS names them, got {', '.join(map(repr, unknown))}"
            )
        try:
            line.heads(config.rules)
        except InputError as error:
            raise InputError(f"{config.catalogue}: {error}") from error
    return tuple(lines)


def encoder_of(config: Config, space: Space) -> ItemEncoder | None:
    """Return the encoder that a space was made by; None where it left the catalogue."""
    return next((line for line in encoder_lines(config) if line.in_fit(space.fit) == space), None)


def similarity_of(config: Config, line: Aggregator | None = None) -> names.Similarity:
    """Return by what vectors of an item space are compared: that of a line, or the configuration's.

    Its encoder says so; where that left the catalogue, the line's package.
    """
    space = config.space if line is None else line.config_of(config).space
    encoder = encoder_of(config, space)
    if encoder is not None:
        return encoder.similarity
    package = line.manifest(config) if line is not None and line.is_packaged(config) else {}
    similarity: names.Similarity = (package.get("item_encoder") or {}).get("similarity", "cosine")
    return similarity


def _run(config: Config) -> dict[str, Any]:
    file = config.catalogue
    try:
        return runpy.run_path(str(file))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except Exception as error:
        raise InputError(f"{file} cannot be run: {type(error).__name__}: {error}") from error


def _encoders(config: Config, scope: dict[str, Any]) -> tuple[ItemEncoder, ...]:
    lines = scope.get("ITEM_ENCODERS")
    if lines is None:
        text: list[ItemEncoder] = [TfidfSvd(version=1)] if config.items.has_text else []
        return (*text, *map(_given, config.items.embedding))
    if (
        not isinstance(lines, tuple | list)
        or not lines
        or not all(isinstance(line, ItemEncoder) for line in lines)
    ):
        raise InputError(
            f"{config.catalogue}: expected ITEM_ENCODERS, a tuple of lines such as "
            f"TfidfSvd(version=1), got {lines!r}"
        )
    _check(config, lines)
    return tuple(lines)


def _given(column: str) -> Given:
    return Given(name=names.given_encoder(column), version=1, column=column)


def _check(config: Config, lines: Sequence[ItemEncoder]) -> None:
    _refuse_twice(config, "ITEM_ENCODERS", [str(line) for line in lines])
    for line in lines:
        if isinstance(line, Given) and line.column not in config.items.embedding:
            raise InputError(
                f"{config.catalogue}: {line}: expected `items.embedding` of {config.file.name} to "
                f"name the column {line.column!r}, got {config.items.embedding or 'none'}"
            )
        if isinstance(line, TfidfSvd) and not config.items.has_text:
            raise InputError(
                f"{config.catalogue}: {line} reads text: expected columns in `items.text` or "
                f"`items.categories` of {config.file.name}, got none"
            )


def _refuse_twice(config: Config, section: str, listed: list[str]) -> None:
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise InputError(
            f"{config.catalogue}: {section}: expected each name and version once, got "
            f"{', '.join(twice)} twice; give one of them another name"
        )


def by_space(
    config: Config, lines: Iterable[Aggregator]
) -> Iterator[tuple[Config, list[Aggregator]]]:
    """Yield each item space's configuration with the lines that read it, in order of appearance.

    Without a line, the configuration's own space.
    """
    together: dict[Space, list[Aggregator]] = {}
    for line in lines:
        together.setdefault(line.config_of(config).space, []).append(line)
    if not together:
        yield config, []
    for space, of_space in together.items():
        yield config.in_space(space), of_space
