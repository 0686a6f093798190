"""Embedding a snapshot: which vectors, how sequences are padded, what a failure leaves."""

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embed import embed_snapshot
from models.layers.build import build
from models.packaging import load, package
from models.quantization import of_vectors
from models.sequences import ItemTable, pad
from models.spec import Average, GeometricDecay
from tests.worlds.tiny_models import (
    AS_OF,
    CREATED,
    Learned,
    Members,
    tiny_config,
    write_items,
    write_sequences,
)
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition
from transformations.names import Space
from transformations.tables import of_member, view_of_partitions

HALF = GeometricDecay(version=1, decay=0.5)
BOTH = (Average(version=1), HALF)
LONG_AGO = AS_OF - timedelta(days=100)

# Item 4 has no vector.
ITEMS = [(1, [1.0, 0.0], LONG_AGO), (2, [0.0, 1.0], LONG_AGO), (3, [4.0, 4.0], LONG_AGO)]
MEMBERS: Members = {
    10: [(1, "APPLY", 9.0), (3, "SAVE", 8.0), (2, "APPLY", 7.0)],
    11: [(3, "DISMISS", 3.0)],
    12: [(1, "APPLY", 2.0), (4, "APPLY", 1.0), (2, "APPLY", 0.5)],
    13: [],
}


def embed(config: Config, aggregators: Any = BOTH, **kwargs: Any) -> Any:
    for aggregator in aggregators:
        package(aggregator, config)
    with connect(config) as con:
        return embed_snapshot(config, con, AS_OF, CREATED, aggregators, **kwargs)


def rows(config: Config, view: str) -> dict[Any, dict[str, Any]]:
    file = partition(config.layout.embeddings(view), AS_OF)
    return {row["member_id"]: row for row in pq.ParquetFile(file).read().to_pylist()}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = tiny_config(tmp_path)
    write_items(config, ITEMS)
    write_sequences(config, MEMBERS)
    return config


def test_the_vectors_of_a_tiny_snapshot(config: Config) -> None:
    embed(config)
    average, decay = (rows(config, line.view) for line in BOTH)
    vectors = ("apply_embedding", "save_embedding", "dismiss_embedding")
    assert {m: [row[v] for v in vectors] for m, row in average.items()} == {
        10: [[0.5, 0.5], [4.0, 4.0], [0.0, 0.0]],
        11: [[0.0, 0.0], [0.0, 0.0], [4.0, 4.0]],
        12: [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]],
        13: [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
    }
    third = pytest.approx(1 / 3), pytest.approx(2 / 3)
    assert tuple(decay[10]["apply_embedding"]) == third
    # An item without a vector is PAD: the other two weigh as if it were not there.
    assert tuple(decay[12]["apply_embedding"]) == third


def test_the_columns_of_a_view(config: Config) -> None:
    embed(config)
    row = rows(config, HALF.view)[12]
    version = load(HALF, config).model_version
    assert list(row) == [
        "member_id",
        "event_timestamp",
        "created_timestamp",
        *HALF.vectors(config),
        "n_actions",
        "n_apply",
        "n_save",
        "n_dismiss",
        "last_action_at",
        "model_version",
    ]
    assert row["event_timestamp"] == AS_OF
    assert row["created_timestamp"] == CREATED
    # An item without a vector still counts.
    assert [row[name] for name in ("n_actions", "n_apply", "n_save", "n_dismiss")] == [3, 3, 0, 0]
    assert row["last_action_at"] == AS_OF - timedelta(days=0.5)
    assert row["model_version"] == version
    with connect(config) as con:
        file = partition(config.layout.embeddings(HALF.view), AS_OF)
        types = con.execute(f"describe from read_parquet('{file}')").fetchall()
    assert {name: kind for name, kind, *_ in types if not name.startswith(("n_", "as_of"))} == {
        "member_id": "BIGINT",
        "event_timestamp": "TIMESTAMP WITH TIME ZONE",
        "created_timestamp": "TIMESTAMP WITH TIME ZONE",
        "apply_embedding": "FLOAT[]",
        "save_embedding": "FLOAT[]",
        "dismiss_embedding": "FLOAT[]",
        "last_action_at": "TIMESTAMP WITH TIME ZONE",
        "model_version": "VARCHAR",
    }


def test_the_report_says_what_had_no_vector(config: Config) -> None:
    seen: list[int] = []
    report = embed(config, progress=seen.append)
    assert report.rows == {"member_activity_average_v1": 4, "member_activity_decay_v1": 4}
    assert (report.members, report.actions, report.actions_without_vector) == (4, 7, 1)
    assert report.share_without_vector == pytest.approx(1 / 7)
    assert report.items == 3
    assert sum(seen) == 4


def test_a_snapshot_of_lapsed_members_gets_default_vectors(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    write_items(config, ITEMS)
    write_sequences(config, {1: [], 2: []})
    learned = Learned(version=1)
    model = build(learned, config)
    model.set_weights([np.full_like(w, 0.5) for w in model.get_weights()])
    package(learned, config, trained=model)
    report = embed(config, (learned, Average(version=1)))
    assert report.share_without_vector == 0
    got = rows(config, learned.view)
    # The learned default is what the model says of nobody, not zeros.
    assert [got[m]["activity_embedding"] for m in (1, 2)] == [[0.5, 0.5]] * 2


def test_an_empty_snapshot_gives_empty_partitions(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    write_items(config, ITEMS)
    write_sequences(config, {})
    assert embed(config).members == 0
    assert rows(config, HALF.view) == {}


def test_ages_are_days_before_as_of(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    write_items(config, ITEMS)
    write_sequences(config, {1: [(1, "APPLY", 27.25), (4, "SAVE", 2.0), (2, "SAVE", 0.5)], 2: []})
    with connect(config) as con:
        items = ItemTable.read(config, con, AS_OF)
    batch = pq.read_table(partition(config.layout.sequences, AS_OF)).to_batches()[0]
    padded = pad(batch, items, config.rules, AS_OF)
    assert padded.ages.tolist() == [[0.0, 27.25, 0.0, 0.5], [0.0] * 4]
    assert padded.actions.tolist() == [[0, 1, 0, 2], [0] * 4]
    assert items.vectors[padded.rows].tolist()[0] == [[0, 0], [1, 0], [0, 0], [0, 1]]
    assert (padded.ages.dtype, padded.actions.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        # The newest with available_at <= as_of, wherever it lies in the files.
        ([("a", -3), ("b", -1)], "b"),
        ([("b", -1), ("a", -3)], "b"),
        ([("a", -3), ("b", 0)], "b"),
        ([("a", -3), ("b", 0.001)], "a"),
        ([("b", 0.001)], None),
    ],
)
def test_an_items_vector_is_the_newest_by_as_of(
    tmp_path: Path, available: list[tuple[str, float]], expected: str | None
) -> None:
    config = tiny_config(tmp_path)
    vectors = {"a": [1.0, 2.0], "b": [3.0, 4.0], None: [0.0, 0.0]}
    write_items(config, [(2, [9.0, 9.0], LONG_AGO)], "part-z")
    for name, days in available:
        write_items(config, [(1, vectors[name], AS_OF + timedelta(days=days))], f"part-{name}")
    write_sequences(config, {7: [(1, "APPLY", 1.0)]})
    embed(config)
    assert rows(config, HALF.view)[7]["apply_embedding"] == vectors[expected]


def test_text_ids(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, id_type="string")
    write_items(config, [("é", [1.0, 0.0], LONG_AGO), ("job 2", [0.0, 1.0], LONG_AGO)])
    write_sequences(config, {"m": [("é", "APPLY", 2.0), ("job 3", "APPLY", 1.0)], "": []})
    report = embed(config)
    assert rows(config, HALF.view)["m"]["apply_embedding"] == [1.0, 0.0]
    assert report.actions_without_vector == 1


def test_an_encoder_version_never_reads_the_vectors_of_another(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    write_items(config, ITEMS)
    write_sequences(config, MEMBERS)
    with pytest.raises(InputError, match="expected item vectors of tfidf_svd_v2"):
        embed(config.in_space(Space("tfidf_svd", 2)), ())


@settings(max_examples=25, deadline=None)
@given(data=st.data(), ids=st.sampled_from(["int64", "string"]))
def test_padding_is_what_a_plain_loop_does(data: st.DataObject, ids: str) -> None:
    item = st.integers(0, 6)
    action = st.sampled_from(["APPLY", "SAVE", "DISMISS"])
    entry = st.tuples(item, action, st.integers(0, 28 * 86_400 * 10**6))
    sequences = data.draw(st.lists(st.lists(entry, max_size=4), max_size=8))
    sliced = data.draw(st.integers(0, len(sequences)))
    config = tiny_config(Path("unused"), id_type=ids)
    kind, name = (pa.int64(), int) if ids == "int64" else (pa.string(), str)
    with_vector = data.draw(st.lists(item, unique=True))
    vectors = np.vstack(
        [np.zeros((1, 2)), [[i + 1.0, -i] for i in with_vector] or np.zeros((0, 2))]
    )
    items = ItemTable(pa.array([name(i) for i in with_vector], kind), vectors.astype(np.float32))
    times = [[AS_OF - timedelta(microseconds=age) for _, _, age in row] for row in sequences]
    batch = pa.record_batch(
        {
            "item_ids": pa.array(
                [[name(i) for i, _, _ in row] for row in sequences], pa.list_(kind)
            ),
            "actions": pa.array(
                [[a for _, a, _ in row] for row in sequences], pa.list_(pa.string())
            ),
            "event_timestamps": pa.array(times, pa.list_(pa.timestamp("us", "UTC"))),
        }
    ).slice(sliced)
    got = pad(batch, items, config.rules, AS_OF)
    assert got.rows.shape == got.actions.shape == got.ages.shape == (len(sequences) - sliced, 4)
    for m, row in enumerate(sequences[sliced:]):
        padded = [None] * (4 - len(row)) + row
        for slot, event in enumerate(padded):
            vector, code, age = [0.0, 0.0], 0, 0.0
            if event is not None and event[0] in with_vector:
                vector = [event[0] + 1.0, -event[0]]
                code, age = config.rules.action_code(event[1]), event[2] / 86_400e6
            assert items.vectors[got.rows[m, slot]].tolist() == vector
            assert got.actions[m, slot] == code
            assert got.ages[m, slot] == pytest.approx(age, rel=1e-6)


# What a failure leaves.


def test_a_snapshot_or_package_that_is_missing_is_asked_for(config: Config) -> None:
    with connect(config) as con:
        with pytest.raises(InputError, match="expected a packaged aggregator"):
            embed_snapshot(config, con, AS_OF, CREATED, BOTH)
        with pytest.raises(InputError, match="expected the sequences of 2026-03-02"):
            embed_snapshot(config, con, AS_OF + timedelta(days=1), CREATED, BOTH)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({1: [(1, "APPLY", 1.0)] * 5}, "at most 4 actions .* got one of 5"),
        ({1: [(1, "LIKE", 1.0)]}, "among APPLY, SAVE, DISMISS, got 'LIKE'"),
    ],
)
def test_sequences_of_another_configuration_are_refused(
    config: Config, members: Members, error: str
) -> None:
    write_sequences(config, members)
    with pytest.raises(RunFailedError, match=error):
        embed(config)


def test_item_vectors_of_another_dimension_are_refused(config: Config) -> None:
    write_items(config, [(5, [1.0, 2.0, 3.0], LONG_AGO)], "part-b")
    with pytest.raises(InputError, match=r"1 of 4 item vectors .* are not of dimension 2"):
        embed(config)


def spoil(file: Path, **columns: Any) -> None:
    """Give a partition other values in some columns."""
    table = pq.ParquetFile(file).read()
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.field(name), pa.array(values, table.field(name).type))
    pq.write_table(table, file)


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"member_id": [10, 10, 12, 13]}, "member_id is unique"),
        ({"n_apply": [9, 0, 3, 0]}, "counts add up to n_actions"),
        ({"event_timestamp": [LONG_AGO] * 4}, "event_timestamp is as_of"),
    ],
)
def test_a_broken_snapshot_changes_no_view(
    config: Config, columns: dict[str, Any], rule: str
) -> None:
    embed(config)
    before = [rows(config, line.view) for line in BOTH]
    spoil(partition(config.layout.sequences, AS_OF), **columns)
    with pytest.raises(RunFailedError, match=rule):
        embed(config)
    assert [rows(config, line.view) for line in BOTH] == before
    assert not list(config.data.rglob("*.tmp"))


def test_an_item_vector_that_is_not_finite_changes_no_view(config: Config) -> None:
    write_items(config, [*ITEMS[:2], (3, [float("nan"), 1.0], LONG_AGO)])
    with pytest.raises(RunFailedError, match="vectors are finite"):
        embed(config)
    assert not list((config.layout.all_embeddings).rglob("*.*"))


def check_rows(config: Config, **columns: Any) -> list[tuple[str, Any]]:
    """Run the check on a view's partition with other values in some columns."""
    file = partition(config.layout.embeddings(HALF.view), AS_OF)
    spoil(file, **columns)
    query = (ROOT / "transformations/checks/member_embeddings.sql").read_text()
    vectors = HALF.vectors(config)
    more = f"{of_member(config.rules)}, {of_vectors(vectors, HALF.store)}"
    with connect(config) as con:
        source = partition(config.layout.sequences, AS_OF)
        view_of_partitions(con, "member_embeddings", [file], [AS_OF], more)
        view_of_partitions(con, "member_sequences", [source], [AS_OF], of_member(config.rules))
        parameters = {
            "dims": list(vectors.values()),
            "counts": config.rules.count_columns[1:],
        }
        rows = con.execute(query, parameters).fetchall()
    return [(rule, member) for rule, _, member in rows]


@pytest.mark.parametrize(
    ("columns", "broken"),
    [
        ({}, []),
        (
            {"save_embedding": [[0, 0], [0, 0], [0], [0, 0]]},
            [("vectors have their dimensions", 12)],
        ),
        (
            {"save_embedding": [[0, 0], None, [0, 0], [0, 0]]},
            [("vectors have their dimensions", 11)],
        ),
        (
            {"dismiss_embedding": [[0, 0], [0, 0], [0, 0], [0, float("inf")]]},
            [("vectors are finite", 13)],
        ),
        ({"n_actions": [3, 1, 3, 1]}, [("member columns are those of the snapshot", 13)]),
        ({"n_save": [1, 1, 0, 0]}, [("member columns are those of the snapshot", 11)]),
        ({"model_version": ["x", "x", "x", None]}, [("model_version is not empty", 13)]),
        (
            {"last_action_at": [AS_OF] * 4},
            [("member columns are those of the snapshot", m) for m in MEMBERS],
        ),
        (
            {"created_timestamp": [LONG_AGO] * 4},
            [("created_timestamp is not before as_of", m) for m in MEMBERS],
        ),
        (
            {"member_id": [10, 11, 12, 14]},
            [("members are those of the snapshot, in its order", 14)],
        ),
        (
            {"member_id": [10, 11, 12, None]},
            [("members are those of the snapshot, in its order", 13)],
        ),
        (
            {"member_id": [10, 11, 12, 12]},
            [("members are those of the snapshot, in its order", 12), ("member_id is unique", 12)],
        ),
    ],
)
def test_the_check_names_each_broken_rule(
    config: Config, columns: dict[str, Any], broken: list[tuple[str, Any]]
) -> None:
    embed(config)
    assert sorted(check_rows(config, **columns), key=str) == sorted(broken, key=str)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.models.test_embed import BOTH, embed
from tests.worlds.tiny_models import tiny_config
config = tiny_config(Path(sys.argv[1]))
embed(config, BOTH, progress=lambda rows: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_run_leaves_the_last_good_partitions(config: Config, tmp_path: Path) -> None:
    embed(config)
    before = [rows(config, line.view) for line in BOTH]
    write_items(config, [(item, [8.0, 8.0], timestamp) for item, _, timestamp in ITEMS])
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(config.data.rglob("part-0.parquet.*.tmp"))) == 2
    assert [rows(config, line.view) for line in BOTH] == before
    embed(config)
    assert [rows(config, line.view) for line in BOTH] != before


MEMORY = """
import sys
from pathlib import Path
from benchmarks.embedding import embed_world, write_world
from transformations.config import DuckDB
folder = Path(sys.argv[1])
bounds = {"duckdb": DuckDB(memory_limit="256MB", threads=1)}
for members in (60_000, 240_000):
    config = write_world(folder / str(members), members, items=1_000, dim=64, length=8)
    print(embed_world(config.model_copy(update=bounds))["peak_rss"])
"""


def test_memory_does_not_grow_with_the_members(tmp_path: Path) -> None:
    """The vectors of the 180,000 further members are 276 MB; memory holds 32,768 of them."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    once, four_times = (int(line) / 10**6 for line in done.stdout.split())
    assert four_times - once < 160


@pytest.mark.parametrize("rows_left", [0, 3, 5])
def test_the_check_counts_the_rows(config: Config, rows_left: int) -> None:
    """A view of fewer or more rows than the snapshot is refused."""
    embed(config)
    write_sequences(config, dict(list({**MEMBERS, 14: []}.items())[:rows_left]))
    got = check_rows(config)
    members = {10, 11, 12, 13, 14}
    assert {member for _, member in got} == set(
        sorted(members)[min(rows_left, 4) : max(rows_left, 4)]
    )
