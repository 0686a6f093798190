"""examples/deploy/: what it starts is there, and says so where nothing is due."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipelines.cli import app as cli
from tests.operations.test_rhythm import Noted
from transformations.config import ROOT

FOLDER = ROOT / "examples" / "deploy"
INSTALLED = "/opt/activity/.venv/bin/activity"


def text(name: str) -> str:
    return (FOLDER / name).read_text()


def command_lines() -> dict[str, list[str]]:
    """Return what follows `activity` in each file, by where it stands."""
    found = {}
    for name in ("crontab", "activity-run.service"):
        for number, line in enumerate(text(name).splitlines()):
            if INSTALLED in line and not line.startswith("#"):
                found[f"{name}:{number + 1}"] = shlex.split(line.partition(INSTALLED)[2])
    for one in yaml.safe_load_all(text("kubernetes.yaml")):
        for container in containers(one):
            found[f"kubernetes {container['name']}"] = container["args"]
    for number, step in enumerate(
        yaml.safe_load(text("pull-request.yml"))["jobs"]["plan"]["steps"]
    ):
        if "activity/.venv/bin/activity" in step.get("run", ""):
            found[f"pull-request.yml {number}"] = shlex.split(step["run"])[1:]
    for number, line in enumerate(re.findall(r"^#.*?\bactivity ((?:run|serve).*)$",
                                             text("Dockerfile"), re.MULTILINE)):  # fmt: skip
        found[f"Dockerfile {number}"] = shlex.split(line)
    return found


def containers(one: Any) -> list[dict[str, Any]]:
    """Return the containers of a Kubernetes object, however deep."""
    if isinstance(one, list):
        return [found for each in one for found in containers(each)]
    if not isinstance(one, dict):
        return []
    return [*one.get("containers", []), *containers([*one.values()])]


@pytest.mark.parametrize("arguments", command_lines().values(), ids=command_lines().keys())
def test_each_command_line_is_one_that_there_is(arguments: list[str]) -> None:
    command = typer.main.get_command(cli.app)
    name, *given = arguments
    found = command.commands[name]  # type: ignore[attr-defined]
    found.make_context(name, given, resilient_parsing=False)


def test_all_files_have_a_command_line() -> None:
    files = {where.split(":")[0].split()[0] for where in command_lines()}
    assert files == {"crontab", "activity-run.service", "kubernetes", "pull-request.yml",
                     "Dockerfile"}  # fmt: skip


def test_probes_ask_what_the_service_answers_without_a_token() -> None:
    from serving.request.limits import OPEN

    (serve,) = (
        container
        for one in yaml.safe_load_all(text("kubernetes.yaml"))
        for container in containers(one)
        if container["name"] == "serve"
    )
    asked = {name: serve[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe")}
    assert asked == {"readinessProbe": "/ready", "livenessProbe": "/health"}
    assert {*asked.values()} <= {*OPEN}


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which nothing is due."""
    noted = Noted(tmp_path_factory.mktemp("idle") / "workspace")
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    noted.run(midnight)
    noted.touch(midnight - timedelta(days=1))
    noted.fit_all(midnight)
    return noted.root


@pytest.fixture(scope="module")
def activity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `activity` that starts this clone's code."""
    file = tmp_path_factory.mktemp("bin") / "activity"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines.cli "$@"\n')
    file.chmod(0o755)
    return file


def here(line: str, activity: Path, idle: Path) -> str:
    return line.replace(INSTALLED, str(activity)).replace("/srv/activity", str(idle))


@pytest.mark.parametrize("name", ["crontab", "activity-run.service"])
def test_a_scheduled_run_says_that_nothing_is_due(name: str, activity: Path, idle: Path) -> None:
    (line,) = (line for line in text(name).splitlines() if " run " in line and INSTALLED in line)
    command = line.removeprefix("ExecStart=")
    if name == "crontab":
        *_, command = re.fullmatch(r"(\S+ \S+ \S+ \S+ \S+) (\w+) (.*)", line).groups()  # type: ignore[union-attr]
    done = subprocess.run(
        ["sh", "-c", here(command, activity, idle)],
        cwd=idle,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing is due. Next: " in " ".join(done.stdout.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path, activity: Path, idle: Path) -> None:
    for name in ("activity-run.service", "activity-run.timer"):
        unit = here(text(name), activity, idle).replace("User=activity\n", "")
        (tmp_path / name).write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(tmp_path / "activity-run.timer"),
         str(tmp_path / "activity-run.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_is_built_by_the_script_and_by_nothing_that_it_leaves_out() -> None:
    runs = re.findall(r"^RUN (.*)$", text("Dockerfile"), re.MULTILINE)
    assert runs[0] == "/opt/activity/examples/deploy/install.sh"
    assert os.access(FOLDER / "install.sh", os.X_OK)
    assert "examples/deploy/install.sh" in (ROOT / ".ci" / "run").read_text()
    subprocess.run(["sh", "-n", str(FOLDER / "install.sh")], check=True)
