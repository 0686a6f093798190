"""`activity check`: what a run would make of the sources, before it is made."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import short, working
from pipelines.terminal import Terminal, escape
from transformations import clock
from transformations.errors import InputError

app = typer.Typer()
console = Terminal()


@app.command("check", epilog="Example: activity check --config workspaces/ifdb --html check.html")
def check_command(
    config: ConfigOption = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with plots, too; without it nothing.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Look at the sources as a run would: what is taken, refused and poor; nothing is written."""
    settings = settings_of(config)

    if html is not None and (html.suffix != ".html" or html.is_dir()):
        raise InputError(f"--html: expected a file whose name ends in .html, got {html}")
    now = clock.now()
    name = short(settings.file)
    console.print(f"checking the sources of {escape(name)}", soft_wrap=True)
    with working("reading events and items"):
        from pipelines.check.find import find
        from pipelines.check.say import say

        found = find(settings, now, with_shapes=html is not None)
    console.print()
    say(console, found, now)
    if html is not None:
        from pipelines.check.page import write_check

        write_check(found, name, now, html)
        console.print(f"\n[green]✓[/] {escape(short(html))}", highlight=False, soft_wrap=True)
