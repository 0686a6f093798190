"""Recommendations from a workspace: made by a run, served by the command, shown by another."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app as cli
from serving.recommend.asked import Request
from serving.recommend.parts import open_parts, reopening
from serving.recommend.recommend import Recommender
from serving.request.sequences import Event
from tests.pipelines.test_candidates import CANDIDATES, DECAY, ENCODERS
from tests.pipelines.test_item_spaces import market
from tests.worlds.workspace import AVERAGE, END, Workspace
from transformations.config import ROOT
from transformations.errors import InputError


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("recommend"), AVERAGE)
    workspace.setting("fit_holdback:", "recommend: {deadline: 60s}\nfit_holdback:")
    workspace.lines(AVERAGE, DECAY, encoders=ENCODERS, candidates=CANDIDATES[:4])
    workspace.run(END)
    return workspace


def test_what_a_run_published_is_recommended(served: Workspace) -> None:
    config, store = served.config, served.store
    with Recommender(config, open_parts(config, store), reopening(config, store)) as recommender:
        answer = recommender.of(Request("3", 8))
        assert (answer.path, answer.member_known) == ("votes", True)
        assert len(answer.items) == 8
        assert answer.fits == {
            "popular_v1": "popular_items_popular_v1",
            "new_v1": "popular_items_new_v1",
            "co_actions_v1": "item_neighbours_co_actions_v1",
            "decay_v1": "member_activity_decay_v1",
            "reasons": "tfidf_svd_v1",
        }
        assert recommender.of(Request(3, 8)).path == "cached"
        lines = {source for item in answer.items for source in item.sources}
        assert lines == {"popular_v1", "co_actions_v1", "decay_v1"}
        did = {row["item_id"]: row for row in recommender.actions("3")[::-1]}  # the newest counts
        assert all(row["event_timestamp"].utcoffset() is not None for row in did.values())
        for item in answer.items:
            assert item.title
            assert item.reason is not None
            assert item.reason.item_id in did
            assert did[item.reason.item_id]["sign"] >= 0
        # An action that no store has: its neighbours come.
        first = answer.items[0].item_id
        event = Event(99_999, first, "play", recommender.actions("3")[0]["event_timestamp"])
        new = recommender.of(Request(99_999, 20, events=[event]))
        assert not new.member_known
        assert "co_actions_v1" in {source for item in new.items for source in item.sources}
        near = recommender.neighbours(first, 3)
        assert len(near) == 3
        assert not recommender.refresh()
        served.config.layout.staged_items.touch()
        assert recommender.refresh()
        assert recommender.of(Request(3, 8)).path == "votes"


def test_the_command_shows_actions_and_a_list_with_reasons(served: Workspace) -> None:
    runner = CliRunner()
    result = runner.invoke(cli.app, ["recommend", "3", "--n", "4", "--config", str(served.root)])
    assert result.exit_code == 0, result.output
    assert "Member 3: the last of" in result.output
    assert "Recommendations, ordered by the sources' votes" in result.output
    assert re.search(r"popular_v1: \d+|co_actions_v1: \d+|decay_v1: \d+", result.output)
    assert "like g-" in result.output
    nobody = runner.invoke(cli.app, ["recommend", "99999", "--config", str(served.root)])
    assert nobody.exit_code == 0, nobody.output
    assert "the last of 0 actions known" in nobody.output
    wrong = runner.invoke(cli.app, ["recommend", "x", "--config", str(served.root)])
    assert isinstance(wrong.exception, InputError)


def ask(address: tuple[str, int], path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*address, timeout=600)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    read = response.read().decode()
    connection.close()
    return response.status, json.loads(read) if read.startswith("{") else read


def test_two_processes_serve_one_port_and_end_together(served: Workspace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(served.root)]
    with (
        (tmp_path / "said").open("w") as errors,
        subprocess.Popen(
            [*command, "--port", "0", "--processes", "2"],
            cwd=ROOT,
            env=os.environ | {"ACTIVITY_TOKEN": "a token"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(4)]  # two lines of each
            ports = {found for line in said for found in re.findall(r"127\.0\.0\.1:(\d+)/", line)}
            (port,) = ports
            assert sum("/recommend; the page is http" in line for line in said) == 2, said
            address = ("127.0.0.1", int(port))
            assert ask(address, "/recommend/3")[0] == 401
            for _ in range(8):  # of both, most likely
                status, answer = ask(address, "/recommend/3?n=5", Authorization="Bearer a token")
                assert (status, len(answer["items"])) == (200, 5)
            taken = subprocess.run(
                [*command, "--port", port, "--processes", "2"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert taken.returncode == 2
            assert "expected a free address" in " ".join(taken.stderr.split())
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert "Traceback" not in (tmp_path / "said").read_text()
    parts = served.config.layout.impressions.glob("*/*.parquet")
    assert sum(pq.read_metadata(part).num_rows for part in parts) == 8 * 5  # all that was shown
