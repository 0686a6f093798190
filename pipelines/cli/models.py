"""`activity train`, `tune`, `models`: aggregators that learn."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from models import registry
from models.lines import catalogue_lines, ranker_lines
from models.rankers.spec import Ranker
from models.spec import Aggregator, Learned
from pipelines.cli.options import (
    ConfigOption,
    DebugOption,
    EngineOption,
    by_engine,
    settings_of,
)
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import Stages, loading, plain_table, short
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError
from transformations.timestamps import read_timestamp

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

app = typer.Typer()
console = Terminal()

UntilOption = Annotated[
    str | None,
    typer.Option(
        help="See nothing at or after this timestamp (UTC); default: the end of the last day that "
        "has events."
    ),
]


RANKER = "ranker"


@app.command("train", epilog="Example: activity train learned_decay --until 2026-01-31")
def train_command(
    name: Annotated[
        str,
        typer.Argument(
            help="An aggregator's name, as in the catalogue; or [bold]ranker[/], and a ranker's."
        ),
    ],
    ranker: Annotated[
        str | None, typer.Argument(help="After [bold]ranker[/]: its name.", show_default=False)
    ] = None,
    until: UntilOption = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Which version; default: the catalogue's newest of that name."),
    ] = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Train an aggregator, package it and register it; goes on where a killed one stopped.

    Where vectors of its fit are in use, a new fit is made beside it. `train ranker NAME` makes the
    next fit of a line of RANKERS, which the service takes over with its release.
    """
    settings = by_engine(settings_of(config), engine)
    if name == RANKER and ranker is not None:
        _train_ranker(settings, ranker, version, until)
        return
    if ranker is not None:
        raise InputError(f"expected one name, or ranker and a name, got {name} {ranker}")
    line = line_named(settings, name, version)
    if not isinstance(line, Learned):
        raise InputError(f"{name} is a formula or made elsewhere: it has nothing to train")

    with loading("Feast and TensorFlow"):
        import_feast()
        from operations.fits import Fits, note_fits
        from pipelines.fitting import forget
        from pipelines.training import line_of, train_line

    with _read(settings, "train", until) as (settings, con, timestamp, stages):
        fits = Fits(settings)
        (fit,) = fits.bind([line], as_next=fits.is_used(*fits.bind([line])))
        forget(settings, fit)
        folder, registered = train_line(settings, con, fit, timestamp, stages)
        note_fits(settings, [fit], used=False)
    console.print(
        f"\n{escape(short(folder))} is {escape(registered.uri)}.", highlight=False, soft_wrap=True
    )
    if line in catalogue_lines(settings):
        console.print(
            f"{escape(fit.view)} goes online with the next run.", highlight=False, soft_wrap=True
        )
    else:
        console.print(
            f"To serve it, put this line into {escape(short(settings.catalogue))}:\n"
            f"    {escape(line_of(line))},",
            highlight=False,
            soft_wrap=True,
        )


def _train_ranker(settings: Config, name: str, version: int | None, until: str | None) -> None:
    line = _ranker_named(settings, name, version)

    with loading("Feast and TensorFlow"):
        import_feast()
        from pipelines.ranking.train import train_ranker
        from pipelines.releasing import release_what_is_published

    with _ranker_stages(settings, "train", until) as (before, stages):
        fit, folder, _ = train_ranker(settings, line, before, stages)
        release_what_is_published(settings, stages)
    console.print(
        f"\n{fit} lies in {escape(short(folder))}; the service takes it over with its release.",
        highlight=False,
        soft_wrap=True,
    )


def _ranker_named(settings: Config, name: str, version: int | None = None) -> Ranker:
    """Return the newest line of a ranker's name, or that version of it."""
    known = sorted(ranker_lines(settings), key=lambda line: line.version)
    lines = [line for line in known if line.name == name and version in (None, line.version)]
    if not lines:
        there = ", ".join(map(str, known)) or "it has none"
        raise InputError(f"expected a ranker of {settings.catalogue} ({there}), got {name!r}")
    return lines[-1]


@contextmanager
def _ranker_stages(
    settings: Config, command: str, until: str | None
) -> Iterator[tuple[datetime, Stages]]:
    """Yield until when labels count, and where the stages of a command are noted."""
    from operations.ledger import Ledger
    from pipelines.daily import end_of_last_day

    ledger = Ledger(settings)
    with ledger.lock(), ledger.run(command, None) as run_id:
        before = read_timestamp(until) if until else end_of_last_day(settings)
        yield before, Stages(console, ledger, run_id)


@app.command("tune", epilog="Example: activity tune decay --apply")
def tune_command(
    name: Annotated[
        str,
        typer.Argument(
            help="A learned aggregator of the catalogue; [bold]decay[/]; or [bold]ranker[/], and a "
            "ranker's."
        ),
    ],
    ranker: Annotated[
        str | None, typer.Argument(help="After [bold]ranker[/]: its name.", show_default=False)
    ] = None,
    until: UntilOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Trainings at most; not for decay.")] = 20,
    sampler: Annotated[
        str, typer.Option(help="[bold]tpe[/] or [bold]random[/]; not for decay.")
    ] = "tpe",
    apply: Annotated[
        bool, typer.Option("--apply", help="Add the best as a new version to the catalogue.")
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Look for better settings on the validation period; write table, plot and study.

    A ranker is judged on consecutive blocks of time, by what was staged and built by the last run.
    """
    settings = settings_of(config)
    if name == RANKER and ranker is not None:
        its = _ranker_named(settings, ranker)
        with loading("Feast and TensorFlow"):
            import_feast()
            from pipelines.ranking.tune import tune_ranker

        with _ranker_stages(settings, "tune", until) as (before, stages):
            tune_ranker(settings, its, before, stages, trials, sampler, apply)
        return
    if ranker is not None:
        raise InputError(f"expected one name, or ranker and a name, got {name} {ranker}")
    line = line_named(settings, name)

    with loading("Feast and TensorFlow"):
        import_feast()
        from pipelines.tuning import tune_line

    with _read(settings, "tune", until) as (own, con, timestamp, stages):
        tune_line(own, con, line, timestamp, stages, trials, sampler, apply)


@app.command("models", epilog="Example: activity models")
def models_command(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """List the registered versions, with what they were trained on and how good they were."""
    settings = settings_of(config)
    known = registry.versions(settings)
    if not known:
        console.print("nothing is registered yet; first: activity train NAME")
        return
    console.print(table_of(known))
    console.print(
        f'In {escape(short(settings.catalogue))}: Packaged("models:/NAME/NUMBER")', highlight=False
    )


def table_of(known: Iterable[registry.Registered]) -> Table:
    """Lay out registered versions; in 80 columns a long name is folded, numbers stay whole."""
    table = plain_table("Registered aggregators")
    table.add_column("name", overflow="fold")
    for column in ("number", "line", "trained until", "weights", "on validation"):
        table.add_column(column, no_wrap=True)
    for version in known:
        table.add_row(
            version.name,
            str(version.version),
            version.view.rpartition(f"{version.name}_")[2],
            version.trained_until[:10],
            version.weights_sha256[:8],
            "\n".join(f"{key} {value:.4g}" for key, value in version.metrics.items()),
        )
    return table


def line_named(settings: Config, name: str, version: int | None = None) -> Aggregator:
    """Return the newest line of a name; with a version that is not there, that line as it.

    Raises:
        InputError: the catalogue has no such name.
    """
    known = catalogue_lines(settings)
    lines = sorted((a for a in known if a.name == name), key=lambda line: line.version)
    if not lines:
        there = ", ".join(sorted({line.name for line in known}))
        raise InputError(f"expected an aggregator of {settings.catalogue} ({there}), got {name!r}")
    for line in lines:
        if line.version == version:
            return line
    return lines[-1] if version is None else replace(lines[-1], version=version)


@contextmanager
def _read(
    settings: Config, command: str, until: str | None
) -> Iterator[tuple[Config, "Connection", datetime, Stages]]:
    """Read what is new in the sources, as the daily run does; yield what a training needs.

    The configuration comes in the present item space.
    """
    given = read_timestamp(until) if until else None

    from operations.fits import Fits, fit_until
    from operations.ledger import Ledger
    from pipelines.daily import (
        end_of_last_day,
        last_midnight,
        stage_events,
        stage_the_items,
    )
    from pipelines.fitting import fit_items
    from transformations.duck import connect

    ledger = Ledger(settings)
    with ledger.lock(), ledger.run(command, None) as run_id, connect(settings) as con:
        stages = Stages(console, ledger, run_id)
        now = max(last_midnight(), ledger.newest_as_of() or last_midnight())
        stage_events(settings, con, now, stages)
        timestamp = given or end_of_last_day(settings)
        stage_the_items(settings, con, timestamp, stages)
        lines = Fits(settings).bind(catalogue_lines(settings))
        fit_items(settings, con, timestamp, fit_until(settings, timestamp), lines, stages)
        yield settings.in_space(Fits(settings).space), con, timestamp, stages
