"""Vectors of many snapshots in one pass: those of each snapshot and its own item vectors."""

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models import embed
from models.layers.build import build
from models.packaging import load, package
from models.sequences import ItemTable, pad
from models.spec import Average, GeometricDecay
from tests.worlds.tiny_models import (
    AS_OF,
    UTC_US,
    Learned,
    tiny_config,
    write_items,
    write_sequences,
)
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.last_actions import Snapshot
from transformations.layout import partition, rows_read

DAY = timedelta(days=1)
LINES = (Average(version=1), GeometricDecay(version=1, decay=0.5), Learned(version=1))
DAYS = [0, 1, 2, 5, 6]
SNAPSHOTS = [
    Snapshot(AS_OF + day * DAY, AS_OF + (day - 1) * DAY, AS_OF + day * DAY + timedelta(hours=day))
    for day in DAYS
]


@pytest.fixture(params=["int64", "string"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """Return a world whose items change their vectors between the snapshots; one day is empty."""
    config = tiny_config(tmp_path, id_type=request.param)
    name: Any = int if request.param == "int64" else str
    draw = random.Random(4)
    for version in range(4):
        at = [
            AS_OF + draw.choice([-9, 0, 1, 1.5, 5, 8]) * DAY + version * timedelta(seconds=1)
            for _ in range(6)
        ]
        rows = [(name(i), [draw.random(), draw.random()], moment) for i, moment in enumerate(at)]
        write_items(config, rows, f"part-{version}")
    for snapshot in SNAPSHOTS:
        members = {
            name(member): [
                (name(draw.randrange(8)), draw.choice(list(config.actions)), age)
                for age in sorted(draw.uniform(0, 20) for _ in range(draw.randrange(5)))[::-1]
            ]
            for member in range(10, 10 + draw.randrange(1, 9))
        }
        write_sequences(config, members if snapshot != SNAPSHOTS[2] else {}, snapshot.as_of)
    model = build(LINES[2], config)
    model.set_weights([np.full_like(weights, 0.3) for weights in model.get_weights()])
    for line in LINES:
        package(line, config, trained=model if line is LINES[2] else None)
    return config


def expected(config: Config, snapshot: Snapshot) -> list[dict[str, np.ndarray]]:
    """Return each line's vectors of one snapshot, with the item table of its as_of."""
    with connect(config) as con:
        items = ItemTable.read(config, con, snapshot.as_of)
    table = pq.ParquetFile(partition(config.layout.sequences, snapshot.as_of)).read()
    rows = table.combine_chunks().to_batches()[0]
    padded = pad(rows, items, config.rules, snapshot.as_of)
    return embed.together([load(line, config) for line in LINES], items, config.rules)(padded)


@pytest.mark.parametrize(("rows", "snapshots"), [(10_000, 128), (4, 2)])
def test_one_pass_equals_one_by_one(
    config: Config, rows: int, snapshots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(embed, "SNAPSHOTS_AT_ONCE", snapshots)
    seen: list[int] = []
    with connect(config) as con:
        report = embed.embed_snapshots(config, con, SNAPSHOTS[::-1], LINES, seen.append)
    members = 0
    for snapshot in SNAPSHOTS:
        source = pq.ParquetFile(partition(config.layout.sequences, snapshot.as_of)).read()
        members += source.num_rows
        vectors = expected(config, snapshot) if source.num_rows else [{}] * len(LINES)
        for line, own in zip(LINES, vectors, strict=True):
            file = partition(config.layout.embeddings(line.view), snapshot.as_of)
            got = pq.ParquetFile(file).read()
            assert got["created_timestamp"].unique().to_pylist() == (
                [snapshot.created_timestamp] if source.num_rows else []
            )
            for name in ("member_id", "event_timestamp", *config.rules.count_columns):
                assert got[name].equals(source[name])
            for field, values in own.items():
                np.testing.assert_array_equal(got[field].to_pylist(), values)
    assert (report.members, sum(seen)) == (members, members)


def test_what_breaks_a_rule_leaves_no_partition(config: Config) -> None:
    name: Any = int if config.item_id_type == "int64" else str
    last = SNAPSHOTS[-1].as_of
    write_items(config, [(name(1), [float("nan"), 1.0], last)], "part-z")
    write_sequences(config, {name(7): [(name(1), "APPLY", 0.5)]}, last)
    with (
        connect(config) as con,
        pytest.raises(RunFailedError, match="vectors are finite', as_of=datetime"),
    ):
        embed.embed_snapshots(config, con, SNAPSHOTS, LINES)
    assert not list(config.layout.all_embeddings.rglob("*.*"))


def test_a_snapshot_without_sequences_is_named(config: Config) -> None:
    far = Snapshot(AS_OF + 90 * DAY, AS_OF, AS_OF + 90 * DAY)
    with connect(config) as con, pytest.raises(InputError, match="expected the sequences of 2026"):
        embed.embed_snapshots(config, con, [*SNAPSHOTS, far], LINES)


def test_single_rows_have_the_vectors_of_their_snapshots(config: Config) -> None:
    """Each row with the item vectors of its own as_of, and with its own created_timestamp."""
    as_ofs = [snapshot.as_of for snapshot in SNAPSHOTS]
    parts = []
    for snapshot in SNAPSHOTS:
        part = pq.ParquetFile(partition(config.layout.sequences, snapshot.as_of)).read()
        created = pa.array([snapshot.created_timestamp] * len(part), UTC_US)
        parts.append(part.set_column(2, "created_timestamp", created))
    rows = rows_read(config.layout.sequences)
    rows.parent.mkdir()
    pq.write_table(pa.concat_tables(parts), rows)
    with connect(config) as con:
        embed.embed_snapshots(config, con, SNAPSHOTS, LINES)
        report = embed.embed_rows_read(config, con, (as_ofs[0], as_ofs[-1]), LINES)
    assert report.members == sum(map(len, parts))
    for line in LINES:
        folder = config.layout.embeddings(line.view)
        snapshots = [pq.ParquetFile(partition(folder, at)).read() for at in as_ofs]
        assert pq.ParquetFile(rows_read(folder)).read().equals(pa.concat_tables(snapshots))
