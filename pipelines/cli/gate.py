"""`activity gate`: may a release serve? And is a Feast service of a user's own right?"""

from typing import Annotated

import typer
from rich.text import Text

from pipelines.cli.options import ConfigOption, DebugOption, read_duration, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import Stages, loading, plain_table, working
from pipelines.progress import number as said_number
from pipelines.terminal import Terminal, escape
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError, RunFailedError

app = typer.Typer()
console = Terminal()

SAYS = {
    "future": "a training join finds what could be read then",
    "parity": "online is what is newest offline",
    "created": "no row could be read before its own moment",
}


@app.command("gate", epilog="Example: activity gate --service ranker_decay_v1 --since 7d")
def gate_command(
    release: Annotated[
        int | None, typer.Option(min=1, help="A release; default: the newest.")
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(help="Instead: a feature service of feature_store.yaml, your own ones too."),
    ] = None,
    since: Annotated[
        str, typer.Option(help="Of a service: read the rows of this time of each view: 24h, 7d.")
    ] = "7d",
    rows: Annotated[
        int, typer.Option(min=1, help="Of a service: rows of each view that are looked at.")
    ] = 1000,
    bound: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of a service: the share of keys that may differ online."),
    ] = 1e-3,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Judge whether a release may serve: nothing from the future, parity, latency, quality.

    What the gates say is kept: a refused release is not promoted. With --service: join moments
    around rows of each view of a feature service, compare them with what could be read then, found
    by hand, and read the newest rows online. Ends with 1 where something is off.
    """
    settings = settings_of(config)
    if service is None:
        _of_release(settings, release)
    elif release is not None:
        raise InputError("expected --release or --service, got both")
    else:
        _of_service(settings, service, since, rows, bound)


def _of_release(settings: Config, number: int | None) -> None:
    with loading("Feast and TensorFlow"):
        import_feast()
        from operations.ledger import Ledger, ledger_exists
        from operations.releases import releases
        from pipelines.gates.release import judge

    if number is None:
        living = [one.number for one in releases(settings) if one.is_living]
        if not living:
            raise InputError(f"no release was made yet in {settings.data}; first: activity run")
        number = living[0]
    if not ledger_exists(settings):
        raise InputError(f"nothing was run yet into {settings.data}; first: activity run")
    ledger = Ledger(settings)
    with ledger.lock(), ledger.run("gate", None) as run_id:
        verdicts = judge(settings, number, Stages(console, ledger, run_id))
    table = plain_table(f"Gates of release {number}")
    for name in ("gate", "verdict", "what it found"):
        table.add_column(name, overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    words = {
        True: Text("passed", "green"),
        False: Text("refused", "red"),
        None: Text("not judged"),
    }
    for each in verdicts:
        table.add_row(each.gate, words[each.passed], each.said, f"{each.seconds:.1f}")
    console.print(table)
    refused = [each.gate for each in verdicts if each.passed is False]
    if refused:
        raise RunFailedError(f"release {number} may not serve: {', '.join(refused)}")
    console.print(f"[green]✓[/] release {number} may serve: activity release promote {number}")


def _of_service(settings: Config, service: str, since: str, rows: int, bound: float) -> None:
    now = clock.now()
    first = now - read_duration(since)
    with loading("Feast"):
        import_feast()
        from pipelines.gates.service import check_service
        from serving.publish import open_store

    with working("reading, joining and comparing"):
        found = check_service(open_store(settings), service, first, now, rows)
    table = plain_table(f"{service}, rows since {first:%Y-%m-%d %H:%M} UTC")
    for name in ("view", "what has to hold"):
        table.add_column(name, overflow="fold")
    for name in ("compared", "off"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        off = said_number(each.off) if each.compared else "nothing to compare"
        table.add_row(each.view, SAYS[each.check], said_number(each.compared), off)
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
