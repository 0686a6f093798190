"""Which snapshots labels lack, what builds them, and what a join says of it."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.packaging import package
from operations.ledger import Ledger
from pipelines import coverage
from pipelines.coverage import Gap, gaps, gaps_within, say_gaps
from pipelines.workspace import OpenWorkspace
from serving import publish
from tests.worlds.applied import World, utc
from tests.worlds.events import configure
from tests.worlds.lines import AGGREGATORS
from transformations.config import Config
from transformations.layout import partition
from transformations.timestamps import microseconds

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DECAY = next(line for line in AGGREGATORS if line.name == "decay")


def built(config: Config, *as_ofs: datetime) -> Config:
    """Let these snapshots be there; a gap follows from their names alone."""
    for as_of in as_ofs:
        file = partition(config.layout.sequences, as_of)
        file.parent.mkdir(parents=True)
        file.touch()
    return config


def at(*labels: datetime) -> np.ndarray:
    return np.array([microseconds(label) for label in labels], np.int64)


def test_labels_between_two_snapshots_lack_those_that_were_not_built(tmp_path: Path) -> None:
    config = built(configure(tmp_path), utc(2), utc(3), utc(7))
    labels = at(
        utc(2, 6),  # reads day 2, as soon as it can
        utc(4, 5, 59),  # reads day 3, since day 4 could not be read yet
        utc(4, 6),
        utc(7, 5, 59),  # day 6 is the newest that could have been there
        utc(7, 6),
    )
    assert gaps(config, labels) == [Gap(utc(4), utc(6), 2, utc(3))]
    assert gaps_within(config) == [Gap(utc(4), utc(6), 3, utc(3))]
    assert gaps(config, labels)[0].command == "activity backfill --from 2026-03-04 --to 2026-03-06"


def test_labels_before_the_first_and_after_the_last_snapshot(tmp_path: Path) -> None:
    config = built(configure(tmp_path), utc(4))
    labels = at(utc(2, 7), utc(4, 5), utc(4, 7), utc(9, 12))
    assert gaps(config, labels) == [Gap(utc(2), utc(3), 2, None), Gap(utc(9), utc(9), 1, utc(4))]
    assert gaps_within(config) == []
    assert gaps(configure(tmp_path / "other"), labels)[0].labels == 4


def test_one_that_was_published_late_is_not_missing(tmp_path: Path) -> None:
    """A run with a past as_of is readable since the run; what lies between is not there."""
    config = built(configure(tmp_path), utc(2), utc(4))
    ledger = Ledger(config)
    with ledger.run("run", utc(4)) as run_id:
        ledger.published(run_id, utc(20))
    assert gaps(config, at(utc(3, 7), utc(4, 7), utc(6, 7), utc(20, 1))) == [
        Gap(utc(3), utc(6), 2, utc(2)),
        Gap(utc(19), utc(19), 1, utc(4)),
    ]


@settings(max_examples=80, deadline=None)
@given(
    st.sets(st.integers(0, 12), max_size=6),
    st.lists(st.integers(0, 16 * 24), max_size=8),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 6]),
)
def test_equals_brute_force(days: set[int], hours: list[int], step: int, delay: int) -> None:
    with TemporaryDirectory() as folder:
        config = configure(
            Path(folder), rhythm={"snapshot": step * DAY}, publish_delay=delay * HOUR
        )
        as_ofs = [utc(1) + day * step * DAY for day in sorted(days)]
        built(config, *as_ofs)
        found = gaps(config, at(*(utc(1) + hour * HOUR for hour in hours)))
    lacking = []
    for label in (utc(1) + hour * HOUR for hour in hours):
        newest = max((one for one in as_ofs if one + delay * HOUR <= label), default=None)
        if newest is None or label - newest >= (step * DAY + delay * HOUR):
            lacking.append((newest, label))
    assert sorted((gap.before or utc(1) - DAY, gap.labels) for gap in found) == sorted(
        (newest or utc(1) - DAY, sum(one == newest for one, _ in lacking))
        for newest in {newest for newest, _ in lacking}
    )
    for gap in found:
        # Each of these labels reads one of the snapshots that the command builds.
        own = [label for newest, label in lacking if newest == gap.before]
        for label in own:
            wanted = [gap.first + n * step * DAY for n in range((gap.last - gap.first) // DAY + 1)]
            newest = max(one for one in wanted if one + delay * HOUR <= label)
            assert label - newest < step * DAY + delay * HOUR


def test_the_longest_gaps_are_said_first_of_all(tmp_path: Path) -> None:
    config = built(configure(tmp_path), *(utc(day) for day in (1, 3, 6, 8, 12, 14)))
    assert list(say_gaps(gaps_within(config), "snapshot")) == [
        (
            "no snapshot of 2026-03-02 (1 snapshot): labels there get that of 2026-03-01. To build "
            "them: activity backfill --from 2026-03-02 --to 2026-03-02"
        ),
        (
            "no snapshot from 2026-03-04 to 2026-03-05 (2 snapshots): labels there get that of "
            "2026-03-03. To build them: activity backfill --from 2026-03-04 --to 2026-03-05"
        ),
        (
            "no snapshot from 2026-03-09 to 2026-03-11 (3 snapshots): labels there get that of "
            "2026-03-08. To build them: activity backfill --from 2026-03-09 --to 2026-03-11"
        ),
        "2 shorter gaps besides; all at once: activity backfill --from 2026-03-02 --to 2026-03-13",
    ]


@pytest.fixture
def ws(tmp_path: Path) -> OpenWorkspace:
    """Snapshots of days 2 and 3: member 7 acted, member 8 had left the window."""
    world = World(tmp_path)
    for day in (2, 3):
        world.snapshot(utc(day), {7: [(1, "APPLY", utc(1))], 8: []})
    world.items("part-0", {1: utc(1)})
    found = OpenWorkspace(world.config)
    publish.apply(world.config, found.store, [DECAY])
    return found


def labels(*rows: tuple[int, datetime]) -> pd.DataFrame:
    frame = pd.DataFrame({"member_id": [m for m, _ in rows], "item_id": 1})
    return frame.assign(event_timestamp=pd.Series([at for _, at in rows], dtype="M8[us, UTC]"))


def test_a_join_that_gives_all_says_nothing(ws: OpenWorkspace) -> None:
    said: list[str] = []
    table = ws.join(labels((7, utc(3, 12)), (7, utc(2, 12))), "decay", said.append)
    assert table["member_id"].to_pylist() == [7, 7]
    assert table["n_actions"].to_pylist() == [1, 1]
    assert said == []


@pytest.mark.mended_trap("Feast's own stores do not count what a join could not give")
def test_a_join_says_what_it_could_not_give(ws: OpenWorkspace) -> None:
    said: list[str] = []
    asked = labels((7, utc(2, 12)), (9, utc(2, 12)), (7, utc(3, 12)), (7, utc(30)))
    ws.join(asked, "decay", said.append)
    assert said == [
        (
            f"{DECAY.view}: of 4 labels 1 (25.0%) have no row, 1 (25.0%) one of 30 hours or more "
            "(median 12 hours, oldest 27 days)"
        ),
        (
            "no snapshot of 2026-03-29 (1 label would read one): labels there get that of "
            "2026-03-03. To build them: activity backfill --from 2026-03-29 --to 2026-03-29"
        ),
    ]


@pytest.mark.mended_trap("Feast's own stores do not count what a join could not give")
def test_a_fit_that_saw_what_came_later_fills_no_gap(
    ws: OpenWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    package(DECAY, ws.config)
    monkeypatch.setattr(coverage, "seen_until", lambda *_: utc(2))
    ws.join(labels((7, utc(1, 12))), "decay", said.append)
    assert said[1:] == [
        (
            "no snapshot of 2026-03-01 (1 label would read one): labels there get no row. "
            "To build them: activity backfill --from 2026-03-01 --to 2026-03-01"
        ),
        (
            "decay_v1 was fitted on what was known before 2026-03-02 and makes no row before that. "
            "For an earlier fit, with views of its own: activity fit --until 2026-03-01"
        ),
    ]


@pytest.mark.mended_trap("Feast's own stores do not count what a join could not give")
def test_members_who_had_not_acted_are_no_gap(ws: OpenWorkspace) -> None:
    said: list[str] = []
    ws.join(labels((9, utc(2, 12))), "decay", said.append)
    assert re.match(r"no snapshot is missing: these members had not acted before", said[1])
