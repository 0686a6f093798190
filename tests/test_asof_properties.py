"""Drawn worlds: our join against brute force, and against Feast's own where that is defined."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import asof_job
from tests.asof_worlds import World, ask, expected, undecided, worlds, write

slow = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


# A share of nothing makes every label a stretch of its own.
@settings(slow, max_examples=100)
@given(worlds(), st.sampled_from([asof_job.SORTED_SHARE, asof_job.SORTED_SHARE, 0.0]))
def test_equals_brute_force(world: World, sorted_share: float) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        write(folder, world)
        patch.setattr(asof_job, "SORTED_SHARE", sorted_share)
        result = ask(folder, world)
    assert result["extra"].to_pylist() == world.labels["extra"].tolist()
    wanted = expected(world)
    assert result.select(list(wanted[0])).to_pylist() == wanted


@settings(slow, max_examples=25)
@given(worlds(feasts=True))
def test_equals_feasts_own(world: World) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, world)
        ours = ask(folder, world)
        theirs = ask(folder, world, DuckDBOfflineStore)
    assert ours.schema == theirs.schema
    chance = {world.labels["extra"][label] for label in undecided(world)}
    order = {extra: place for place, extra in enumerate(world.labels["extra"])}
    rows = sorted(theirs.to_pylist(), key=lambda row: order[row["extra"]])
    for our_row, their_row in zip(ours.to_pylist(), rows, strict=True):
        if our_row["extra"] not in chance:
            assert our_row == their_row
