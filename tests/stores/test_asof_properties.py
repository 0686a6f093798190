"""Generated worlds: our join against brute force, and against Feast's own where it is defined."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.asof import find as asof_find
from stores.asof import join as asof_join
from tests.worlds.asof import (
    FEATURES,
    TIMES,
    Row,
    ViewSpec,
    World,
    ask,
    expected,
    undecided,
    worlds,
    write,
)

slow = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


# With 0 bytes per chunk, each label is its own chunk. With 0.01 rows per event time, every source
# counts as a series of snapshots.
@settings(slow, max_examples=100)
@given(
    worlds(),
    st.sampled_from([asof_join.MOST_CHUNK_BYTES, asof_join.MOST_CHUNK_BYTES, 0]),
    st.sampled_from([asof_find.ROWS_PER_EVENT_TIME, 0.01]),
)
def test_equals_brute_force(world: World, chunk_bytes: int, rows_per_event_time: float) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        write(folder, world)
        patch.setattr(asof_join, "MOST_CHUNK_BYTES", chunk_bytes)
        patch.setattr(asof_find, "ROWS_PER_EVENT_TIME", rows_per_event_time)
        if not chunk_bytes:
            patch.setattr(asof_find, "LOOK_UP_SHARE", 0)  # each look-up has one label
        result = ask(folder, world)
    assert result["extra"].to_pylist() == world.labels["extra"].tolist()
    wanted = expected(world)
    assert result.select(list(wanted[0])).to_pylist() == wanted


@settings(slow, max_examples=50)
@given(worlds(feasts=True))
def test_equals_feasts_own(world: World) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, world)
        ours = ask(folder, world)
        theirs = ask(folder, world, DuckDBOfflineStore)
    assert ours.schema == theirs.schema
    chance = {world.labels["extra"][label] for label in undecided(world)}
    order = {extra: index for index, extra in enumerate(world.labels["extra"])}
    rows = sorted(theirs.to_pylist(), key=lambda row: order[row["extra"]])
    for our_row, their_row in zip(ours.to_pylist(), rows, strict=True):
        if our_row["extra"] not in chance:
            assert our_row == their_row


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_every_type_at_once(tmp_path: Path, layout: str) -> None:
    features = tuple(kind for kind in FEATURES if not kind.endswith("_y"))
    rows = [
        Row((key,), TIMES[0], None, frozenset(features if key % 4 else ()), key % 2 == 0)
        for key in range(9)
    ]
    view = ViewSpec(
        name="view0",
        keys=("member",),
        features=features,
        rows=tuple(rows),
        has_created=False,
        ttl=None,
        layout=layout,
        time_type="utc",
        renamed=False,
        aliased=False,
    )
    members = [7, 1, 99, 4, 2, 5]
    labels = pd.DataFrame({"member": members, "extra": list("abcdef")})
    labels["event_timestamp"] = pd.Series([TIMES[1]] * len(members), dtype="M8[us, UTC]")
    world = World((view,), labels, (TIMES[1],) * len(members), full_names=False, known_at=False)
    write(tmp_path, world)
    ours, theirs = ask(tmp_path, world), ask(tmp_path, world, DuckDBOfflineStore)
    assert ours.schema == theirs.schema
    assert ours.to_pylist() == theirs.sort_by("extra").to_pylist()
    wanted = expected(world)
    assert ours.select(list(wanted[0])).to_pylist() == wanted
