"""`activity export`: the rows of one view's snapshot, in one file for others."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import number, short, working
from pipelines.terminal import Terminal, escape
from transformations.errors import InputError

app = typer.Typer()
console = Terminal()


@app.command("export", epilog="Example: activity export decay --to decay.npz")
def export_command(
    view: Annotated[
        str, typer.Argument(help="A view that `activity status` names, or an aggregator's name.")
    ],
    to: Annotated[Path, typer.Option(help="The file: .parquet, or .npz for numpy.")],
    as_of: Annotated[
        str | None, typer.Option(help="The snapshot of this timestamp (UTC); default: the newest.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file where it is there.")
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the rows of one view's snapshot (vectors, sequences or items) to one file."""
    settings = settings_of(config)

    from pipelines.export import export, refuse
    from pipelines.workspace import OpenWorkspace

    file = to.expanduser().resolve()
    refuse(file, replace=force)
    if file.is_relative_to(settings.data):
        raise InputError(
            f"expected a file outside {settings.data}, which belongs to the runs, got {file}"
        )
    with working(f"reading {view}"):
        rows = OpenWorkspace(settings).rows(view, as_of)
    with working(f"writing {short(file)}"):
        export(rows, file, replace=force)
    console.print(
        f"[green]✓[/] {number(rows.num_rows)} rows of {escape(view)} in {escape(short(file))} "
        f"({file.stat().st_size / 1e6:,.1f} MB)",
        highlight=False,
        soft_wrap=True,
    )
