"""Taking fits down: what goes of a line or a release, counted before, and removed."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from feast import FeatureStore
from rich.table import Table

from models.lines import candidate_lines
from operations.composition import dead_fits
from operations.fits import LINE, SPACE, Fits, Key, key_of, retire_fits
from operations.rankers import RANKER
from operations.releases import retire, to_retire
from pipelines.progress import Stages, megabytes, number, plain_table, short
from serving import publish
from transformations import names
from transformations.config import Config
from transformations.names import Space


@dataclass(frozen=True)
class Going:
    """What is taken down.

    Attributes:
        fits: Kind, name, version and fit of each, as the ledger calls them.
        views: Names of the Feast views whose rows go.
        folders: What is removed with them. Packages stay.
        services: What rankers read, and what goes with it.
    """

    fits: Sequence[Key]
    views: Sequence[str]
    folders: Sequence[Path]
    services: Sequence[str]


def going(config: Config, fits: Iterable[Key]) -> Going:
    """Return what goes with these fits: of lines, item spaces and rankers.

    Call it while nothing that goes on reads them.
    """
    fits = sorted({*fits})
    lines = {key_of(line): line for line in Fits(config).other_fits(())}
    views: list[str] = []
    folders: list[Path] = []
    services: list[str] = []
    for key in fits:
        kind, name, version, fit = key
        if kind == LINE and key in lines:
            views.append(lines[key].view)
            folders.append(config.layout.embeddings(lines[key].view))
            services.append(lines[key].service)
        elif kind == SPACE:
            space = Space(name, version, fit)
            views.append(space.view)
            encoder = names.fitted(name, version)
            of_space = [x for x in candidate_lines(config) if x.lists and x.space == encoder]
            views += [line.view(space) for line in of_space]
            folders += [config.layout.lists(line.view(space)) for line in of_space]
            folders += [config.layout.item_table(space), config.layout.items(space)]
        elif kind == RANKER:
            services.append(names.ranker_service(names.fitted(name, version, fit)))
    return Going(fits, views, folders, services)


def counted(store: FeatureStore, what: Going) -> Table:
    """Lay out what is to be removed, and how much it is."""
    table = plain_table("To be removed")
    table.add_column("what", overflow="fold")
    table.add_column("how much", justify="right")
    for view, rows in publish.what_retires(store, what.views).items():
        table.add_row(f"{view}, online rows", number(rows))
    for folder in what.folders:
        if folder.exists():
            table.add_row(short(folder), f"{megabytes(folder):,.1f} MB")
    for service in what.services:
        table.add_row(f"{service}, which rankers read", "")
    return table


def take_down(config: Config, store: FeatureStore, what: Going) -> None:
    """Remove it. Killed at any point, it can be run again."""
    # First: from here on nothing publishes them.
    retire_fits(config, what.fits)
    publish.retire_views(config, store, what.views)
    for folder in what.folders:
        shutil.rmtree(folder, ignore_errors=True)


def left_of_retired(config: Config) -> list[Key]:
    """Return the fits of retired releases that are to be taken down, or were not wholly."""
    served = Fits(config).not_retired()
    return [
        key
        for key in dead_fits(config)
        if key in served or any(folder.exists() for folder in going(config, [key]).folders)
    ]


def retire_older(config: Config, stages: Stages) -> list[int]:
    """Retire the releases whose time is over, and take down what no other one names.

    Returns their numbers. What goes is said.
    """
    over = to_retire(config)
    for release in over:
        retire(config, release)
    left = left_of_retired(config)
    if left:
        store, what = publish.open_store(config), going(config, left)
        with stages.stage("retire") as stage:
            stages.console.print(counted(store, what))
            take_down(config, store, what)
            stage.note = ", ".join(names.fitted(*key[1:]) for key in left)
    return over
