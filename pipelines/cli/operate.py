"""`activity demo operate`: the life of a release, played in a simulated market that answers."""

import logging
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from pipelines.cli.options import DebugOption
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, short
from pipelines.terminal import Terminal, escape
from transformations.errors import InputError

app = typer.Typer()
demo = typer.Typer(no_args_is_help=True, help="See it at work, on a simulated market.")
app.add_typer(demo, name="demo")
console = Terminal()

MOST = 1_000


@demo.command("operate", epilog="Example: activity demo operate --html operate.html")
def operate_command(
    html: Annotated[Path, typer.Option(help="The page that it ends with.")] = Path("operate.html"),
    folder: Annotated[
        Path | None,
        typer.Option(help="A new folder for the workspace, which stays. Default: a temporary one."),
    ] = None,
    members: Annotated[int, typer.Option(min=50, max=MOST, help="How many members.")] = MOST,
    seed: Annotated[int, typer.Option(help="Another seed, another market.")] = 7,
    debug: DebugOption = False,
) -> None:
    """Play seven weeks: releases, gates, drift, a bad release that is taken back, an A/B.

    Nothing of the workspace around is touched. It ends with one page that needs no network.
    """
    if html.suffix != ".html":
        raise InputError(f"--html: expected a file that ends in .html, got {html}")
    if folder is not None and folder.exists():
        raise InputError(f"--folder: expected a folder that is not there yet, got {folder}")
    with loading("Feast and TensorFlow"):
        import_feast()
        from pipelines.daily import last_midnight
        from pipelines.operate.play import Play
        from pipelines.report.operate import write_operate

    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(TemporaryDirectory())) / "operate"
        play = Play(root, members, 400, seed, last_midnight(), console)
        logging.basicConfig(stream=play.said)  # beside what the runs say
        record = play.run()
        write_operate(record, html)
    console.print(
        f"\n[green]✓[/] {record.days} days in {record.seconds / 60:.1f} minutes: "
        f"{escape(short(html))}",
        highlight=False,
        soft_wrap=True,
    )
