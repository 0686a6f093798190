"""The lines of a workspace: what its catalogue file says now, loaded by path."""

import runpy
from collections.abc import Sequence

from models.spec import Aggregator
from transformations.config import Config
from transformations.errors import InputError

__all__ = ["Aggregator", "chosen", "lines_of"]


def lines_of(config: Config) -> tuple[Aggregator, ...]:
    """Return the AGGREGATORS of the workspace's catalogue, as the file is now.

    It is run each time and never imported: each workspace has its own, and a long-running service
    sees a changed file.

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


def chosen(config: Config, lines: Sequence[Aggregator] | None) -> Sequence[Aggregator]:
    """Return the lines that a caller gave, or the workspace's own where it gave none."""
    return lines_of(config) if lines is None else lines
