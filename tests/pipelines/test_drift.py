"""A run that a fault stops from fitting; who is told of it."""

import json
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from operations.drift import note, standing
from operations.drift_rule import Finding
from operations.ledger import Ledger
from pipelines.cli import app as cli
from pipelines.cli.status import drift_line
from pipelines.drift.alerts import alert_of_stops
from pipelines.ranking import train
from tests.worlds.events import AS_OF, DAY, configure
from tests.worlds.workspace import AVERAGE, END, Workspace
from transformations.config import CONFIG_VARIABLE


def write_days(workspace: Workspace, first: int, last: int, per_day: int = 150) -> None:
    """Append what happens from one day after END to before another, both counted in days."""
    kinds = ("play", "play", "dismiss")
    rows = [
        f"{n % 40},g-{(n * 7 + day) % 6},{kinds[n % 3]},"
        f"{END + day * DAY + n * DAY / per_day:%Y-%m-%d %H:%M:%S}"
        for day in range(first, last)
        for n in range(per_day)
    ]
    with (workspace.root / "source" / "events.csv").open("a") as file:
        file.write("\n".join(rows) + "\n")


DECAY_THERE = 'GeometricDecay(version=1, decay=0.5, items="co_actions_v1")'
ENCODERS = ("TfidfSvd(version=1)", "CoActions(version=1)")
TELLS = "import sys; print(sys.stdin.read(), file=open('told.json', 'a'))"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A good snapshot, then a day with thrice the actions, and new lines to be fitted."""
    workspace = Workspace(tmp_path_factory.mktemp("drift"))
    events = workspace.root / "source" / "events.csv"
    events.write_text("user_id,product,event_type,ts\n")
    write_days(workspace, -20, 0)
    command = json.dumps([sys.executable, "-c", TELLS])
    workspace.setting("dim: 2", f"dim: 2\nalerts: {{command: {command}}}")
    workspace.run(END)
    write_days(workspace, 0, 1, per_day=450)
    workspace.lines(AVERAGE, DECAY_THERE, "LearnedDecay(version=1)", encoders=ENCODERS)
    workspace.run(END + DAY)
    return workspace


def told(workspace: Workspace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workspace.root / "told.json").read_text().splitlines()]


def call(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv(CONFIG_VARIABLE, str(workspace.root))
    ended = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["drift", *arguments])
    return ended.exit_code, re.sub(r"\s+", " ", ended.output)


def test_a_stop_pauses_fitting_and_nothing_else(
    stopped: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(stopped.config)
    assert "rows" in {str(one) for one in standing(ledger)}
    assert "drift, stop: rows is 450, expected 150" in stopped.said
    for waiting in ("co_actions_v1", "learned_decay_v1"):
        assert f"fitting is paused: {waiting} waits" in stopped.said
    assert stopped.services() == ["ranker_average_v1"]
    assert ledger.newest_published() == END + DAY  # the snapshot itself is online
    assert stopped.online("ranker_average_v1")["n_actions"] == 32
    code, said = call(monkeypatch, stopped)
    assert code == 1
    assert "Fitting is paused" in said
    assert "members" not in said
    assert "members" in call(monkeypatch, stopped, "--all")[1]
    file = stopped.root / "drift.prom"
    assert call(monkeypatch, stopped, "--prometheus", str(file))[0] == 1
    lines = file.read_text().splitlines()
    assert 'activity_drift_measure{about="activity",measure="rows",part=""} 450.0' in lines
    assert f"activity_drift_stops {len(standing(ledger))}.0" in lines
    assert f"Drift pauses fitting:[/] {len(standing(ledger))} stops" in drift_line(ledger)
    (alerted,) = told(stopped)
    assert alerted["as_of"] == (END + DAY).isoformat()
    assert ("rows", 450.0) in [(stop["measure"], stop["value"]) for stop in alerted["stops"]]


def test_a_stop_pauses_rankers(stopped: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this one could be read: it fails as soon as somebody tries to fit it."""
    monkeypatch.setattr(train, "untrained", lambda _: ["linear_v1"])
    stopped.do("recommend", lambda stages: train.train_rankers(stopped.config, END + DAY, stages))
    assert "fitting is paused: linear_v1 waits" in stopped.said


def test_it_goes_on_when_it_is_accepted(
    stopped: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped.lines(AVERAGE, DECAY_THERE, encoders=ENCODERS)
    stopped.run(END + DAY)  # again, and it still waits
    assert stopped.services() == ["ranker_average_v1"]
    assert len(told(stopped)) == 1
    assert call(monkeypatch, stopped, "accept", "--why", " ")[0] != 0
    code, said = call(monkeypatch, stopped, "accept", "--why", "a film came out")
    assert (code, "accepted: rows is 450" in said) == (0, True)
    assert call(monkeypatch, stopped)[0] == 0
    stopped.run(END + DAY)
    assert stopped.services() == ["ranker_average_v1", "ranker_decay_v1"]


def test_it_goes_on_when_a_day_is_normal_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "normal")
    (workspace.root / "source" / "events.csv").write_text("user_id,product,event_type,ts\n")
    write_days(workspace, -20, 0)
    workspace.run(END)
    workspace.lines(AVERAGE, encoders=ENCODERS)
    encoders = workspace.config.layout.root / "item_encoders" / "co_actions"
    workspace.run(END + DAY)  # the source lost a day
    assert not encoders.exists()
    assert "rows is 0, expected 150" in workspace.said
    write_days(workspace, 1, 2)
    workspace.run(END + 2 * DAY)
    assert encoders.exists()
    assert standing(Ledger(workspace.config)) == []


def test_a_first_run_fits_whatever_the_day_is_like(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "first")
    (workspace.root / "source" / "events.csv").write_text("user_id,product,event_type,ts\n")
    write_days(workspace, -20, -1)
    workspace.run(END)
    assert standing(Ledger(workspace.config))
    assert workspace.services() == ["ranker_average_v1"]


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_who_is_not_told_gets_all_that_stands_with_the_next_try(tmp_path: Path) -> None:
    """The command is told of each stop once, whatever becomes of the webhook."""
    with HTTPServer(("127.0.0.1", 0), type("OwnHook", (Hook,), {"got": []})) as server:
        port = server.server_port  # nobody listens there when it is closed
    command = [sys.executable, "-c", TELLS.replace("told.json", str(tmp_path / "told.json"))]
    url = f"http://127.0.0.1:{port}/x"
    config = configure(tmp_path, alerts={"command": command, "webhook": url})
    ledger = Ledger(config)

    def run(*measures: str) -> list[str]:
        stops = [
            Finding("activity", name, "", "count", 0.0, 0, baseline=500.0, verdict="stop")
            for name in measures
        ]
        found = note(ledger, AS_OF, "activity", stops)
        new = [one for one in found if one.stops and one.alerted_at is None]
        return alert_of_stops(config, ledger, AS_OF, new, AS_OF)

    def told() -> list[list[str]]:
        lines = (tmp_path / "told.json").read_text().splitlines()
        return [[stop["measure"] for stop in json.loads(line)["stops"]] for line in lines]

    (said,) = run("rows")
    assert said.startswith("alerts.webhook: ")
    assert run("rows") == []  # it is tried, and not said again
    assert run("rows", "items") == []
    assert told() == [["rows"], ["items"]]
    got: list[dict[str, Any]] = []
    with HTTPServer(("127.0.0.1", port), type("OwnHook", (Hook,), {"got": got})) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        (said,) = run("rows", "items")
        thread.join()
    assert said.startswith("alerts.webhook works again")
    (body,) = got
    assert [stop["measure"] for stop in body["stops"]] == ["items", "rows"]
    wanted = {"measure": "rows", "part": "", "value": 0.0, "baseline": 500.0, "lowest": None}
    assert wanted.items() <= body["stops"][1].items()
    assert body["text"].startswith("Fitting is paused. items is 0, expected 500")
    assert len(told()) == 2


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    stop = Finding("activity", "rows", "", "count", 0.0, 0, verdict="stop", as_of=AS_OF)
    for command, why in (("false", "false ended with 1: "), ("no-such-one", "No such file")):
        config = configure(tmp_path / command, alerts={"command": command})
        (said,) = alert_of_stops(config, Ledger(config), AS_OF, [stop], AS_OF)
        assert said.startswith("alerts.command: ")
        assert why in said


def test_a_webhook_that_speaks_another_protocol_ends_no_run(tmp_path: Path) -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(100_000)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    stop = Finding("activity", "rows", "", "count", 0.0, 0, verdict="stop", as_of=AS_OF)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        config = configure(tmp_path, alerts={"webhook": url})
        (said,) = alert_of_stops(config, Ledger(config), AS_OF, [stop], AS_OF)
        thread.join()
    assert said.startswith("alerts.webhook: SSH-2.0")


def test_measures_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    assert configure(tmp_path, drift={"only_warn": ["clock"]}).drift.only_warn == ["clock"]
    with pytest.raises(ValueError, match=r"expected some of rows, members, .*; got clocks"):
        configure(tmp_path, drift={"only_warn": ["clock", "clocks"]})
