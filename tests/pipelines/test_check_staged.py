"""The short form of `check` at the start of a run: what is staged, and what will be poor."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipelines.check import figures, say
from pipelines.check.find import find
from pipelines.check.sentences import warnings_of
from tests.pipelines.test_check import DAY, NOON, NOW, ROWS, configure
from tests.worlds.events import AS_OF, Event, event_logs, write_activity
from tests.worlds.events import configure as by_hand
from transformations.config import Config
from transformations.duck import connect, count, parquet
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples
from transformations.layout import partition, partition_files
from transformations.sources import stage_activity, stage_items
from transformations.tables import activity_query


def said(config: Config, as_of: datetime) -> list[str]:
    """Stage both sources, and what a run would then print."""
    console = Console(file=StringIO(), width=400)
    with connect(config) as con:
        stage_activity(config, con, as_of)
        stage_items(config, con, as_of)
        say.say_staged(console, config, con, as_of)
    return console.file.getvalue().splitlines()


def test_how_much_there_is_and_what_is_poor(tmp_path: Path) -> None:
    config = configure(tmp_path, min_positives=1)
    lines = said(config, NOW.replace(hour=0, minute=0))
    assert lines[0] == "7 actions of 2 members, 2025-11-29 to 2026-03-09"
    assert lines[1:] == [
        (
            "• learned_decay_v2 could learn from at most 0 positive actions before 2026-02-13, of "
            "members with 4 actions, and min_positives asks for 1: it is not trained"
        ),
        "• 33% of the events' items have no row in the items source: 1 actions get no vector",
        "• 33% of the items have no text: their vectors come from categories alone, or say nothing",
        (
            "• no event for 96 days, from 2025-11-29 to 2026-03-05: longer than the window, so "
            "snapshots in it are empty"
        ),
        (
            "• 29% of the actions share member and timestamp with another; they are ordered by "
            "item_id, not by what came first"
        ),
    ]


def test_it_says_what_check_says(tmp_path: Path) -> None:
    config = configure(tmp_path)
    bullets = [f"• {warning}" for warning in warnings_of(find(config, NOW), NOW)]
    assert len(bullets) == 5
    assert said(config, NOW.replace(hour=0, minute=0))[1:] == bullets


def test_data_that_ended_long_before_the_run(tmp_path: Path) -> None:
    lines = said(configure(tmp_path), datetime(2026, 11, 28, tzinfo=UTC))
    assert lines[1] == (
        "• the newest event is 264 days old: as of 2026-11-28 none of 2 members have actions; "
        "--as-of last uses 2026-03-10, where 1 have"
    )


def test_very_many_actions_are_not_counted_by_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(say, "MANY_ACTIONS", len(ROWS) - 1)
    monkeypatch.setattr(say, "activity_of", None)  # would pass over all of them
    config = configure(tmp_path)
    assert said(config, NOW.replace(hour=0, minute=0)) == ["7 actions, 2025-11-29 to 2026-03-09"]
    assert said(config, NOON + 10 * DAY) == [
        "7 actions, 2025-11-29 to 2026-03-09",
        "• the newest event is 10 days older than 2026-03-19; --as-of last uses 2026-03-10",
    ]


def test_a_training_that_would_have_too_little(tmp_path: Path) -> None:
    """Member 1 has five positive actions, the first of which follows nothing."""
    config = configure(tmp_path, fit_holdback="1h", min_positives=5)
    sentence = (
        "learned_decay_v2 could learn from at most 0 positive actions before 2026-02-23, of "
        "members with 4 actions, and min_positives asks for 5: it is not trained"
    )
    assert sentence in warnings_of(find(config, NOW), NOW)
    (training,) = find(config, NOW + 14 * DAY).activity.trainings
    assert (training.line, training.positives, training.min_actions) == ("learned_decay_v2", 4, 4)


@settings(max_examples=40, deadline=None)
@given(
    events=event_logs("int64", [AS_OF], 3 * DAY),
    least=st.sampled_from([1, 3]),
    back=st.sampled_from([0, 36]),
)
def test_no_training_has_more_labels_than_are_possible(
    events: list[Event], least: int, back: int
) -> None:
    before = AS_OF - timedelta(hours=back)
    with TemporaryDirectory() as folder:
        config = by_hand(Path(folder))
        write_activity(config, events)
        files = partition_files(config.layout.activity)
        if not files:
            return
        with connect(config) as con:
            con.execute(f"create temp view activity as {activity_query(config, con, files)}")
            possible = count(
                con,
                figures.sql("possible_labels", figures.__file__),
                {
                    "until": AS_OF,
                    "before": before,
                    "min_actions": least,
                    "predicted": ["APPLY", "SAVE"],
                },
            )
            recipe = ExampleSettings(min_actions=least, random_negatives=0, inputs="before_label")
            made = build_training_examples(config, con, recipe, AS_OF)
            labels = count(
                con,
                f"select count(*) from {parquet([made.file])} "
                "where is_positive and label_timestamp < $before",
                {"before": before},
            )
    assert labels <= possible


def test_check_names_the_gaps_between_snapshots(tmp_path: Path) -> None:
    config = configure(tmp_path)
    for day in (1, 2, 5):
        file = partition(config.layout.sequences, NOON.replace(day=day, hour=0))
        file.parent.mkdir(parents=True)
        pq.write_table(pq.read_table(config.events.source), file)
    assert warnings_of(find(config, NOW), NOW)[-1] == (
        "no snapshot from 2026-03-03 to 2026-03-04 (2 snapshots): labels there get that of "
        "2026-03-02. To build them: activity backfill --from 2026-03-03 --to 2026-03-04"
    )
