"""`activity drift`: what of the newest data is unusual, what waits for it, and letting it go on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from click.core import ParameterSource

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import plain_table, short
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError

if TYPE_CHECKING:
    from operations.drift_rule import Finding
    from operations.ledger import Ledger

app = typer.Typer()
drift = typer.Typer(
    invoke_without_command=True, help="What the newest data are like, beside those before."
)
app.add_typer(drift, name="drift", epilog="Example: activity drift --all")
console = Terminal()
DAYS = 60
"""How far back a page goes."""


@drift.callback()
def drift_command(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Measures that are as usual, too.")
    ] = False,
    prometheus: Annotated[
        Path | None, typer.Option(help="Also write the measures to this file, for Prometheus.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page that plots each measure over the days.")
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show what of the newest snapshot is unusual; the exit code is 1 while a stop stands."""
    if context.invoked_subcommand is not None:
        if context.get_parameter_source("config") is ParameterSource.COMMANDLINE:
            settings_of(config)  # its own option reads what this notes in the environment
        return
    from operations.drift import findings, standing

    settings = settings_of(config)
    if html is not None and (html.suffix != ".html" or html.is_dir()):
        raise InputError(f"--html: expected a file whose name ends in .html, got {html}")
    ledger = _ledger(settings)
    found = findings(ledger)
    if not found:
        raise InputError("no snapshot was measured yet; first: activity run")
    if prometheus is not None:
        from pipelines.drift.metrics import write_metrics

        write_metrics(found, prometheus)
    shown = [one for one in found if everything or one.verdict in ("stop", "warning")]
    counts = {name: sum(one.verdict == name for one in found) for name in ("ok", "unknown")}
    if shown:
        console.print(_table(shown))
    console.print(
        f"Snapshot of {found[0].as_of:%Y-%m-%d %H:%M} UTC: {len(found)} measures, "
        f"{counts['ok']} as usual, {counts['unknown']} without enough days to compare with.",
        highlight=False,
    )
    if html is not None:
        from operations.drift import history
        from pipelines.report.drift import write_drift

        days = history(ledger, DAYS)
        write_drift(found, days, settings.root.name, html)
        console.print(f"[green]✓[/] {escape(short(html))}", highlight=False, soft_wrap=True)
    if standing(ledger):
        console.print(
            "[bold red]Fitting is paused;[/] what is online goes on being served and renewed. Mend "
            "the source and run again, or, if it is right so: activity drift accept --why TEXT",
            highlight=False,
        )
        raise typer.Exit(1)


@drift.command("accept", epilog='Example: activity drift accept --why "a campaign began"')
def accept_command(
    why: Annotated[str, typer.Option(help="Why the data are right; kept in the ledger.")],
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Let fitting go on although measures are beyond their bounds, until they are normal again."""
    from operations.drift import accept

    for stop in accept(_ledger(settings_of(config)), why):
        console.print(f"[green]✓[/] accepted: {escape(stop.said)}", highlight=False)


def _ledger(settings: Config) -> "Ledger":
    from operations.ledger import Ledger, ledger_exists

    if not ledger_exists(settings):
        raise InputError(f"nothing was run yet into {settings.data}; first: activity run")
    return Ledger(settings)


def _table(found: "list[Finding]") -> object:
    table = plain_table("Drift")
    for name in ("measure", "value", "expected", "warns outside", "stops outside", "verdict"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(
            str(one),
            f"{one.value:.4g}",
            _number(one.baseline),
            *(f"{_number(low)} … {_number(high)}" for low, high in (one.warn, one.stop)),
            one.verdict + (f", accepted: {one.accepted}" if one.accepted else ""),
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
