"""`activity sweep`: remove what is older than `retention`, and what nothing in use names."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import megabytes, number, plain_table, working
from pipelines.terminal import Terminal
from transformations.errors import InputError

app = typer.Typer()
console = Terminal()


@app.command("sweep", epilog="Example: activity sweep --yes")
def sweep_command(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it; without this it is only said.")
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Say what is too old (`retention`) or named by no fit in use; with --yes remove it."""
    settings = settings_of(config)

    from operations.ledger import Ledger, ledger_exists
    from operations.sweep import before_removing, unneeded
    from transformations.files import sweep

    if not ledger_exists(settings):
        raise InputError(f"nothing was run yet into {settings.data}; first: activity run")
    ledger = Ledger(settings)
    with ledger.lock():
        with working("looking for what nothing needs"):
            found = unneeded(settings, ledger)
        if not found:
            console.print("[green]✓[/] there is nothing to remove")
            return
        table = plain_table("To be removed")
        for name in ("what", "why"):
            table.add_column(name, overflow="fold")
        for name in ("how many", "size"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in found:
            size = sum(map(_size, one.paths))
            table.add_row(one.what, one.why, number(len(one.paths)), f"{size:,.1f} MB")
        console.print(table)
        if not yes:
            console.print("Nothing was removed; to remove this: activity sweep --yes")
            return
        with working("removing it"):
            before_removing(settings, found)
            for one in found:
                for path in one.paths if one.what != "half-written" else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            sweep(settings.data)  # what another process is filling stays
    console.print("[green]✓[/] removed")


def _size(path: Path) -> float:
    """Megabytes of a file or folder."""
    if path.is_dir():
        return megabytes(path)
    return path.stat().st_size / 1e6 if path.exists() else 0.0
