"""`activity init`: a workspace from two files or tables."""

from typing import Annotated

import typer

from pipelines.cli.options import DebugOption
from pipelines.terminal import Terminal

app = typer.Typer()
console = Terminal()


@app.command(
    "init",
    epilog="Example: activity init ifdb --events events.parquet --items items.parquet",
)
def init_command(
    folder: Annotated[
        str, typer.Argument(help="A bare name: in workspaces/ of the clone; else a path.")
    ],
    events: Annotated[
        str | None,
        typer.Option(help="Parquet or CSV, a folder of either, or a SQLAlchemy URL."),
    ] = None,
    items: Annotated[str | None, typer.Option(help="The items, in the same forms.")] = None,
    events_table: Annotated[
        str | None, typer.Option(help="The table, or schema.table, for a URL.")
    ] = None,
    items_table: Annotated[
        str | None, typer.Option(help="The table, or schema.table, for a URL.")
    ] = None,
    member: Annotated[str | None, typer.Option(help="The events' column of member ids.")] = None,
    item: Annotated[str | None, typer.Option(help="The events' column of item ids.")] = None,
    action: Annotated[str | None, typer.Option(help="The events' column of actions.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="The events' column of times.")] = None,
    items_id: Annotated[str | None, typer.Option(help="The items' column of ids.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="What made the items' vectors; default: the file's name.")
    ] = None,
    positive: Annotated[
        list[str] | None, typer.Option(help="An action that speaks for an item; repeatable.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="An action that speaks against an item; repeatable.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Make a workspace: look at events and items, guess the settings, write its folder."""
    from pipelines.init.command import Asked, run_init
    from transformations.rules import Sign

    columns = {
        "member_id": member,
        "item_id": item,
        "action": action,
        "event_timestamp": timestamp,
    }
    signs: dict[str, Sign] = dict.fromkeys(positive or [], "positive")
    signs |= dict.fromkeys(negative or [], "negative")
    run_init(
        console,
        folder,
        Asked(
            events,
            items,
            events_table,
            items_table,
            {role: name for role, name in columns.items() if name is not None},
            items_id,
            encoder,
            signs,
        ),
    )
