"""Telling somebody of new stops: a command that reads JSON, or a URL that it is posted to."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from operations.drift import Finding
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


def alert(config: Config, as_of: datetime, stops: Sequence[Finding]) -> list[str]:
    """Tell all whom `alerts` names; return what went wrong, one text each."""
    body = json.dumps(message(config, as_of, stops)).encode()
    return [redact(failure) for failure in _failures(config, body)]


def _failures(config: Config, body: bytes) -> Iterator[str]:
    command, url = config.alerts.command, expanded(config.alerts.webhook, "webhook_secret")
    if command:
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
            yield f"alerts.command: {error}"
        else:
            if ended.returncode:
                said = ended.stderr.decode(errors="replace").strip()[-200:]
                yield f"alerts.command: {command[0]} ended with {ended.returncode}: {said}"
    if url:
        request = urllib.request.Request(
            url, body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                pass
        except (OSError, ValueError) as error:
            yield f"alerts.webhook: {error}"
