"""Damaged state files: each is named, with what is lost and the command that mends it."""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from operations.ledger import Ledger
from operations.releases import releases
from operations.sources import note_sources
from operations.state_files import damaged, state_files
from operations.workspace import workspace_of
from pipelines.cli.app import main
from tests.worlds.events import AS_OF, Event, at, configure, write_source
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.sources import stage_activity
from transformations.tombstones import Tombstones

FITTED = (
    "item_encoders/tfidf_svd/v1/encoder.npz",
    "artifacts/decay/v1/weights.bin",
    "artifacts/rankers/wide/v1_f2/weights.bin",
)


def database(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as con, con:
        con.execute("create table a (b)")
        con.executemany("insert into a values (?)", [("x" * 500,)] * 200)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A workspace in which something ran; each kind of file is there."""
    source = write_source(tmp_path / "events.parquet", [Event(1, 2, "SAVE", at("2026-03-01"))])
    raw = {
        "data_dir": str(tmp_path / "data"),
        "feature_store": str(tmp_path / "feature_store.yaml"),
        "events": {"source": str(source)},
        "items": {"text": ["title"]},
    }
    settings = {
        "project": "p",
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{tmp_path}/data/registry.db"},
        "online_store": {"type": "sqlite", "path": str(tmp_path / "data" / "online.db")},
    }
    (tmp_path / "activity.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    config = load_config(tmp_path / "activity.yaml")
    ledger = Ledger(config)
    ledger.finish(ledger.start("run", AS_OF))
    ledger.engine.dispose()
    workspace_of(config)
    note_sources(config)
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
    Tombstones(config).add([7])
    for file in ("online.db", "registry.db", "state/stream.db", "mlflow/mlflow.db"):
        database(config.data / file)
    fitted = hashlib.sha256(b"fitted").hexdigest()
    package = {"weights_sha256": "", "files": {"weights.bin": fitted}}
    for note, held in (
        ("state/items_online/tfidf_svd.json", {"target": "", "as_of": "", "files": {}}),
        ("item_encoders/tfidf_svd/v1/manifest.json", {"sha256": fitted}),
        ("artifacts/decay/v1/manifest.json", package),
        ("artifacts/rankers/wide/v1_f2/manifest.json", package),
        ("quarantine/_layout.json", {"period": "day"}),
        ("impressions/_layout.json", {"period": "day"}),
    ):
        (config.data / note).parent.mkdir(parents=True, exist_ok=True)
        (config.data / note).write_text(json.dumps(held))
    for file in FITTED:
        (config.data / file).write_bytes(b"fitted")
    return config


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeros(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def other(file: Path) -> None:
    file.write_text("[]")


def test_all_are_there_and_whole(config: Config) -> None:
    files = state_files(config)
    assert [one.file for one in files if not one.file.exists()] == []
    assert [str(one) for one in files if one.problem] == []
    assert len(files) == len({one.file for one in files}) == 17


@pytest.mark.parametrize("damage", [emptied, cut, zeros, other])
def test_a_damaged_one_is_named_with_what_mends_it(
    config: Config, damage: Callable[[Path], None]
) -> None:
    for one in state_files(config):
        kept = one.file.read_bytes()
        damage(one.file)
        assert [found.file for found in damaged(config)] == [one.file], one.name
        assert str(one.file) in str(one)
        assert one.lost in str(one)
        assert "mv " in one.command
        assert "activity " in one.command
        one.file.write_bytes(kept)


@pytest.mark.parametrize("name", FITTED)
def test_a_bit_of_a_package_that_flips_is_found(config: Config, name: str) -> None:
    file = config.data / name
    file.write_bytes(b"fittee")
    (found,) = damaged(config)
    assert found.file == file.parent / "manifest.json"
    assert f"{file.name}: expected the SHA-256" in str(found)
    file.unlink()
    assert damaged(config) == [found]


RELEASE = "insert into release (number, made_at, gates) values (1, {}, {})"
PROMOTION = "insert into promotion values (1, 'online', 1, 1, 0, {}, null)"
EXPERIMENT = (
    "insert into experiment values ('one', 's', 'member', 0.1, null, null, 'SAVE', {}, 0.1, 2, "
    "100, 0.05, '2026-03-01', null, null, null)"
)
FIT = "insert into fit (kind, name, version, fit, made_at) values ('space', 'a', 1, 1, {})"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (RELEASE.format("'2026-03-01T00:00:00+00:00'", "null"), ""),
        (RELEASE.format("'2026-03-01'", "'{}'"), ""),
        (RELEASE.format("'2026-0s-01'", "null"), "2026-0s-01"),
        (RELEASE.format("'2026-03-01'", "'{\"passed\": tr'"), "JSON"),
        (PROMOTION.format("'20260-03-01'"), "20260-03-01"),
        (EXPERIMENT.format("'[]'"), ""),
        (EXPERIMENT.format("'[}'"), "JSON"),
        (FIT.format("'\x1b'"), "isoformat"),
    ],
)
def test_a_damaged_row_of_the_ledger_is_found(config: Config, row: str, problem: str) -> None:
    assert releases(config) == []  # makes the tables
    with closing(sqlite3.connect(config.layout.ledger)) as con, con:
        con.execute(row)
    found = damaged(config)
    assert [one.file for one in found] == ([config.layout.ledger] if problem else [])
    assert all(problem in str(one) for one in found)


def test_what_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    assert damaged(configure(tmp_path)) == []


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["activity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("damage", [emptied, zeros, other])
@pytest.mark.parametrize("name", ["state/ledger.db", "state/stg_activity.json"])
def test_a_command_that_meets_one_says_so(
    config: Config, monkeypatch: pytest.MonkeyPatch, capfd: Any, name: str, damage: Any
) -> None:
    damage(config.data / name)
    workspace = ("--config", str(config.file))
    assert command(monkeypatch, "status", "--files", *workspace) == 1
    assert "mv " in capfd.readouterr().out
    code = command(monkeypatch, "run", "--as-of", "2026-03-10", *workspace)
    if damage is emptied and name.endswith(".db"):
        return  # an empty file is a new ledger to SQLite
    said = " ".join(capfd.readouterr().err.split())
    assert code == 1
    assert f"{config.data / name} (" in said
    assert "is damaged" in said
    assert "Lost is" in said
    assert "unexpected" not in said


def test_what_mends_the_staging_mark_mends_it(config: Config) -> None:
    (one,) = [one for one in state_files(config) if one.name == "staging mark"]
    zeros(one.file)
    one.file.rename(f"{one.file}.damaged")
    with connect(config) as con:
        assert stage_activity(config, con, AS_OF).rows_in == 1
    assert damaged(config) == []


def test_a_workspace_that_is_whole_exits_with_0(
    config: Config, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    assert command(monkeypatch, "status", "--files", "--config", str(config.file)) == 0
    assert "whole" in capfd.readouterr().out
