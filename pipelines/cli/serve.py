"""`activity serve`: vectors and recommendations. `activity freshness`: the age of stored ones."""

import os
import signal
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.cli.processes import forked, listening, reserved, waited
from pipelines.progress import loading, working
from pipelines.terminal import PlainTable, Terminal, escape
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError
from transformations.timestamps import read_timestamp

if TYPE_CHECKING:
    from feast import FeatureStore

    from serving.recommend.service import RecommendService
    from serving.request.vectors import RequestTime

TOKEN = "ACTIVITY_TOKEN"
LOOPBACK = ("localhost", "127.0.0.1", "::1")

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
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Processes on the one port; each loads its own.")
    ] = 1,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Serve others than this machine without a token.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Serve POST /embed, POST /recommend, /health, /ready, /metrics and a page until SIGTERM.

    Where the environment has ACTIVITY_TOKEN, each request needs it as its bearer token.
    """
    settings = settings_of(config)
    token = os.environ.get(TOKEN) or None
    if token is None and not allow_open and host not in LOOPBACK:
        raise InputError(
            f"expected a token in ${TOKEN}, since others than this machine may ask at {host}; got "
            "none. Set one, or serve everybody who comes with --allow-open"
        )
    with ExitStack() as opened:
        if processes > 1:
            holder = opened.enter_context(reserved(host, port))
            port = holder.getsockname()[1]
            number, children = forked(processes)
            if number < 0:
                raise typer.Exit(waited(children))
        # Opened before anything is loaded, so that a port in use fails at once.
        listener = opened.enter_context(listening(host, port, shared=processes > 1))
        with loading("Feast and TensorFlow"):
            from serving.publish.ask import ask
            from serving.publish.feast_store import open_store
            from serving.request.limits import LOOPBACK as HOSTS
            from serving.request.limits import Limits
            from serving.request.server import server_of
            from serving.request.service import application
            from serving.request.vectors import RequestTime

        with working("loading models and items"):
            store = open_store(settings)
            ask(settings, store)
            requests = RequestTime(settings, store)
            beside, why_not = _recommending(settings, store, requests, threads)
        limits = Limits(threads, max_in_flight, timeout=timeout)
        hosts = (*HOSTS, host, *(allow_host or ()))
        server = server_of(application(requests, limits, refresh, hosts, beside, token), limits)
        # uvicorn finishes the requests in flight, then raises the signal again: ignore that one.
        for signalled in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signalled, lambda *_: None)
        address = f"http://{host}:{listener.getsockname()[1]}"
        views = ", ".join(model.aggregator.view for model in requests.loaded)
        console.print(
            f"[green]✓[/] serving {escape(views)} on {escape(address)}/embed", soft_wrap=True
        )
        if why_not:
            console.print(f"[yellow]![/] no recommendations: {escape(why_not)}", soft_wrap=True)
        else:
            console.print(
                f"[green]✓[/] recommending on {escape(address)}/recommend; the page is "
                f"{escape(address)}/",
                soft_wrap=True,
            )
        server.run(sockets=[listener])


def _recommending(
    settings: Config, store: "FeatureStore", requests: "RequestTime", threads: int
) -> "tuple[list[RecommendService], str]":
    """Open the recommendations; where they cannot be made yet, return why."""
    from serving.recommend.impressions import open_impressions
    from serving.recommend.input_log import InputLog
    from serving.recommend.metrics import RecommendMetrics
    from serving.recommend.parts import open_parts, reopening
    from serving.recommend.recommend import Recommender
    from serving.recommend.service import RecommendService
    from serving.recommend.standby import WorkspaceStandby

    try:
        parts = open_parts(settings, store, requests)
    except InputError as error:
        return [], str(error)
    reopen = reopening(settings, store, requests)
    metrics = RecommendMetrics()
    impressions = open_impressions(settings, metrics)
    log = InputLog(settings, store, metrics) if settings.recommend.log_features else None
    standby = WorkspaceStandby(settings, store, requests)
    recommender = Recommender(settings, parts, reopen, threads, metrics, log=log, standby=standby)
    return [RecommendService(recommender, impressions)], ""


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
    now = clock.now() if at is None else read_timestamp(at)

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
