"""`activity forget`: remove members for good."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, number, plain_table, working
from pipelines.terminal import Terminal, escape

app = typer.Typer()
console = Terminal()


@app.command("forget", epilog="Example: activity forget 42")
def forget_command(
    member_ids: Annotated[
        list[str] | None, typer.Argument(help="Members' ids, as in the events.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A CSV with a column member_id, or with one column, of further ids."),
    ] = None,
    bus: Annotated[
        str | None,
        typer.Option(
            envvar="ACTIVITY_BUS",
            help="The stream's bus: the members' messages and dead letters go from it too.",
        ),
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Remove members from all tables and stores, for good: no source brings them back."""
    settings = settings_of(config)

    from pipelines.forget import forget, members_of

    members = members_of(settings, member_ids or [], file)
    with loading("Feast"):
        import_feast()
        from operations.ledger import Ledger, ledger_exists

    had_run = ledger_exists(settings)
    ledger = Ledger(settings)
    with ledger.lock(), ledger.run("forget", None), working("forgetting"):
        done = forget(settings, members, bus, has_run=had_run)
    named = f"{number(len(members))} members" if len(members) > 1 else "the member"
    if done.rows:
        table = plain_table("Removed")
        table.add_column("where")
        table.add_column("rows", justify="right")
        for where, rows in done.rows.items():
            table.add_row(where, number(rows))
        console.print(table)
    else:
        console.print(f"• nothing of {named} was found")
    for left in done.left:
        console.print(f"[yellow]•[/] not removed: {escape(left)}", highlight=False, soft_wrap=True)
    console.print(f"[green]✓[/] forgot {named}; tombstones keep the sources from bringing any back")
