"""`activity archive`: what tables and buses gave, as it came; list it, stage it again."""

from datetime import date
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import number, plain_table, working
from pipelines.terminal import Terminal, escape
from transformations.timestamps import read_timestamp

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="What tables and buses gave, kept as it came.")
app.add_typer(group, name="archive")
console = Terminal()

FirstOption = Annotated[
    str | None, typer.Option("--from", help="The first day of reading, as a date (UTC).")
]
LastOption = Annotated[str | None, typer.Option("--to", help="The last day of reading, included.")]


@group.command("list", epilog="Example: activity archive list")
def list_command(
    first: FirstOption = None,
    last: LastOption = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show of which sources the archive holds reads, how many, from when, how large."""
    settings = settings_of(config)

    from transformations.archive import Read, reads

    found: dict[str, list[Read]] = {}
    for read in reads(settings, _day(first), _day(last)):
        found.setdefault(read.source, []).append(read)
    if not found:
        console.print("the archive holds nothing: it keeps what a table of events, or a bus, gives")
        return
    table = plain_table("Archive")
    table.add_column("source", overflow="fold")
    for name in ("reads", "rows", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("first read", "last read"):
        table.add_column(name, no_wrap=True)
    for source, each in found.items():
        ends = (f"{read.read_at:%Y-%m-%d %H:%M}" for read in (each[0], each[-1]))
        rows = number(sum(read.rows for read in each))
        size = sum({read.sha256: read.bytes for read in each}.values()) / 1e6  # equal ones are one
        table.add_row(source, number(len(each)), rows, f"{size:,.1f}", *ends)
    console.print(table)


@group.command("replay", epilog="Example: activity archive replay --from 2026-03-01")
def replay_command(
    first: FirstOption = None,
    last: LastOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="As `activity archive list` calls it; [bold]bus[/]: messages. Default: the "
            "configured table of events."
        ),
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Stage again what was read on some days, in place of the source; equal rows count once."""
    settings = settings_of(config)
    start, end = _day(first), _day(last)

    from operations.ledger import Ledger
    from pipelines.archive import replay

    ledger = Ledger(settings)
    with ledger.lock(), ledger.run("archive replay", None), working("staging reads") as stage:
        done = replay(settings, start, end, source, stage.advance)
    for said in done.not_staged:
        console.print(f"[yellow]•[/] not staged: {escape(said)}", highlight=False, soft_wrap=True)
    for reason, rows in sorted(done.refused.items()):
        console.print(f"[yellow]•[/] {number(rows)} refused: {escape(reason)}", highlight=False)
    console.print(
        f"[green]✓[/] staged {number(done.rows)} rows of {number(done.reads)} reads of "
        f"{escape(done.source)}: {number(done.gained)} actions are new, "
        f"{number(len(done.periods))} periods were written",
        highlight=False,
        soft_wrap=True,
    )


def _day(text: str | None) -> date | None:
    return None if text is None else read_timestamp(text).date()
