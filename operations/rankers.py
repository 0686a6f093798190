"""Which fits of rankers there are, in the ledger of all fits.

A ranker writes no rows, so a new fit freezes nothing: each training is the next fit, and the newest
one that is not retired serves.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from models.rankers.spec import Ranker
from operations.fits import FITS, Fits
from operations.ledger import Ledger, ledger_exists, now_text
from transformations.config import Config

RANKER = "ranker"


def made_fits(config: Config, line: Ranker) -> Sequence[int]:
    """Return the fits of a line that are made and not retired, the newest last."""
    if not ledger_exists(config):
        return ()
    query = (
        sa.select(FITS.c.fit).where(*_of(line), FITS.c.retired_at.is_(None)).order_by(FITS.c.fit)
    )
    with Ledger(config).engine.connect() as connection:
        return list(connection.execute(query).scalars())


def made(config: Config, lines: Sequence[Ranker]) -> list[Ranker]:
    """Return every fit of the lines that is made and not retired, the newest of a line last."""
    return [line.of_fit(fit) for line in lines for fit in made_fits(config, line)]


def newest(config: Config, lines: Sequence[Ranker], fits: Fits | None = None) -> list[Ranker]:
    """Return the lines that are made, each as its newest fit.

    Args:
        fits: Only those among them: what a release names.
    """
    all_fits = [(line, made_fits(config, line)) for line in lines]
    if fits is not None:
        all_fits = [
            (line, [fit for fit in made if fits.names((RANKER, line.name, line.version, fit))])
            for line, made in all_fits
        ]
    return [line.of_fit(made[-1]) for line, made in all_fits if made]


def next_fit(config: Config, line: Ranker) -> Ranker:
    """Return the fit that is to be made: the number after every one that there ever was."""
    with Ledger(config).engine.connect() as connection:
        query = sa.select(sa.func.max(FITS.c.fit)).where(*_of(line))
        return line.of_fit(1 + (connection.execute(query).scalar_one() or 0))


def note_made(config: Config, line: Ranker) -> None:
    """Note that a fit was made: from now on it serves."""
    with Ledger(config).engine.begin() as connection:
        connection.execute(
            sa.insert(FITS).values(
                kind=RANKER,
                name=line.name,
                version=line.version,
                fit=line.fit,
                made_at=now_text(),
            )
        )


def _of(line: Ranker) -> tuple[sa.ColumnElement[bool], ...]:
    return (FITS.c.kind == RANKER, FITS.c.name == line.name, FITS.c.version == line.version)
