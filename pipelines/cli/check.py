"""`activity check`: what a run would make of the sources, before it is made."""

from datetime import UTC, datetime

import typer
from rich.console import Console

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import short, working

app = typer.Typer()
console = Console()


@app.command("check", epilog="Example: activity check --config workspaces/ifdb")
def check_command(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """Look at the sources as a run would: what is taken, refused and poor; nothing is written."""
    settings = settings_of(config)

    now = datetime.now(UTC)
    console.print(f"checking the sources of {short(settings.file)}", soft_wrap=True)
    with working("reading events and items"):
        from pipelines.check.find import find
        from pipelines.check.say import say

        found = find(settings, now)
    console.print()
    say(console, found, now)
