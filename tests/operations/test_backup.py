"""Backup and restore: of one time, checked by sums, never over what ran."""

import json
import shutil
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import yaml

from operations.backup import MANIFEST, REGISTRY, back_up
from operations.ledger import RUNS, STAGES, Ledger
from operations.restore import restore
from operations.workspace import workspace_of
from tests.worlds.events import AS_OF
from transformations.config import Config, load_config
from transformations.errors import InputError, RunFailedError
from transformations.seals import damage, sealing
from transformations.tombstones import Tombstones


def write_members(config: Config, *members: int) -> Path:
    file = config.layout.impressions / "period=2026-03-01" / "a.parquet"
    with sealing(file, "activity serve") as temporary:
        pq.write_table(pa.table({"member_id": members}), temporary)
    return file


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A workspace in which something ran, with a file of each thing that a backup holds."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "activity.yaml").write_text("items: {text: [title]}\n")
    (root / "catalog.py").write_text("AGGREGATORS = ()\n")
    settings = {
        "project": "p",
        "provider": "local",
        "registry": {"registry_type": "sql", "path": "sqlite:///registry/r.db"},
        "online_store": {"type": "sqlite", "path": "data/online.db"},
    }
    (root / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    config = load_config(root)
    ledger = Ledger(config)
    ledger.finish(ledger.start("run", AS_OF))
    workspace_of(config)
    Tombstones(config).add([42])
    write_members(config, 1, 2)
    for name in ("artifacts/decay/v1/manifest.json", "item_encoders/e/v1/weights.bin"):
        (config.data / name).parent.mkdir(parents=True)
        (config.data / name).write_text(name)
    (config.data / "artifacts" / "half.tmp").write_text("being written")
    (root / "registry").mkdir()
    with closing(sqlite3.connect(root / "registry" / "r.db")) as con, con:
        con.execute("create table views as select 1 as name")
    return config


def runs(config: Config) -> list[str]:
    return [run["command"] for run in Ledger(config).last_runs()]


@pytest.mark.parametrize("name", ["b.tar", "b"])
def test_there_and_back(config: Config, tmp_path: Path, name: str) -> None:
    target = tmp_path / "kept" / name
    made = back_up(config, target)
    assert {*made.files} == {
        "state/ledger.db",
        "state/workspace.json",
        "state/tombstones.txt",
        "state/forget.key",
        REGISTRY,
        "artifacts/decay/v1/manifest.json",
        "item_encoders/e/v1/weights.bin",
        "impressions/period=2026-03-01/a.parquet",
        "impressions/period=2026-03-01/_manifest.json",
    }
    assert not stat.S_IMODE(target.stat().st_mode) & 0o077
    shutil.rmtree(config.data)
    (config.root / "registry" / "r.db").unlink()
    assert restore(config, target) == made
    assert runs(config) == ["run"]
    assert workspace_of(config).id == made.workspace
    assert Tombstones(config).are([42, 1]) == [True, False]
    assert stat.S_IMODE(config.layout.forget_key.stat().st_mode) == 0o600
    with closing(sqlite3.connect(config.root / "registry" / "r.db")) as con:
        assert con.execute("select name from views").fetchall() == [(1,)]
    assert list(damage(config.layout.impressions.rglob("*.parquet"))) == []
    assert not [*config.data.rglob("*.tmp")]
    assert {path.name for path in target.parent.iterdir()} == {name}


def test_the_ledger_is_whole_though_it_is_being_written(config: Config, tmp_path: Path) -> None:
    """Each transaction adds a run with its stage; a copy never has one without the other."""
    stop = threading.Event()

    def write() -> None:
        ledger = Ledger(config)
        while not stop.is_set():
            with ledger.engine.begin() as connection:
                run = {"command": "r", "started_at": "", "status": "done"}
                key = connection.execute(sa.insert(RUNS).values(**run)).inserted_primary_key
                stage = {"position": 0, "stage": "s", "refused": {}, "seconds": 0.0}
                connection.execute(sa.insert(STAGES).values(run_id=key[0], **stage))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(10):
            back_up(config, tmp_path / f"b{number}")
    finally:
        stop.set()
        thread.join()
    for number in range(10):
        with closing(sqlite3.connect(tmp_path / f"b{number}" / "state" / "ledger.db")) as con:
            counts = "select (select count(*) from run), (select count(*) from stage)"
            ((run, stage),) = con.execute(counts).fetchall()
            assert run == stage + 1
            assert con.execute("pragma integrity_check").fetchall() == [("ok",)]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damaged", [flip, Path.unlink], ids=["a bit", "gone"])
def test_a_damaged_file_is_named_and_nothing_is_restored(
    config: Config, tmp_path: Path, damaged: Callable[[Path], None]
) -> None:
    back_up(config, tmp_path / "b")
    damaged(tmp_path / "b" / "artifacts" / "decay" / "v1" / "manifest.json")
    shutil.rmtree(config.data)
    with pytest.raises(RunFailedError, match=r"v1/manifest\.json is damaged"):
        restore(config, tmp_path / "b")
    assert [*config.data.iterdir()] == []


def test_a_flipped_bit_of_a_tar_is_found(config: Config, tmp_path: Path) -> None:
    target = tmp_path / "b.tar"
    back_up(config, target)
    with tarfile.open(target) as tar:
        at = tar.getmember("item_encoders/e/v1/weights.bin").offset_data
    content = bytearray(target.read_bytes())
    content[at] ^= 1
    target.write_bytes(content)
    shutil.rmtree(config.data)
    with pytest.raises(RunFailedError, match=r"v1/weights\.bin is damaged"):
        restore(config, target)


def test_what_ran_is_not_overwritten_unless_told(config: Config, tmp_path: Path) -> None:
    back_up(config, tmp_path / "b")
    ledger = Ledger(config)
    ledger.finish(ledger.start("fit", AS_OF))
    late = config.data / "artifacts" / "decay" / "v1_f2" / "manifest.json"
    late.parent.mkdir()
    late.touch()
    with pytest.raises(InputError, match="activity restore --over"):
        restore(config, tmp_path / "b")
    assert runs(config) == ["fit", "run"]
    restore(config, tmp_path / "b", lambda: config.layout.ledger.unlink())
    assert runs(config) == ["run"]
    assert not late.exists()  # the ledger counts that fit again


def test_what_is_no_backup_of_this_workspace_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="that `activity backup` wrote"):
        restore(config, tmp_path / "nowhere", lambda: None)
    back_up(config, tmp_path / "b")
    with pytest.raises(InputError, match="that is not there"):
        back_up(config, tmp_path / "b")
    config.layout.workspace.unlink()
    workspace_of(config)  # another id
    with pytest.raises(InputError, match="the backup is of the workspace with the id"):
        restore(config, tmp_path / "b", lambda: None)
    note = tmp_path / "b" / MANIFEST
    held = json.loads(note.read_text())
    for change, message in (
        ({"format": 2}, "expected a backup of format 1, got 2"),
        ({"files": {"../x": {"sha256": "", "bytes": 0}}}, "paths inside the data folder"),
    ):
        note.write_text(json.dumps(held | change))
        with pytest.raises(InputError, match=message):
            restore(config, tmp_path / "b", lambda: None)
    assert runs(config) == ["run"]


def test_who_was_forgotten_since_stays_forgotten(config: Config, tmp_path: Path) -> None:
    back_up(config, tmp_path / "b")
    Tombstones(config).add([2])
    restore(config, tmp_path / "b", lambda: config.layout.ledger.unlink())
    assert Tombstones(config).are([1, 2, 42]) == [False, True, True]
    (file,) = config.layout.impressions.rglob("*.parquet")
    assert pq.ParquetFile(file).read()["member_id"].to_pylist() == [1]
    assert list(damage([file])) == []
    config.layout.forget_key.write_text("ab" * 32)
    with pytest.raises(InputError, match="by different keys"):
        restore(config, tmp_path / "b", lambda: None)


def test_killed_before_the_ledger_it_can_be_run_again(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(config, tmp_path / "b")
    shutil.rmtree(config.data)
    move = shutil.move

    def killed(source: Path, place: Path) -> object:
        if source.name == "ledger.db":
            raise KeyboardInterrupt
        return move(source, place)

    with monkeypatch.context() as patch:
        patch.setattr("operations.restore.shutil.move", killed)
        with pytest.raises(KeyboardInterrupt):
            restore(config, tmp_path / "b")
    assert not config.layout.ledger.exists()
    restore(config, tmp_path / "b")
    assert runs(config) == ["run"]
