"""The command line `activity`: one module a command, or a few that belong together."""

from pipelines.cli.app import main

__all__ = ["main"]
