"""Telling somebody of new stops: a command that reads JSON, or a URL that it is posted to."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from http.client import HTTPException
from typing import Any

from operations.alert_failures import failing, note_tried
from operations.drift import note_alerted, standing
from operations.drift_rule import Finding
from operations.ledger import Ledger
from operations.workspace import workspace_of
from transformations.config import Config
from transformations.secrets import expanded, redact

TIMEOUT = 20
"""Seconds that a run waits for a command or a server."""


def message(config: Config, as_of: datetime, stops: Sequence[Finding]) -> dict[str, Any]:
    """Return what is told, as JSON values."""
    return {
        "workspace": workspace_of(config).name,
        "as_of": as_of.isoformat(),
        "text": "Fitting is paused. " + "; ".join(stop.said for stop in stops),
        "todo": "activity drift",
        "stops": [
            {
                "about": stop.about,
                "measure": stop.measure,
                "part": stop.part,
                "value": stop.value,
                "baseline": stop.baseline,
                "lowest": stop.stop[0],
                "highest": stop.stop[1],
            }
            for stop in stops
        ],
    }


def alert_of_stops(
    config: Config, ledger: Ledger, as_of: datetime, new: Sequence[Finding], now: datetime
) -> list[str]:
    """Tell all whom `alerts` names of new stops, and of all that stand where the last one failed.

    Returns what a person has not heard yet: who was not told, and who is told again.
    """
    channels, missed = _channels(config), failing(ledger)
    standing_now = standing(ledger) if missed & {*channels} else []
    tried: dict[str, str | None] = {}
    for name, tell in channels.items():
        stops = standing_now if name in missed else new
        if stops:
            failure = tell(json.dumps(message(config, as_of, stops)).encode())
            tried[name] = None if failure is None else redact(failure)
    if new and tried:
        # Who was not told is in the ledger too, and gets all that stands with the next try.
        note_alerted(ledger, new)
    return note_tried(ledger, tried, now)


def _channels(config: Config) -> dict[str, Callable[[bytes], str | None]]:
    """Return by key of `alerts` what tells somebody, and returns what went wrong."""
    found: dict[str, Callable[[bytes], str | None]] = {}
    if config.alerts.command:
        found["command"] = partial(_command, config)
    if config.alerts.webhook:
        found["webhook"] = partial(_webhook, expanded(config.alerts.webhook, "webhook_secret"))
    return found


def _command(config: Config, body: bytes) -> str | None:
    command = config.alerts.command
    try:
        ended = subprocess.run(
            command,
            input=body,
            cwd=config.root,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = ended.stderr.decode(errors="replace").strip()[-200:]
    return f"{command[0]} ended with {ended.returncode}: {said}" if ended.returncode else None


def _webhook(url: str, body: bytes) -> str | None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return None
    except (OSError, ValueError, HTTPException) as error:
        return str(error) or type(error).__name__
