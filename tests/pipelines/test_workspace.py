"""A workspace from Python, and its views in files: what lies there comes back, or an error."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from operations.ledger import Ledger
from pipelines import export as files
from pipelines import workspace
from pipelines.cli.app import app
from pipelines.workspace import OpenWorkspace
from serving import publish
from tests.worlds.applied import DIM, World, utc, vector
from tests.worlds.events import DAY, Event, write_activity
from tests.worlds.lines import AGGREGATORS
from transformations.config import CONFIG_VARIABLE
from transformations.errors import InputError

AVERAGE, DECAY = (line for line in AGGREGATORS if line.name in ("average", "decay"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two snapshots of members 7 and 8; items 1 and 2, the first with a newer vector from day 3."""
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    made = World(tmp_path)
    made.snapshot(utc(2), {7: [(1, "APPLY", utc(1))], 8: []})
    made.snapshot(utc(3, 6), {7: [(1, "APPLY", utc(1)), (2, "SAVE", utc(2, 1))], 8: []})
    made.items("part-0", {1: utc(1), 2: utc(1, 12)})
    made.items("part-1", {1: utc(4)})
    write_activity(made.config, [Event(7, 1, "APPLY", utc(1)), Event(7, 2, "SAVE", utc(2, 1))])
    return made


@pytest.fixture
def ws(world: World) -> OpenWorkspace:
    return OpenWorkspace(world.config)


def test_the_newest_snapshot_is_the_default_and_an_older_one_is_asked_for(
    world: World, ws: OpenWorkspace
) -> None:
    newest, older = world.table(DECAY.view, utc(3, 6)), world.table(DECAY.view, utc(2))
    assert newest != older
    assert ws.vectors("decay").to_pylist() == newest
    assert ws.vectors(DECAY.view, utc(2)).to_pylist() == older
    assert ws.vectors("decay", utc(2).replace(tzinfo=None)).to_pylist() == older
    assert ws.vectors("decay", "2026-03-02").to_pylist() == older
    with pytest.raises(InputError, match=r"expected a date \(2026-01-31\) or a time"):
        ws.vectors("decay", "yesterday")
    assert ws.sequences()["item_ids"].to_pylist() == [[1, 2], []]
    assert ws.activity()["action"].to_pylist() == ["APPLY", "SAVE"]


def test_items_are_those_of_the_timestamp(ws: OpenWorkspace) -> None:
    assert ws.items(utc(1, 6))["item_id"].to_pylist() == [1]
    assert ws.items()["available_at"].to_pylist() == [utc(1), utc(1, 12)]
    newest = ws.items(utc(4)).to_pylist()
    assert newest[0] == {
        "item_id": 1,
        "embedding": vector(1),
        "available_at": utc(4),
        "encoder": "tfidf_svd",
        "encoder_version": 1,
        "encoder_fit": 1,
    }


@pytest.mark.parametrize(
    ("name", "as_of", "said"),
    [
        ("decoy", None, r"\(member_activity_sequence, .*, item_embedding_tfidf_svd_v1\).*'decoy'"),
        ("decay", utc(1), r"\(2026-03-02, 2026-03-03 06:00\), got 2026-03-01; .*--to 2026-03-01$"),
        ("item_embedding_tfidf_svd_v1", utc(1) - DAY, "no item had a vector by 2026-02-28;"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    ws: OpenWorkspace, name: str, as_of: datetime | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        ws.rows(name, as_of)


def test_a_service_is_asked_for_by_its_aggregators_name(world: World, ws: OpenWorkspace) -> None:
    with pytest.raises(InputError, match=r"catalog.py \(average, decay, .*\), got 'decoy'"):
        ws.service("decoy")
    with pytest.raises(InputError, match=f"{DECAY.service} was not published yet; first:"):
        ws.service("decay")
    publish.apply(world.config, ws.store)
    assert ws.service("decay").name == DECAY.service


def test_of_many_snapshots_an_error_tells_the_ends(world: World, ws: OpenWorkspace) -> None:
    for day in range(10, 20):
        world.snapshot(utc(day), {7: []})
    with pytest.raises(InputError, match=r"\(12 from 2026-03-02 to 2026-03-19\), got 2026-03-01"):
        ws.sequences(utc(1))


def test_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "activity.yaml").write_text(f"data_dir: {tmp_path}/data\nitems: {{text: [a]}}\n")
    ws = workspace.open(tmp_path / "activity.yaml")
    for ask in (ws.activity, ws.sequences, ws.items, lambda: ws.vectors("decay")):
        with pytest.raises(InputError, match="first: activity run"):
            ask()
    assert "nothing was run yet; first: activity run" in str(ws)
    assert not ws.config.layout.ledger.exists()


def test_it_can_be_printed(world: World, ws: OpenWorkspace) -> None:
    ledger = Ledger(world.config)
    with ledger.run("run", utc(3, 6)) as run_id:
        ledger.published(run_id, utc(3, 7))
    told = str(ws).splitlines()
    assert told[1].startswith("last run: run as of 2026-03-03, done, online; started 20")
    cells = {line.split()[0]: line.split()[1:] for line in told[5:] if line.strip()}
    assert cells["activity"] == ["2", "2", "2026-03-01", "2026-03-02"]
    assert cells[DECAY.view] == ["2", "4", "2026-03-02", "2026-03-03", "06:00"]
    assert cells["item_embedding_tfidf_svd_v1"] == ["2", "3"]


def test_a_view_that_the_catalogue_has_no_more_is_still_there(
    world: World, ws: OpenWorkspace
) -> None:
    folder = world.config.layout.embeddings(AVERAGE.view)
    folder.rename(folder.with_name("member_activity_old_v1"))
    assert ws.vectors("member_activity_old_v1").num_rows == 2
    assert "member_activity_old_v1" in str(ws)


# Export


def call(world: World, *arguments: object) -> str:
    """Run `activity export` on the world; return what it printed."""
    config = world.folder / "activity.yaml"
    config.write_text(
        f"data_dir: {world.config.data}\nlength: 5\ndim: {DIM}\nitems: {{text: [title]}}\n"
    )
    told = ["export", *map(str, arguments), "--config", str(config)]
    return CliRunner().invoke(app, told, catch_exceptions=False).stdout


def test_parquet_is_the_table_as_it_is(world: World, tmp_path: Path) -> None:
    file = tmp_path / "out" / "decay.parquet"
    assert "2 rows of decay in" in call(world, "decay", "--as-of", "2026-03-02", "--to", file)
    assert pq.read_table(file).to_pylist() == world.table(DECAY.view, utc(2))


def test_numpy_reads_vectors_as_matrices(world: World, tmp_path: Path) -> None:
    call(world, "decay", "--to", tmp_path / "decay.npz")
    with np.load(tmp_path / "decay.npz", allow_pickle=False) as found:
        table = world.table(DECAY.view, utc(3, 6))
        assert found["member_id"].tolist() == [7, 8]
        for name in DECAY.vectors(world.config):
            assert found[name].dtype == np.float32
            assert found[name].tolist() == [row[name] for row in table]
        assert found["n_save"].tolist() == [1, 0]
        assert found["event_timestamp"].tolist() == [utc(3, 6).replace(tzinfo=None)] * 2
        assert found["model_version"].tolist() == ["decay-v1"]


def test_numpy_reads_sequences_one_after_the_other(world: World, tmp_path: Path) -> None:
    call(world, "member_activity_sequence", "--to", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        ends = found["item_ids_ends"]
        assert ends.tolist() == [2, 2]
        assert found["item_ids"][: ends[0]].tolist() == [1, 2]
        assert found["actions"][: ends[0]].tolist() == ["APPLY", "SAVE"]
        assert all(found[name].dtype != object for name in found)


def test_no_rows_and_no_action_are_arrays_too() -> None:
    nothing = {
        "id": pa.array([], pa.string()),
        "v": pa.array([], pa.list_(pa.float32())),
        "at": pa.array([], pa.timestamp("us", "UTC")),
    }
    shapes = {name: array.shape for name, array in files.arrays(pa.table(nothing)).items()}
    assert shapes == {"id": (0,), "v": (0, 0), "at": (0,)}
    missing = files.arrays(pa.table({"at": pa.array([None, utc(1)], pa.timestamp("us", "UTC"))}))
    assert np.isnat(missing["at"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda folder: folder / "decay.csv", "expected a file that ends in .parquet or .npz"),
        (lambda folder: folder / "data" / "decay.npz", "expected a file outside"),
        (lambda folder: folder / "there.npz", "--force replaces it"),
        (lambda folder: folder / "folder.npz", "expected the name of a file, got the folder"),
    ],
    ids=["suffix", "inside", "there", "folder"],
)
def test_a_wrong_target_is_refused(
    world: World, tmp_path: Path, target: Callable[[Path], Path], said: str
) -> None:
    (tmp_path / "there.npz").write_text("kept")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=said):
        call(world, "decay", "--to", target(tmp_path))
    assert (tmp_path / "there.npz").read_text() == "kept"


def test_force_replaces_and_a_failure_leaves_what_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "decay.npz"
    file.write_text("kept")

    def fails(table: pa.Table, temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setitem(files.FORMATS, ".npz", fails)
        with pytest.raises(OSError, match="no space"):
            call(world, "decay", "--to", file, "--force")
    assert file.read_text() == "kept"
    assert list(tmp_path.glob("*.tmp")) == []
    call(world, "decay", "--to", file, "--force")
    with np.load(file) as found:
        assert found["member_id"].tolist() == [7, 8]
