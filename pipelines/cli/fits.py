"""`activity fit`: fit the item space and the lines again. `activity retire`: take a fit down."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, confirm, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import Stages, loading, short, working
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError
from transformations.names import Space
from transformations.timestamps import read_timestamp

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

app = typer.Typer()
console = Terminal()


@app.command("fit", epilog="Example: activity fit --until 2026-01-31")
def fit_command(
    until: Annotated[
        str | None,
        typer.Option(
            help="See nothing at or after this timestamp (UTC); default: fit_holdback before the "
            "end of the last day that has events."
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(help="Only this item encoder, such as co_actions_v1, and what reads it."),
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Fit the item spaces again, and all that learns in them, beside the fits that are in use."""
    settings = settings_of(config)
    given = read_timestamp(until) if until else None

    with loading("Feast and TensorFlow"):
        import_feast()
        from operations.fits import Fits, fit_until, say_kept
        from operations.ledger import Ledger
        from pipelines.daily import end_of_last_day, last_midnight, stage_events, stage_the_items
        from pipelines.fitting import new_fit
        from transformations.duck import connect

    ledger = Ledger(settings)
    with ledger.lock(), ledger.run("fit", None) as run_id:
        stages = Stages(console, ledger, run_id)
        with connect(settings) as con:
            now = max(last_midnight(), ledger.newest_as_of() or last_midnight())
            stage_events(settings, con, now, stages)
            stage_the_items(settings, con, now, stages)
            timestamp = given or fit_until(settings, end_of_last_day(settings))
            before = Fits(settings).spaces
            made = new_fit(settings, con, now, timestamp, stages, items)
            apart = list(_how_far(settings, con, before, now))
    console.print()
    console.print(stages.table())
    fits = ", ".join(map(str, made))
    console.print(f"{escape(fits)}: fitted on what was known before {timestamp:%Y-%m-%d %H:%M} UTC")
    console.print("The next run and backfill make rows by them.")
    for said in apart:
        console.print(said, highlight=False, soft_wrap=True)
    for said in say_kept(Fits(settings).kept(made)):
        console.print(said, highlight=False, soft_wrap=True)


def _how_far(
    config: Config, con: "DuckDBPyConnection", before: Mapping[str, Space], as_of: datetime
) -> Iterator[str]:
    """Say of each space that has a new fit how far it is from the one before."""
    from models.items.distance import distance
    from models.lines import similarity_of
    from models.sequences import ItemTable
    from operations.fits import Fits
    from transformations.layout import part_files

    for name, space in Fits(config).spaces.items():
        owns = [config.in_space(each) for each in (before[name], space)]
        if space != before[name] and all(part_files(own.items_dir) for own in owns):
            tables = [ItemTable.read(own, con, as_of) for own in owns]
            old, new = ((table.ids, table.vectors[1:]) for table in tables)
            apart = distance(old, new, similarity_of(owns[1]))
            yield f"{space} and {before[name]}: {apart}"


@app.command("retire", epilog="Example: activity retire decay 1 --fit 1 --yes")
def retire_command(
    name: Annotated[str, typer.Argument(help="A line's name.")],
    version: Annotated[int, typer.Argument(min=1, help="Its version.")],
    fit: Annotated[
        int | None, typer.Option(min=1, help="One of its fits; default: all that are kept.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Take down a line that left the catalogue, or a fit that has a newer one."""
    settings = settings_of(config)

    with loading("Feast"):
        import_feast()
        from models.lines import by_space
        from operations.composition import only_in
        from operations.fits import Fits, current_lines, key_of
        from operations.ledger import Ledger
        from operations.releases import refuse_retiring, releases
        from operations.releases import retire as retire_release
        from pipelines.retiring import counted, going, take_down
        from serving import publish

    with Ledger(settings).lock():
        current = current_lines(settings)
        fits = Fits(settings)
        # A retired one too: what a killed retire left of it goes now.
        named = [
            line
            for line in fits.other_fits(current)
            if (line.name, line.version) == (name, version) and fit in (None, line.fit)
        ]
        chosen = [line for line in named if fits.is_kept(line)] or named
        if not chosen:
            there = ", ".join(f"{x.name} {x.version} --fit {x.fit}" for x in fits.kept(current))
            raise InputError(
                f"expected a fit that is kept, got {name} {version}"
                + (f" --fit {fit}" if fit else "")
                + f". Kept are: {there or 'none'}. What {settings.catalogue} names is served: "
                "take the line out first"
            )
        keys = {key_of(line) for line in chosen}
        living = [one for one in releases(settings) if one.is_living]
        ending = [one.number for one in living if keys & one.fits]
        for number in ending:
            refuse_retiring(settings, number, f"{', '.join(map(str, chosen))}: ")
        goes_on = [line for line in [*current, *fits.kept(current)] if line not in chosen]
        spaces = {own.space for own, _ in by_space(settings, goes_on)} | {*fits.spaces.values()}
        gone = {own.space for own, _ in by_space(settings, chosen)} - spaces
        others = {key for one in living if one.number not in ending for key in one.fits}
        keys |= {key_of(space) for space in gone} - others
        keys |= {*only_in(settings, ending)}
        store, what = publish.open_store(settings), going(settings, keys)
        with working("counting what goes"):
            table = counted(store, what)
        for number in ending:
            table.add_row(f"release {number}, which names it", "")
        console.print(table)
        confirm(yes, f"activity retire {name} {version}" + (f" --fit {fit}" if fit else ""))
        with working("removing it"):
            for number in ending:
                retire_release(settings, number)
            take_down(settings, store, what)
    kept = ", ".join(short(line.artifact(settings)) for line in chosen)
    console.print(f"[green]✓[/] removed; the packages stay: {kept}", soft_wrap=True)
