"""What a join says it could not give: counted by brute force, logged in one line, and right."""

from __future__ import annotations

import logging
import math
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.asof import coverage
from stores.asof import find as asof_find
from stores.asof import job as asof_job
from stores.asof.coverage import MAX_AGE_TAG, QUANTILES, Coverage
from tests.stores.test_asof_store import DAY, frame, join, snapshot_view, snapshots
from tests.worlds.asof import MAX_AGE, World, ages, plan, worlds, write

HOUR = timedelta(hours=1)


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    max_examples=60,
)
@given(worlds(), st.sampled_from([asof_find.ROWS_PER_EVENT_TIME, 0.01]), st.booleans())
def test_equals_brute_force(world: World, rows_per_event_time: float, streamed: bool) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        write(Path(name), world)
        patch.setattr(asof_find, "ROWS_PER_EVENT_TIME", rows_per_event_time)
        job = plan(Path(name), world)
        assert isinstance(job, asof_job.AsofRetrievalJob)
        assert job.coverage == ()
        if streamed:
            list(job.to_arrow_batches(1))
        else:
            job.to_arrow()
    for spec, got in zip(world.views, job.coverage, strict=True):
        found = sorted(age for age in ages(world, spec) if age is not None)
        ranks = [max(0, math.ceil(share * len(found)) - 1) for share in QUANTILES if found]
        assert got == Coverage(
            view=spec.name,
            labels=len(world.times),
            without_row=len(world.times) - len(found),
            max_age=MAX_AGE,
            old=sum(age >= MAX_AGE for age in found),
            ages=tuple(found[rank] // HOUR * HOUR for rank in ranks),
        )


def test_one_line_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two snapshots; member 7 is in none, and two labels come long after the last one."""
    snapshots(tmp_path / "data/snapshots", days=2)
    labels = frame((0, 1.5), (1, 1.5), (7, 1.5), (0, 800), (1, 801))
    with caplog.at_level(logging.INFO):
        join(tmp_path, snapshot_view, labels).to_arrow()
    (line,) = [record for record in caplog.records if record.name == coverage.__name__]
    assert line.levelname == "WARNING"  # for the label without a row
    assert line.getMessage() == (
        "training join: snapshot: of 5 labels 1 (20.0%) have no row (median 12 hours, "
        "oldest 800 days)"
    )


@pytest.mark.parametrize(("day", "level"), [(1.5, "INFO"), (800, "WARNING")])
def test_old_rows_are_a_warning_where_the_view_says_what_is_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, day: float, level: str
) -> None:
    snapshots(tmp_path / "data/snapshots", days=2)
    view = snapshot_view.__copy__()
    view.tags = {MAX_AGE_TAG: "108000"}
    job = join(tmp_path, view, frame((0, day), (1, 1)))
    with caplog.at_level(logging.INFO):
        job.to_arrow()
    (line,) = [record for record in caplog.records if record.name == coverage.__name__]
    assert line.levelname == level
    assert (job.coverage[0].old, job.coverage[0].max_age) == (int(day > 2), 1.25 * DAY)


def test_a_tag_that_is_not_a_number(tmp_path: Path) -> None:
    snapshots(tmp_path / "data/snapshots", days=1)
    view = snapshot_view.__copy__()
    view.tags = {MAX_AGE_TAG: "30h"}
    with pytest.raises(ValueError, match=r"expected the tag max_age_seconds .* got '30h'"):
        join(tmp_path, view, frame((0, 1)))
