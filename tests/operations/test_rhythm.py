"""What is due, by the ledger and the rhythm: on workspaces that hold nothing but their notes."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from operations.drift import DRIFT, note
from operations.drift_rule import Measured, judge
from operations.fits import FITS, Fits
from operations.ledger import RUNS, STAGES, Ledger
from operations.rhythm import Outcome, Plan, next_after, note_attempt, plan
from transformations.config import Config, load_config
from transformations.durations import Every, said
from transformations.errors import InputError
from transformations.names import Space

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = datetime(2026, 3, 31, 4, tzinfo=UTC)
MIDNIGHT = NOW.replace(hour=0)
CATALOGUE = """
from models.candidates.spec import NearestToMember, Neighbours, Popular
from models.items.spec import CoActions, Factors, TfidfSvd
from models.rankers.lines import Linear
from models.spec import Average, GeometricDecay

ITEM_ENCODERS = (TfidfSvd(version=1), CoActions(version=1), Factors(version=1))
AGGREGATORS = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.5, items="co_actions_v1"),
)
CANDIDATES = (Popular(version=1), Neighbours(of="factors_v1", version=1))
RANKERS = (Linear(version=1, aggregators=("decay_v1",)),)
"""


class Noted:
    """A workspace whose ledger is written by hand."""

    def __init__(self, root: Path, rhythm: str = "", catalogue: str = CATALOGUE) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        (root / "activity.yaml").write_text(f"items: {{text: [title]}}\n{rhythm}")
        (root / "catalog.py").write_text(catalogue)
        (root / "feature_store.yaml").write_text("project: noted\n")
        self.touch(MIDNIGHT - 90 * DAY)
        self.ledger = Ledger(self.config)

    @property
    def config(self) -> Config:
        return load_config(self.root)

    def touch(self, at: datetime) -> None:
        for name in ("activity.yaml", "catalog.py"):
            os.utime(self.root / name, (at.timestamp(), at.timestamp()))

    def run(
        self, as_of: datetime, status: str = "done", lists: bool = True, command: str = "run"
    ) -> None:
        at = (as_of + HOUR).isoformat(timespec="microseconds")
        with self.ledger.engine.begin() as connection:
            query = sa.insert(RUNS).values(
                command=command,
                as_of=as_of.isoformat(timespec="microseconds"),
                started_at=at,
                published_at=at if command == "run" else None,
                status=status,
                error="RunFailedError: disk\nmore" if status == "failed" else None,
            )
            run_id = connection.execute(query.returning(RUNS.c.run_id)).scalar_one()
            if lists:
                stage = {"run_id": run_id, "position": 0, "stage": "candidate_lists"}
                values = stage | {"refused": {}, "seconds": 1.0}
                connection.execute(sa.insert(STAGES).values(**values))

    def fit(self, kind: str, name: str, fit: int, made_at: datetime) -> None:
        at = made_at.isoformat(timespec="microseconds")
        values: dict[str, Any] = {"kind": kind, "name": name, "version": 1, "fit": fit}
        if kind == "line":
            encoder = "co_actions" if name == "decay" else "tfidf_svd"
            values |= {"encoder": encoder, "encoder_version": 1, "encoder_fit": fit}
        with self.ledger.engine.begin() as connection:
            connection.execute(sa.insert(FITS).values(**values, made_at=at, used_at=at))

    def fit_all(self, made_at: datetime, but: str = "") -> None:
        for kind, name in (
            ("space", "tfidf_svd"), ("space", "co_actions"), ("space", "factors"),
            ("line", "average"), ("line", "decay"), ("ranker", "linear"),
        ):  # fmt: skip
            if name != but:
                self.fit(kind, name, 1, made_at + (HOUR if kind == "ranker" else 0 * HOUR))

    def retire(self, kind: str, name: str, fit: int) -> None:
        key = (FITS.c.kind == kind, FITS.c.name == name, FITS.c.fit == fit)
        with self.ledger.engine.begin() as connection:
            connection.execute(sa.update(FITS).where(*key).values(retired_at=NOW.isoformat()))

    def spaces(self) -> list[Space]:
        return [*Fits(self.config).spaces.values()]

    def change(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text()
        assert old in text
        (self.root / file).write_text(text.replace(old, new))

    def plan(self, now: datetime = NOW) -> Plan:
        return plan(self.config, self.ledger, now)

    def due(self, now: datetime = NOW) -> list[str]:
        return [str(part) for part in self.plan(now).due]


@pytest.fixture
def fresh(tmp_path: Path) -> Noted:
    """All made five days ago, the last snapshot at the last midnight: nothing is due."""
    noted = Noted(tmp_path / "fresh")
    noted.run(MIDNIGHT)
    noted.fit_all(MIDNIGHT - 5 * DAY + HOUR)
    return noted


def test_nothing_is_due_where_all_is_made(fresh: Noted) -> None:
    planned = fresh.plan()
    assert planned.due == ()
    assert planned.as_of == MIDNIGHT
    assert {str(part): part.at for part in planned.parts} == {
        "snapshot": MIDNIGHT + DAY,
        "space tfidf_svd_v1": None,  # nothing here reads it
        "space co_actions_v1": MIDNIGHT + 25 * DAY,  # with its ranker
        "space factors_v1": MIDNIGHT + 2 * DAY,  # only a candidate source reads it
        "candidates": MIDNIGHT + DAY,
        "ranker linear_v1": MIDNIGHT + 25 * DAY,
    }


def test_a_first_run_makes_the_snapshot_the_lists_and_the_rankers(tmp_path: Path) -> None:
    noted = Noted(tmp_path)
    assert noted.due() == ["snapshot", "candidates", "ranker linear_v1"]
    assert noted.plan().as_of == MIDNIGHT


@pytest.mark.parametrize(
    ("days", "due"),
    [
        (1, ["snapshot", "candidates"]),
        (2, ["snapshot", "space factors_v1", "candidates"]),
        (25, ["snapshot", "space co_actions_v1", "space factors_v1", "candidates",
              "ranker linear_v1"]),
    ],
)  # fmt: skip
def test_parts_become_due_in_order_of_dependence(fresh: Noted, days: int, due: list[str]) -> None:
    assert fresh.due(NOW + days * DAY) == due


def test_missed_snapshots_are_named_oldest_first_and_of_28_days_at_most(fresh: Noted) -> None:
    assert fresh.plan(NOW + DAY).missed == ()
    assert fresh.plan(NOW + 3 * DAY).missed == (MIDNIGHT + DAY, MIDNIGHT + 2 * DAY)
    missed = fresh.plan(NOW + 100 * DAY).missed
    assert (missed[0], len(missed)) == (MIDNIGHT + 72 * DAY, 28)


def test_a_snapshot_of_noon_does_not_put_off_the_next_one(fresh: Noted) -> None:
    fresh.run(MIDNIGHT + 12 * HOUR)
    assert fresh.due(NOW + 12 * HOUR) == []
    assert fresh.plan(NOW + DAY).as_of == MIDNIGHT + DAY
    assert fresh.due(NOW + DAY)[0] == "snapshot"


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("run", "failed", "did not end: RunFailedError: disk"),
        ("run", "killed", "did not end: it was killed"),
        ("recommend", "failed", "did not end: RunFailedError: disk"),
        ("publish", "killed", "did not end: it was killed"),
    ],
)
def test_what_did_not_end_is_made_again(fresh: Noted, command: str, status: str, why: str) -> None:
    fresh.run(MIDNIGHT, status, command=command)
    planned = fresh.plan()
    assert [str(part) for part in planned.due] == ["snapshot", "candidates"]
    assert why in planned.parts[0].why
    fresh.run(MIDNIGHT, command="run" if command == "publish" else command)
    assert fresh.due() == []


def test_a_changed_catalogue_is_due_at_once(fresh: Noted) -> None:
    fresh.touch(NOW)
    (snapshot, *_) = fresh.plan().due
    assert snapshot.why == "activity.yaml was changed after the last run"


def test_a_new_fit_of_what_a_ranker_reads_makes_it_due(fresh: Noted) -> None:
    fresh.fit("space", "co_actions", 2, MIDNIGHT + 2 * HOUR)
    fresh.fit("line", "decay", 2, MIDNIGHT + 2 * HOUR)
    planned = fresh.plan()
    assert [str(part) for part in planned.due] == ["ranker linear_v1"]
    assert planned.due[0].why == "decay_v1_f2, co_actions_v1_f2 is newer than it"


@pytest.mark.parametrize(
    ("outcome", "is_due"), [("done", True), ("failed", True), ("paused", True), ("waits", False)]
)
def test_what_failed_is_tried_again_and_what_lacks_data_waits_for_the_next_snapshot(
    fresh: Noted, outcome: Outcome, is_due: bool
) -> None:
    at = MIDNIGHT + 2 * DAY
    fresh.run(at)
    note_attempt(fresh.ledger, "space", "factors_v1", at, outcome, "too few")
    assert fresh.due(at + HOUR) == (["space factors_v1", "candidates"] if is_due else [])
    assert "space factors_v1" in fresh.due(at + DAY)


def test_a_stop_has_the_sources_read_again_and_says_that_fits_wait(fresh: Noted) -> None:
    usual = dict.fromkeys(range(1, 29), 1_000.0)
    found = judge(Measured("activity", "rows", "", "count", 0.0, 0), usual, rows_before=1_000)
    fresh.run(MIDNIGHT - DAY)
    note(fresh.ledger, MIDNIGHT, "activity", [found])
    planned = fresh.plan()
    assert planned.paused
    assert planned.due[0].why == "drift has stopped fitting; the sources are read once more"
    with fresh.ledger.engine.begin() as connection:
        connection.execute(sa.update(DRIFT).values(accepted="a holiday"))
    assert not fresh.plan().paused
    assert fresh.due() == []


# Rhythms


def test_a_line_has_its_own_rhythm_and_never_is_never(tmp_path: Path) -> None:
    noted = Noted(tmp_path, "rhythm: {rankers: never, lines: {factors_v1: 3d}}")
    noted.run(MIDNIGHT)
    noted.fit_all(MIDNIGHT - 200 * DAY)
    assert noted.due() == ["space factors_v1", "candidates"]


def test_lists_may_be_made_less_often(tmp_path: Path) -> None:
    noted = Noted(tmp_path, "rhythm: {candidates: weekly, spaces: never}")
    noted.run(MIDNIGHT - 6 * DAY)
    noted.run(MIDNIGHT - DAY, lists=False)
    noted.fit_all(MIDNIGHT - 6 * DAY)
    assert noted.due() == ["snapshot"]
    assert noted.due(NOW + DAY) == ["snapshot", "candidates"]


@pytest.mark.parametrize(
    ("rhythm", "said"),
    [
        (
            "rankers: monthly, lines: {co_actions_v1: weekly}",
            "so everything that reads it is fitted again with it; expected linear_v1 at least",
        ),
        ("rankers: never, lines: {co_actions_v1: weekly}", "got never"),
        ("lines: {decay_v1: weekly}", "expected item encoders and rankers of"),
    ],
)
def test_a_ranker_fitted_less_often_than_a_space_it_reads_is_refused(
    tmp_path: Path, rhythm: str, said: str
) -> None:
    with pytest.raises(InputError, match="rhythm") as error:
        Noted(tmp_path, f"rhythm: {{{rhythm}}}").plan()
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("step: 7d", "`step` is now `rhythm.snapshot`"),
        ("rhythm: {snapshot: never}", "everything is read from it"),
        ("rhythm: {snapshot: 7d, candidates: 1d}", "expected at least 7d"),
        ("rhythm: {spaces: sometimes}", "expected hourly, daily, weekly, monthly, never, or a"),
        ("retention: {activity: 30d}", "retention.activity: a snapshot reads the window"),
        ("retention: {snapshots: 55d}", "expected at least 56d, got 55d"),
        ("retention: {impressions: 28d}", "expected at least 29d, got 28d"),
    ],
)
def test_settings_are_refused_with_the_reason(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        Noted(tmp_path, settings)
    assert said in str(error.value)


def test_a_longer_snapshot_takes_the_lists_with_it(tmp_path: Path) -> None:
    assert Noted(tmp_path, "rhythm: {snapshot: weekly}").config.rhythm.lists == 7 * DAY


@given(hours=st.integers(1, 24 * 60), since=st.integers(0, 24 * 90), days=st.integers(1, 40))
def test_a_daily_scheduler_keeps_the_rhythm_whatever_hour_it_runs_at(
    hours: int, since: int, days: int
) -> None:
    """However late in the day a part was made, it is due again after whole days, never later."""
    every = days * DAY
    made = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=since)
    due = next_after(made, every)
    assert made < due <= made + every
    assert due == due.replace(hour=0)
    hourly = timedelta(hours=hours)
    assert made < next_after(made, hourly) <= made + hourly


@given(st.integers(1, 10**9))
def test_a_duration_is_said_as_it_is_read(milliseconds: int) -> None:
    every = timedelta(milliseconds=milliseconds)
    assert TypeAdapter(Every).validate_python(said(every)) == every
