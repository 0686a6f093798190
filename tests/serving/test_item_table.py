"""The memory-mapped item table: which vector as of when, one copy for all, renewed whole."""

import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sequences import ItemTable
from serving.request.item_table import open_item_table, table_key
from tests.worlds.tiny_models import AS_OF, tiny_config, write_items
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.files import sweep
from transformations.timestamps import microseconds

LONG_AGO = AS_OF - timedelta(days=100)
DAY = timedelta(days=1)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = tiny_config(tmp_path)
    write_items(config, [(7, [1.0, 2.0], LONG_AGO), (3, [3.0, 4.0], AS_OF)])
    return config


def vectors(config: Config, items: list[Any], as_of: datetime) -> list[list[float]]:
    ids = pa.array(items, pa.int64() if config.member_id_type == "int64" else pa.string())
    table = open_item_table(config).at(as_of)
    return table.vectors[table.rows(ids)].tolist()


def test_an_items_newest_vector_by_as_of(config: Config) -> None:
    write_items(config, [(7, [5.0, 6.0], AS_OF - DAY), (9, [9.0, 9.0], AS_OF + DAY)], "part-b")
    got = vectors(config, [3, 7, 9, 8, 7], AS_OF)
    assert got == [[3, 4], [5, 6], [0, 0], [0, 0], [5, 6]]
    before = AS_OF - timedelta(microseconds=1)
    assert vectors(config, [3, 7], before) == [[0, 0], [5, 6]]
    assert vectors(config, [7], AS_OF - DAY - timedelta(microseconds=1)) == [[1, 2]]
    assert vectors(config, [9], AS_OF + DAY) == [[9, 9]]
    assert vectors(config, [], AS_OF) == []


def test_a_moment_for_each_id(config: Config) -> None:
    write_items(config, [(7, [5.0, 6.0], AS_OF - DAY)], "part-b")
    as_of = np.array([microseconds(AS_OF - days * DAY) for days in (0, 1, 2, 0, 101)])
    table = open_item_table(config).at(as_of)
    rows = table.rows(pa.array([3, 3, 7, 7, 7]))
    assert table.vectors[rows].tolist() == [[3, 4], [0, 0], [1, 2], [5, 6], [0, 0]]


@settings(max_examples=15, deadline=None)
@given(
    ids=st.sampled_from(["int64", "string"]),
    versions=st.lists(
        st.tuples(st.integers(-3, 3), st.integers(-4, 4)), min_size=1, max_size=25, unique=True
    ),
    when=st.lists(st.integers(-5, 5), min_size=1, max_size=3),
)
def test_the_batchs_table_holds_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    ids: str,
    versions: list[tuple[int, int]],
    when: list[int],
) -> None:
    """For any as_of: what `ItemTable.read` gives the batch is what is looked up here."""
    config = tiny_config(tmp_path_factory.mktemp("items"), id_type=ids)
    name: Any = int if ids == "int64" else "job {}".format
    rows = [(name(i), [i + 0.5, float(day)], AS_OF + day * DAY) for i, day in versions]
    write_items(config, rows[::2], "part-a")
    write_items(config, rows[1::2], "part-b")
    asked = pa.array([name(i) for i in range(-4, 5)], pa.int64() if ids == "int64" else pa.string())
    opened = open_item_table(config)
    for day in when:
        as_of = AS_OF + day * DAY
        with connect(config) as con:
            batch = ItemTable.read(config, con, as_of)
        if not len(batch):
            assert not opened.at(as_of).rows(asked).any()
            continue
        expected = batch.vectors[batch.rows(asked)]
        np.testing.assert_array_equal(opened.vectors[opened.at(as_of).rows(asked)], expected)


def test_a_new_part_makes_a_new_table_and_leaves_who_holds_the_old_one(config: Config) -> None:
    old = open_item_table(config)
    assert open_item_table(config).key == old.key == table_key(config)
    write_items(config, [(7, [8.0, 8.0], AS_OF)], "part-b")
    assert table_key(config) != old.key
    new = open_item_table(config)
    seven = pa.array([7])
    assert new.vectors[new.rows(seven)].tolist() == [[8, 8]]
    assert old.vectors[old.rows(seven)].tolist() == [[1, 2]]
    folders = [file.parent.name for file in (config.data / "item_tables").rglob("vectors.npy")]
    assert folders == [new.key]


MAPPED = """
import sys
from pathlib import Path
from serving.request.item_table import open_item_table
from transformations.config import Config
table = open_item_table(Config.model_validate_json(sys.argv[1]))
print(Path('/proc/self/maps').read_text())
"""


def test_processes_share_one_file(config: Config) -> None:
    """Another process maps the file that this one has mapped, and writes no second one."""
    table = open_item_table(config)
    (file,) = (config.data / "item_tables").rglob("vectors.npy")
    made = file.stat().st_mtime_ns
    maps = subprocess.run(
        [sys.executable, "-c", MAPPED, config.model_dump_json(exclude_defaults=True)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for lines in (maps, Path("/proc/self/maps").read_text()):
        (line,) = [line for line in lines.splitlines() if line.endswith(str(file))]
        _, access, _, _, inode, _ = line.split()
        assert (access, inode) == ("r--s", str(file.stat().st_ino))
    assert file.stat().st_mtime_ns == made
    assert not table.vectors.flags.writeable


KILLED = """
import os, signal, sys
import numpy as np
from serving.request.item_table import open_item_table
from transformations.config import Config
np.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
open_item_table(Config.model_validate_json(sys.argv[1]))
"""


def test_a_process_killed_while_it_makes_the_table_leaves_none(config: Config) -> None:
    settings = config.model_dump_json(exclude_defaults=True)
    done = subprocess.run([sys.executable, "-c", KILLED, settings], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert vectors(config, [7], AS_OF) == [[1, 2]]
    assert [f.name for f in (config.data / "item_tables").rglob("*.tmp")] == []


def test_a_daily_run_that_sweeps_leaves_a_table_that_is_being_made(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []
    save = np.save

    def sweeping(file: Any, values: Any) -> None:
        swept.append(sweep(config.data))
        save(file, values)

    monkeypatch.setattr("serving.request.item_table.np.save", sweeping)
    assert vectors(config, [7, 3], AS_OF) == [[1, 2], [3, 4]]
    assert swept == [0, 0]


def test_what_is_missing_or_misshapen_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected item vectors of tfidf_svd_v1"):
        open_item_table(tiny_config(tmp_path / "empty"))
    write_items(config, [(5, [1.0, 2.0, 3.0], AS_OF)], "part-b")
    with pytest.raises(InputError, match=r"all of dimension 2, in .*; 1 of 3 are not"):
        open_item_table(config)
