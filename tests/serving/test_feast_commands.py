"""Feast's own commands on a workspace whose snapshot is online (docs/feast.md names each)."""

import re
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator

import grpc
import pandas as pd
import pyarrow.flight
import pytest
from feast import FeatureStore, FileSource, Project, RepoConfig
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from serving import publish
from tests.worlds.feast_cli import FeastClone, free_port
from transformations.config import ROOT

DOCS = (ROOT / "docs" / "feast.md").read_text()
NO_CHANGE = ("No changes to registry", "No changes to infrastructure")


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> FeastClone:
    """A published workspace that no test changes."""
    clone = FeastClone(tmp_path_factory.mktemp("served"))
    clone.publish()
    return clone


@pytest.fixture
def workspace(tmp_path) -> FeastClone:
    return FeastClone(tmp_path)


@pytest.fixture(autouse=True)
def nothing_else_is_left(request) -> Iterator[None]:
    """What a command leaves in the repository's root is ignored by git."""
    name = "served" if "served" in request.fixturenames else "workspace"
    root = request.getfixturevalue(name).root
    before = {path.name for path in root.iterdir()}
    yield
    ignored = (ROOT / ".gitignore").read_text().split()
    left = {path.name for path in root.iterdir()} - before - {"data"}
    assert {name for name in left if f"/{name}/" not in ignored} == set()


def test_plan_finds_nothing_after_apply_and_after_a_run(workspace, monkeypatch):
    with monkeypatch.context() as patch:  # as an older version did
        patch.setattr("feature_repo.views.declared_source", FileSource)
        workspace.publish()
    assert "Updated feature view" in workspace.feast("plan")
    workspace.feast("apply")
    assert all(line in workspace.feast("plan") for line in NO_CHANGE)
    workspace.publish()
    assert all(line in workspace.feast("plan") for line in NO_CHANGE)


def test_apply_of_another_configurations_project_is_refused_by_feast(workspace):
    settings = workspace.root / "feature_store.yaml"
    other = workspace.root / "examples" / "feature_store.other.yaml"
    other.write_text(settings.read_text().replace("project: member_activity", "project: other"))
    said = workspace.feast("-f", str(other), "apply", fails=1)
    assert "Project object name should match" in said


def test_apply_and_a_run_after_teardown(workspace):
    workspace.publish()
    store = publish.open_store(workspace.world.config)
    store.registry.apply_project(Project(name="beside"))
    workspace.feast("teardown")
    store.registry.refresh()
    assert store.list_projects() == []  # the trap: of every project in the registry
    workspace.publish()
    assert all(line in workspace.feast("plan") for line in NO_CHANGE)
    workspace.feast("teardown")
    assert "IntegrityError" in workspace.feast("apply", fails=1)
    (statement,) = re.findall(r"delete from feature_view_version_history[^\n;]*", DOCS)
    with sqlite3.connect(workspace.root / "data" / "registry.db") as registry:
        registry.execute(statement)
    registry.close()
    workspace.feast("apply")
    workspace.publish()


def test_serve_registry_starts(served):
    port = free_port()
    with (
        served.serving("serve_registry", "--port", str(port)),
        grpc.insecure_channel(f"localhost:{port}") as channel,
    ):
        grpc.channel_ready_future(channel).result(timeout=600)
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=600)
        assert answer.status == HealthCheckResponse.SERVING


def test_ui_starts_and_needs_nothing_from_elsewhere(served):
    port = free_port()
    with served.serving("ui", "--host", "127.0.0.1", "--port", str(port)) as server:
        until(server, "Uvicorn running on")
        page = fetch(port, "/")
        assert "member_activity" in fetch(port, "/api/v1/projects")
    # Scripts, styles and fonts are its own: no address of another server.
    assert re.findall(r"(?:src|href)=\"(?!/)[^\"]*\"", page) == []
    assert "<script" in page


def test_serve_starts(served):
    port = free_port()
    with served.serving("serve", "--host", "127.0.0.1", "--port", str(port)) as server:
        until(server, "Application startup complete")
        assert fetch(port, "/health") == ""


def test_serve_offline_joins_without_the_created_timestamp_only(served):
    port = free_port()
    settings = {
        "project": "member_activity",
        "provider": "local",
        "registry": {
            "registry_type": "sql",
            "path": f"sqlite:///{served.root}/data/registry.db",
        },
        "offline_store": {"type": "remote", "host": "127.0.0.1", "port": port},
        "online_store": {"type": "sqlite", "path": f"{served.root}/data/online.db"},
        "entity_key_serialization_version": 3,
    }
    store = FeatureStore(config=RepoConfig(**settings))
    labels = pd.DataFrame({"member_id": [1], "event_timestamp": [pd.Timestamp("2026-03-02T01Z")]})
    features = ["member_activity_sequence:n_actions"]
    with served.serving("serve_offline", "--host", "127.0.0.1", "--port", str(port)):
        with pyarrow.flight.connect(f"grpc://127.0.0.1:{port}") as client:
            client.wait_for_available(60)
        # Five hours before anybody could read the row: what the filter would keep away.
        assert store.get_historical_features(labels, features).to_df()["n_actions"].tolist() == [1]
        with pytest.raises(
            NotImplementedError,
            match="filter_by_created_timestamp is not supported by RemoteOfflineStore",
        ):
            store.get_historical_features(labels, features, filter_by_created_timestamp=True)


def test_monitor_computes_only_plain_numbers_and_says_completed(served):
    said = served.feast("monitor", "run")
    assert "Status: completed" in said
    assert "iews computed: 1\n" in said  # the statistics of members: no column is a list
    assert (served.root / "feast_monitoring").is_dir()


def until(server: subprocess.Popen[str], line: str) -> None:
    """Read what a server prints until it has printed a line."""
    assert server.stdout is not None
    said = []
    for text in server.stdout:
        said.append(text)
        if line in text:
            return
    raise AssertionError("".join(said))


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=600) as answer:
        return answer.read().decode()
