"""What the commands have in common: the configuration they read, times, paths as they are shown."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from pipelines.progress import short
from pipelines.terminal import Terminal, escape
from transformations.config import CONFIG, CONFIG_VARIABLE, Config, load_config
from transformations.durations import Duration
from transformations.engine_settings import ANY_CORE
from transformations.errors import InputError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=CONFIG_VARIABLE,
        help="A workspace, or a configuration file; default: the workspace that you stand in, "
        "else the repository.",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the whole traceback when something fails.")
]

ACTED_ON: Config | None = None
"""What the command acts on, once it has loaded it."""


def settings_of(path: Path | None) -> Config:
    """Load the configuration that a command was given, or the default one."""
    if path is not None:
        # feature_repo reads the same configuration when Feast imports it.
        file = path.expanduser()
        os.environ[CONFIG_VARIABLE] = str(file.resolve() if file.exists() else file)
    global ACTED_ON
    config = ACTED_ON = load_config(path)
    own = config.file == config.root / CONFIG
    place = config.root if own else config.file  # another file may name other data
    where = place if place == Path.cwd() else short(place)
    Terminal(stderr=True).print(
        f"[dim]workspace {escape(str(where))}[/]", highlight=False, soft_wrap=True
    )
    return config


EngineOption = Annotated[
    Literal["local", "spark"] | None,
    typer.Option("--engine", help="Who builds the tables of members; default: engine.kind."),
]


def by_engine(config: Config, kind: Literal["local", "spark"] | None) -> Config:
    """Return the configuration with the engine that a command was given, if it was.

    Raises:
        InputError: Spark, and tables that lie in one bucket.
    """
    if kind in (None, config.engine.kind):
        return config
    kept = {} if kind == "spark" else {"master": ANY_CORE, "conf": {}}
    if kind == "spark" and config.layout.buckets == 1:
        raise InputError(
            f"--engine spark builds bucket by bucket; expected layout.buckets of 2 or more in "
            f"{config.file.name}, got 1"
        )
    return config.model_copy(
        update={"engine": config.engine.model_copy(update={"kind": kind, **kept})}
    )


def confirm(yes: bool, command: str) -> None:
    """Ask whether to remove what was shown.

    Raises:
        InputError: nobody is there to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"nothing was removed; to remove this: {command} --yes")
    typer.confirm("Remove this?", abort=True)


def read_duration(text: str) -> timedelta:
    """Read a duration such as 7d or 12h.

    Raises:
        InputError: it is not one.
    """
    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
