"""`activity stream`: update sequences and vectors between two daily runs; its demo."""

import logging
import os
import signal
import socket
import threading
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import loading, short, working
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError
from transformations.secrets import redact

app = typer.Typer()
console = Terminal()

BUS = "redis://localhost:6379/0?stream=activity"


@app.command("stream", epilog="Example: activity stream --bus kafka://localhost:9092/activity")
def stream_command(
    config: ConfigOption = None,
    bus: Annotated[
        str,
        typer.Option(
            envvar="ACTIVITY_BUS",
            help="redis://HOST:PORT/DB?stream=NAME or kafka://HOST:PORT/TOPIC; &group=NAME too.",
        ),
    ] = BUS,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Recreate states and online rows from the last snapshot, the rows streamed "
            "since, and the bus. Stop the other workers first.",
        ),
    ] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Replay the last day on a private Redis; changes nothing."),
    ] = False,
    speed: Annotated[
        float, typer.Option(min=1, help="How many times faster the demo's day passes.")
    ] = 100.0,
    max_batch: Annotated[int, typer.Option(min=1, help="Most events in a micro-batch.")] = 1_000,
    linger: Annotated[
        int, typer.Option(min=0, help="Milliseconds to wait for more events after a batch's first.")
    ] = 20,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for Prometheus; 0: none.")
    ] = 0,
    metrics_host: Annotated[
        str, typer.Option(help="The address on which Prometheus asks.")
    ] = "127.0.0.1",
    debug: DebugOption = False,
) -> None:
    """Read activity events from a bus and update members' sequences and vectors."""
    settings = settings_of(config)
    if demo:
        with loading("Feast and TensorFlow"):
            from pipelines.cli.demo import run_demo

        # Handled like Ctrl-C, so that SIGTERM does not leave the demo's Redis running.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run_demo(console, settings, speed)
        return
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)]
    )
    logging.getLogger("serving").setLevel(logging.INFO)
    _work(settings, bus, rebuild, max_batch, linger / 1000, (metrics_host, metrics_port))


def _work(
    settings: Config, url: str, again: bool, max_batch: int, linger: float, metrics: tuple[str, int]
) -> None:
    """Run one worker until SIGTERM or Ctrl-C."""
    with loading("Feast and TensorFlow"):
        from prometheus_client import start_http_server

        from operations.fits import embedded_lines
        from serving.publish.ask import ask
        from serving.publish.feast_store import open_store
        from serving.stream.bus.open import open_bus
        from serving.stream.snapshot import last_snapshot, prepare
        from serving.stream.updater import open_updater
        from serving.stream.worker import Pace, Worker

    last_snapshot(settings)
    lines = embedded_lines(settings)
    streamed = [line for line in lines if line.stream and line.is_packaged(settings)]
    name = f"{socket.gethostname()}-{os.getpid()}"
    source = open_bus(url, name)
    source.ask()
    store = open_store(settings)
    ask(settings, store)
    with working("loading models and items"):
        updater = open_updater(settings, store, streamed, name)
    worker = Worker(settings, source, updater, pace=Pace(max_batch=max_batch, linger=linger))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    host, port = metrics
    if port:
        try:
            server, _ = start_http_server(port, host, registry=worker.metrics.registry)
            handler: Any = server.RequestHandlerClass
            handler.timeout = 5  # seconds that a read may take
        except OSError as error:
            raise InputError(
                f"--metrics-port {port} of {host} cannot be used: {error}; choose another one"
            ) from None
    try:
        with working("preparing the states"):
            prepare(settings, store, updater, source, again=again)
        views = ", ".join(a.view for a in streamed) or (
            f"no vectors: no line of {short(settings.catalogue)} says stream=True"
        )
        console.print(
            f"[green]✓[/] {escape(name)} reads events from {escape(redact(url))} "
            f"into the sequences and {views}",
            soft_wrap=True,
        )
        worker.run(stop)
    finally:
        worker.close()
    console.print("stopped; the streamed rows are in the offline tables")
