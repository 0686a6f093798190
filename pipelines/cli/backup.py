"""`activity backup` and `activity restore`: what cannot be made again, there and back."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.cli.reset import remove_all
from pipelines.progress import loading, number, short, working
from pipelines.terminal import Terminal, escape

app = typer.Typer()
console = Terminal()


@app.command("backup", epilog="Example: activity backup /backups/jobs-2026-03-10.tar")
def backup_command(
    target: Annotated[Path, typer.Argument(help="A folder or a .tar file that is not there yet.")],
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Copy what no run can make again; a run may be under way."""
    settings = settings_of(config)

    from operations.backup import REGISTRY, back_up

    with working("copying"):
        made = back_up(settings, target)
    console.print(
        f"[green]✓[/] {number(len(made.files))} files, {made.bytes / 1e6:,.1f} MB, in "
        f"{escape(short(target))}",
        highlight=False,
        soft_wrap=True,
    )
    if REGISTRY not in made.files:
        console.print(
            "[yellow]•[/] Feast's registry is not in it: it is no file. Back up its database, or "
            "let the next run declare the views again",
            soft_wrap=True,
        )


@app.command("restore", epilog="Example: activity restore /backups/jobs-2026-03-10.tar")
def restore_command(
    source: Annotated[Path, typer.Argument(help="What activity backup wrote.")],
    over: Annotated[
        bool,
        typer.Option(
            "--over", help="Where something ran already: do what `activity reset` does first."
        ),
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Put a backup into the data folder, once each of its files is checked."""
    settings = settings_of(config)

    from operations.ledger import locked_state
    from operations.restore import restore

    def clear() -> None:
        with loading("Feast"):
            import_feast()
            from serving import publish
        remove_all(settings, publish.open_store(settings))

    with locked_state(settings.layout.state), working("restoring"):
        backup = restore(settings, source, clear if over else None)
    console.print(
        f"[green]✓[/] restored {number(len(backup.files))} files of {backup.made_at}; "
        "`activity run` makes the tables again, and publishes",
        highlight=False,
        soft_wrap=True,
    )
