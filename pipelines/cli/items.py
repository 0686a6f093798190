"""`activity items`: the nearest items of one under every encoder; vectors between two snapshots."""

import signal
import threading
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import Stages, loading, plain_table, short, working
from pipelines.terminal import Terminal, escape
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError

if TYPE_CHECKING:
    from pipelines.nearest import Near

app = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Look at item spaces, and keep them fresh.")
app.add_typer(commands, name="items")
console = Terminal()
EVERY = timedelta(minutes=5)
"""Between two refreshes, where `items.refresh` does not say."""
TITLE = 120
"""Characters of the item that is looked at, at most."""


@commands.command("neighbours", epilog="Example: activity items neighbours 42")
def neighbours_command(
    item: Annotated[str, typer.Argument(help="An item's id.")],
    count: Annotated[int, typer.Option(min=1, help="Neighbours per encoder.")] = 10,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show the items nearest to one, under every encoder of the catalogue side by side."""
    settings = settings_of(config)

    with working("reading the item spaces"):
        from pipelines.nearest import beginning

        found = _neighbours(settings, item, count)
    table = plain_table(f"{beginning(found[0][1], TITLE)}: the nearest items")
    table.expand = True
    for space, _, _ in found:
        table.add_column(space.replace(", ", "\n"), ratio=1, overflow="ellipsis", no_wrap=True)
    for row in zip_longest(*(near for _, _, near in found), fillvalue=""):
        table.add_row(*map(str, row))
    console.print(table)


def _neighbours(config: Config, item: str, count: int) -> list[tuple[str, str, list["Near"]]]:
    """Return each space with its similarity, the item with its text, and its neighbours.

    Raises:
        InputError: not an item's id, there is no item vector, or no space has one of the item.
    """
    from pipelines.nearest import DescribedItems, made_spaces
    from transformations.duck import connect

    (wanted,) = _ids(config, [item])
    made = made_spaces(config)
    found, title = [], ""
    with connect(config) as con:
        for own in made:
            items = DescribedItems(own, con, clock.now())
            text = items.text_of(wanted)
            if text is not None:
                title = title or f"{wanted} {text}".rstrip()
            found.append((f"{own.space}, {items.similarity}", items.neighbours(wanted, count)))
    if not title:
        spaces = ", ".join(str(own.space) for own in made)
        raise InputError(f"expected an item with a vector in one of {spaces}, got {item!r}")
    return [(space, title, near) for space, near in found]


def _ids(config: Config, items: list[str]) -> list[int | str]:
    """Return items' ids, as the workspace has them.

    Raises:
        InputError: one is not an item's id.
    """
    from stores.ids import IdError, ids_of

    try:
        return list(ids_of(items, config.item_id_type, "item_id"))
    except IdError as error:
        raise InputError(str(error)) from None


@commands.command("map", epilog="Example: activity items map --item 42 --item 7")
def map_command(
    item: Annotated[
        list[str] | None,
        typer.Option(
            help="An item whose neighbours are shown; repeatable. Default: the one most acted on, "
            "one in the middle, a new one."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="The page; default: reports/items.html in the data folder.")
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Write a page of the item spaces: a map of each, and neighbours in all of them."""
    settings = settings_of(config)
    if html is not None and (html.suffix != ".html" or html.is_dir()):
        raise InputError(f"--html: expected a file whose name ends in .html, got {html}")
    items = _ids(settings, item or [])

    with working("mapping the item spaces"):
        from pipelines.report.items import item_spaces, write_items
        from transformations.duck import connect

        with connect(settings) as con:
            found = item_spaces(settings, con, clock.now(), items)
        page = html or settings.layout.item_page
        write_items(found, settings.root.name, page)
    console.print(f"[green]✓[/] {escape(short(page))}", highlight=False, soft_wrap=True)


@commands.command("refresh", epilog="Example: activity items refresh --keep-on")
def refresh_command(
    keep_on: Annotated[
        bool,
        typer.Option("--keep-on", help="Again every `items.refresh`, 5 minutes by default."),
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Encode new items and fold in what was done, between two runs, and publish the vectors."""
    settings = settings_of(config)

    with loading("Feast and TensorFlow"):
        import_feast()
        from operations.ledger import Ledger
        from pipelines.refresh import refresh_items

    stop = threading.Event()
    if keep_on:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    ledger = Ledger(settings)
    while True:
        with ledger.lock(), ledger.run("items refresh", None) as run_id:
            rows = refresh_items(settings, Stages(console, ledger, run_id))
        console.print(f"[green]✓[/] {rows:,} item vectors published")
        if not keep_on or stop.wait((settings.items.refresh or EVERY).total_seconds()):
            return
