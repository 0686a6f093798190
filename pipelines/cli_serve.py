"""The command `activity serve`: members' vectors at request time, over HTTP."""

import signal
import socket
from typing import Annotated

import typer
from rich.console import Console

from pipelines.options import ConfigOption, DebugOption, settings_of
from transformations.errors import InputError

app = typer.Typer()
console = Console()


@app.command("serve", epilog="Example: activity serve --port 6570")
def serve_command(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 6570,
    threads: Annotated[int, typer.Option(min=1, help="Requests computed at once.")] = 2,
    inside: Annotated[
        int, typer.Option(min=1, help="Requests waiting or computed at once; more get 429.")
    ] = 32,
    refresh: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks for new models and items.")
    ] = 10.0,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Serve POST /embed, GET /health and GET /metrics until SIGTERM or Ctrl-C."""
    settings = settings_of(config)

    import uvicorn  # with the service: TensorFlow, 5 seconds

    from pipelines.publish import open_store
    from serving.gate import Limits
    from serving.request_time import RequestTime
    from serving.service import application

    # Taken before the models are loaded, so that a port in use is told at once.
    with _listening(host, port) as listening:
        with console.status("loading models and items"):
            requests = RequestTime(settings, open_store(settings))
        service = application(requests, Limits(threads=threads, inside=inside), refresh)
        address = f"http://{host}:{listening.getsockname()[1]}"
        views = ", ".join(model.aggregator.view for model in requests.models.loaded)
        console.print(f"[green]✓[/] serving {views} on {address}/embed", soft_wrap=True)
        server = uvicorn.Server(
            uvicorn.Config(
                service, log_level="warning", access_log=False, timeout_graceful_shutdown=10
            )
        )
        # uvicorn answers what is inside, then raises the signal again, for those who wait for it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise InputError(
            f"expected an address that is free, came {host}:{port}: {error.strerror}; choose "
            "another --port"
        ) from None
