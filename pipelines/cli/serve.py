"""`activity serve`: vectors at request time. `activity freshness`: the age of stored ones."""

import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import loading, working
from pipelines.terminal import PlainTable, Terminal, escape
from transformations.errors import InputError
from transformations.timestamps import read_timestamp

app = typer.Typer()
console = Terminal()


@app.command("serve", epilog="Example: activity serve --port 6570")
def serve_command(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 6570,
    threads: Annotated[int, typer.Option(min=1, help="Requests computed at once.")] = 2,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Requests waiting or computed at once; more get 429.")
    ] = 32,
    timeout: Annotated[
        float, typer.Option(min=0.01, help="Seconds to answer a request; then 503.")
    ] = 1.0,
    refresh: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two checks for new models and items.")
    ] = 10.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may have as Host, beside localhost and --host; repeatable; "
            "*: any."
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Serve POST /embed, GET /health and GET /metrics until SIGTERM or Ctrl-C."""
    settings = settings_of(config)
    # Opened before anything is loaded, so that a port in use fails at once.
    with _listening(host, port) as listening:
        with loading("Feast and TensorFlow"):
            from serving.publish.ask import ask
            from serving.publish.feast_store import open_store
            from serving.request.limits import LOOPBACK, Limits
            from serving.request.server import server_of
            from serving.request.service import application
            from serving.request.vectors import RequestTime

        with working("loading models and items"):
            store = open_store(settings)
            ask(settings, store)
            requests = RequestTime(settings, store)
        limits = Limits(threads, max_in_flight, timeout=timeout)
        hosts = (*LOOPBACK, host, *(allow_host or ()))
        server = server_of(application(requests, limits, refresh, hosts), limits)
        # uvicorn finishes the requests in flight, then raises the signal again: ignore that one.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        address = f"http://{host}:{listening.getsockname()[1]}"
        views = ", ".join(model.aggregator.view for model in requests.loaded)
        console.print(
            f"[green]✓[/] serving {escape(views)} on {escape(address)}/embed", soft_wrap=True
        )
        server.run(sockets=[listening])


@app.command("freshness", epilog="Example: activity freshness --older-than 36 --days 7")
def freshness_command(
    config: ConfigOption = None,
    older_than: Annotated[
        float, typer.Option(min=0, help="Age in hours from which a row counts as old.")
    ] = 36.0,
    days: Annotated[int, typer.Option(min=1, help="Look at the actions of the last N days.")] = 7,
    at: Annotated[str | None, typer.Option(help="As of this time (UTC); default: now.")] = None,
    prometheus: Annotated[
        Path | None, typer.Option(help="Also write the figures to this file, for Prometheus.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Show the age of online rows, and the delay until an action could be read there.

    Only actions that the daily run has staged count. A late one counts as readable with the first
    row whose last action is not older.
    """
    settings = settings_of(config)
    now = datetime.now(UTC) if at is None else read_timestamp(at)

    with loading("Feast"):
        from operations.fits import embedded_lines
        from serving.freshness import freshness, write_metrics
        from serving.publish.feast_store import open_store

    bound = timedelta(hours=older_than)
    with working("reading what is online"):
        figures = freshness(
            settings,
            open_store(settings),
            embedded_lines(settings),
            now,
            bound,
            now - timedelta(days=days),
        )
    if prometheus is not None:
        write_metrics(figures, bound, prometheus)
    ages = PlainTable(title="Online rows", title_justify="left", header_style="bold")
    for name in ("view", "members", "age p50", "age p99", f"older than {older_than:g} h"):
        ages.add_column(name)
    delays = PlainTable(
        title=f"From an action until it can be read, the last {days} days",
        title_justify="left",
        header_style="bold",
    )
    for name in ("view", "actions", "visible", "p50", "p99"):
        delays.add_column(name)
    for row in figures:
        spans = (_span(row.age_p50), _span(row.age_p99))
        ages.add_row(row.view, f"{row.members:,}", *spans, f"{row.older:.1%}")
        spans = (_span(row.delay_p50), _span(row.delay_p99))
        delays.add_row(row.view, f"{row.actions:,}", f"{row.visible:,}", *spans)
    console.print(ages)
    console.print()
    console.print(delays)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s"


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise InputError(
            f"expected a free address, got {host}:{port}: {error.strerror}; choose another --port"
        ) from None
