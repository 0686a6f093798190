"""The lines of a workspace: what its catalogue file says now, loaded by path."""

import runpy
from collections.abc import Iterable, Iterator

from models.spec import Aggregator
from transformations.config import Config
from transformations.errors import InputError
from transformations.names import Space

__all__ = ["Aggregator", "by_space", "catalogue_lines"]


def catalogue_lines(config: Config) -> tuple[Aggregator, ...]:
    """Return the AGGREGATORS of the workspace's catalogue, as the file is now.

    They are definitions, each as its first fit; `operations.fits.lines_of` knows what is served.
    The file is run each time and never imported: each workspace has its own, and a long-running
    service sees a changed one.

    Raises:
        InputError: the file fails, or has no AGGREGATORS that are all aggregators.
    """
    file = config.catalogue
    try:
        scope = runpy.run_path(str(file))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except Exception as error:
        raise InputError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    lines = scope.get("AGGREGATORS")
    if not isinstance(lines, tuple | list) or not all(
        isinstance(line, Aggregator) for line in lines
    ):
        raise InputError(
            f"{file}: expected AGGREGATORS, a tuple of lines such as Average(version=1), got "
            f"{lines!r}"
        )
    return tuple(lines)


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
