"""`activity gate`: may it serve? Of a Feast service: nothing from the future, the same online."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, read_duration, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, number, plain_table, working
from pipelines.terminal import Terminal, escape
from transformations.errors import RunFailedError

app = typer.Typer()
console = Terminal()

SAYS = {
    "future": "a training join finds what could be read then",
    "parity": "online is what is newest offline",
    "created": "no row could be read before its own moment",
}


@app.command("gate", epilog="Example: activity gate --service ranker_decay_v1 --since 7d")
def gate_command(
    service: Annotated[
        str, typer.Option(help="A feature service of feature_store.yaml, your own ones too.")
    ],
    since: Annotated[
        str, typer.Option(help="Read the rows of this time of each view: 24h, 7d.")
    ] = "7d",
    rows: Annotated[int, typer.Option(min=1, help="Rows of each view that are looked at.")] = 1000,
    bound: Annotated[
        float, typer.Option(min=0, max=1, help="Share of keys that may differ online.")
    ] = 1e-3,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Check that a feature service tells nothing from the future, and the same online.

    It joins moments around rows of each view and compares them with what could be read then, found
    by hand; and reads the newest rows online. Ends with 1 where something is off.
    """
    settings, now = settings_of(config), datetime.now(UTC)
    first = now - read_duration(since)
    with loading("Feast"):
        import_feast()
        from pipelines.gates.service import check_service
        from serving.publish import open_store

    with working("reading, joining and comparing"):
        found = check_service(open_store(settings), service, first, now, rows)
    table = plain_table(f"{escape(service)}, rows since {first:%Y-%m-%d %H:%M} UTC")
    for name in ("view", "what has to hold"):
        table.add_column(name, overflow="fold")
    for name in ("compared", "off"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        off = number(each.off) if each.compared else "nothing to compare"
        table.add_row(escape(each.view), SAYS[each.check], number(each.compared), off)
    console.print(table)
    # What is published while this looks may differ online; a join must never.
    allowed = {"parity": bound}
    stamped = {each.view for each in found if each.check == "created"}
    for view in sorted({each.view for each in found} - stamped):
        console.print(
            f"[yellow]•[/] {escape(view)} names no created_timestamp_column: its event timestamp "
            "has to be when a row could be read",
            highlight=False,
            soft_wrap=True,
        )
    wrong = [each for each in found if each.share > allowed.get(each.check, 0)]
    for each in wrong:
        line = f"[red]•[/] {escape(each.view)}: {escape(each.example)}"
        console.print(line, highlight=False, soft_wrap=True)
    if wrong:
        raise RunFailedError(
            f"{len(wrong)} of {len(found)} checks of {service} found something: do not train or "
            "serve with it before that is mended"
        )
    console.print("[green]✓[/] nothing from the future, and the same online")
