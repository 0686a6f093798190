"""Training examples: tiny tables in, expected rows out; then as arrays and as batches."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.sequences import ItemTable
from models.training import examples as module
from models.training.examples import dataset, read
from tests.worlds.events import AS_OF, DAY, Event, at, configure, write_activity
from transformations import examples as building
from transformations.config import Config
from transformations.duck import connect, sql
from transformations.errors import RunFailedError
from transformations.example_settings import ExampleSettings
from transformations.examples import (
    ExampleReport,
    build_training_examples,
    examples_file,
)

Row = dict[str, Any]
HOUR = timedelta(hours=1)
TABLE = "training_examples"
# One member's five actions and another's one.
STORY = [
    Event(1, 10, "APPLY", at("2026-03-01 08:00")),
    Event(1, 20, "SAVE", at("2026-03-01 08:10")),
    Event(1, 30, "DISMISS", at("2026-03-02 05:00")),
    Event(1, 40, "APPLY", at("2026-03-02 07:00")),
    Event(1, 50, "SAVE", at("2026-03-02 07:20")),
    Event(2, 60, "APPLY", at("2026-03-02 20:00")),
]


def built(
    config: Config,
    events: Sequence[Event] = STORY,
    since: datetime | None = None,
    until: datetime = AS_OF,
    **settings: Any,
) -> tuple[ExampleReport, list[Row]]:
    """Build the examples, by default of windows that end at their label; return their rows."""
    settings = {"inputs": "before_label"} | settings
    write_activity(config, events)
    with connect(config) as con:
        report = build_training_examples(config, con, ExampleSettings(**settings), until, since)
    rows = pq.ParquetFile(report.file).read().to_pylist()
    order = ("member_id", "as_of", "happened_at", "label_item_id", "is_random")
    return report, sorted(rows, key=lambda row: [row[name] for name in order])


def brief(rows: Sequence[Row]) -> list[tuple[Any, Any]]:
    return [(row["item_ids"], row["label_item_id"]) for row in rows]


def test_a_row_in_full(tmp_path: Path) -> None:
    _, rows = built(configure(tmp_path), random_negatives=0, negative_weight=0.75)

    assert rows[1] == {
        "member_id": 1,
        "as_of": at("2026-03-02 05:00"),
        "item_ids": [10, 20],
        "actions": ["APPLY", "SAVE"],
        "event_timestamps": [at("2026-03-01 08:00"), at("2026-03-01 08:10")],
        "label_item_id": 30,
        "label_action": "DISMISS",
        "label_timestamp": at("2026-03-02 05:00"),
        "happened_at": at("2026-03-02 05:00"),
        "is_positive": False,
        "is_random": False,
        "weight": 0.75,
    }


# What each setting makes of the story: (items in the window, label).
SETTINGS: dict[str, tuple[dict[str, Any], list[tuple[list[int], int]]]] = {
    "every action is held out once": (
        {},
        [([10], 20), ([10, 20], 30), ([10, 20, 30], 40), ([20, 30, 40], 50)],
    ),
    "min_actions": ({"min_actions": 6}, []),
    "stride, from the newest": ({"stride": 2}, [([10, 20], 30), ([20, 30, 40], 50)]),
    # 05:00 is before the midnight snapshot can be read, at 06:00.
    "snapshot": ({"inputs": "snapshot"}, [([10, 20], 40), ([10, 20], 50)]),
    "all": (
        {"labels": "all", "horizon": 3 * HOUR},
        [
            ([10], 20),
            *(([10, 20], label) for label in (30, 40, 50)),
            *(([10, 20, 30], label) for label in (40, 50)),
            ([20, 30, 40], 50),
        ],
    ),
    # The horizon of a snapshot starts at 06:00.
    "all of a snapshot": (
        {"labels": "all", "inputs": "snapshot", "horizon": 75 * HOUR / 60},
        [([10, 20], 40)],
    ),
    "skip_own_session": ({"skip_own_session": True}, [([10, 20], 30), ([10, 20, 30], 40)]),
    "sessions with a longer gap": (
        {"skip_own_session": True, "session_gap": 2 * HOUR + timedelta(microseconds=1)},
        [([10, 20], 30)],
    ),
    "a gap as long as session_gap parts sessions": (
        {"skip_own_session": True, "session_gap": 2 * HOUR},
        [([10, 20], 30), ([10, 20, 30], 40)],
    ),
    "since": ({"since": at("2026-03-02 07:00")}, [([10, 20, 30], 40), ([20, 30, 40], 50)]),
    "until": (
        {"until": at("2026-03-02 07:20")},
        [([10], 20), ([10, 20], 30), ([10, 20, 30], 40)],
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tmp_path: Path, name: str) -> None:
    settings, expected = SETTINGS[name]

    _, rows = built(configure(tmp_path, length=3), **({"random_negatives": 0} | settings))

    assert brief(rows) == expected


def test_actions_of_one_moment_are_not_in_each_others_inputs(tmp_path: Path) -> None:
    log = [Event(1, item, "APPLY", AS_OF - DAY) for item in (1, 2, 3)]

    _, rows = built(
        configure(tmp_path), [*log, Event(1, 9, "SAVE", AS_OF - 2 * DAY)], random_negatives=0
    )

    assert brief(rows) == [([9], 1), ([9], 2), ([9], 3)]


def test_what_came_in_late_is_in_no_earlier_input(tmp_path: Path) -> None:
    log = [
        Event(1, 1, "APPLY", AS_OF - 9 * HOUR, AS_OF - 9 * HOUR),
        Event(1, 2, "APPLY", AS_OF - 8 * HOUR, AS_OF - 5 * HOUR),
        Event(1, 3, "APPLY", AS_OF - 6 * HOUR, AS_OF - 6 * HOUR),
        Event(1, 4, "APPLY", AS_OF - 4 * HOUR, AS_OF - 4 * HOUR),
        Event(1, 5, "APPLY", AS_OF - 3 * HOUR, AS_OF),
    ]

    _, rows = built(configure(tmp_path, length=2), log, random_negatives=0)

    assert brief(rows) == [([1], 2), ([1], 3), ([2, 3], 4)]


def test_random_negatives(tmp_path: Path) -> None:
    config = configure(tmp_path)

    report, rows = built(config, random_negatives=3, random_negative_weight=0.25)

    drawn = [row for row in rows if row["is_random"]]
    assert len(drawn) == 9  # 20, 40 and 50 are positive and have an input
    of_day = {1: {10, 20}, 2: {30, 40, 50, 60}}
    inputs = {row["happened_at"]: row["item_ids"] for row in rows if not row["is_random"]}
    for row in drawn:
        assert row["label_item_id"] in of_day[row["happened_at"].day]
        assert abs(row["label_timestamp"] - row["happened_at"]) <= HOUR
        assert row["item_ids"] == inputs[row["happened_at"]]
        assert (row["is_positive"], row["weight"]) == (False, 0.25)
    assert {row["label_action"] for row in drawn} == {
        "RANDOM_NEGATIVE_FOR_SAVE",
        "RANDOM_NEGATIVE_FOR_APPLY",
    }
    assert len({row["label_timestamp"] for row in drawn}) == 9
    hits = sum(row["label_item_id"] != 60 for row in drawn)
    assert report.share_acted_on == hits / 9


def test_draws_are_uniform_and_follow_the_seed(tmp_path: Path) -> None:
    log = [Event(m, m % 4, "APPLY", AS_OF - DAY + m * HOUR / 60) for m in range(400)]
    log += [Event(m, 9, "SAVE", AS_OF - 2 * DAY) for m in range(400)]
    drawn = {}
    for seed in (0, 1):
        _, rows = built(configure(tmp_path / str(seed)), log, min_actions=2, seed=seed)
        drawn[seed] = [row for row in rows if row["is_random"]]

    items = [row["label_item_id"] for row in drawn[0]]
    assert items != [row["label_item_id"] for row in drawn[1]]
    # Of 400 draws of 4 items, each within 5 standard deviations of 100.
    assert all(57 <= items.count(item) <= 143 for item in range(4))
    moved = [(r["label_timestamp"] - r["happened_at"]) / HOUR for r in drawn[0]]
    assert abs(np.mean(moved)) < 5 * np.sqrt(1 / 3 / 400)
    assert min(moved) < -0.9
    assert max(moved) > 0.9


def test_random_negatives_in_inputs(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"random_negative_shift": timedelta(0)}

    _, rows = built(configure(tmp_path), random_negatives_in_inputs=True, **settings)

    last = [row for row in rows if row["happened_at"] == STORY[4].event_timestamp]
    own = [event.action for event in STORY[:4]]
    drawn = [f"RANDOM_NEGATIVE_FOR_{action}" for action in own if action != "DISMISS"]
    assert sorted(last[0]["actions"]) == sorted(own + drawn)
    assert last[0]["event_timestamps"] == sorted(last[0]["event_timestamps"])


def test_figures(tmp_path: Path) -> None:
    report, _ = built(configure(tmp_path))

    figures = report.figures()
    share = figures.pop("random_negatives_acted_on")
    assert 0 <= share <= 1
    assert json.loads(json.dumps(figures)) == {
        "examples": 7,
        "positives": 3,
        "negatives": 1,
        "random_negatives": 3,
        "positives_per_negative": 3.0,
        "positives_per_any_negative": 0.75,
        "members": 1,
        "members_dropped": 1,
        "sequence_lengths": {"1": 1, "2": 1, "3": 1, "4": 1},
        "windows": 4,
        "windows_empty": 1,
        "windows_a_member": 4.0,
        "windows_a_member_most": 4,
        "random_negatives_a_day": 1.5,
    }


def test_without_activity_there_are_no_examples(tmp_path: Path) -> None:
    report, rows = built(configure(tmp_path), [])

    assert rows == []
    assert report.figures()["positives_per_negative"] is None


def test_the_order_of_the_file_is_shuffled(tmp_path: Path) -> None:
    log = [Event(m, m, "APPLY", AS_OF - DAY + i * HOUR) for m in range(40) for i in range(2)]

    report, rows = built(configure(tmp_path), log, min_actions=1, random_negatives=0)

    members = pq.ParquetFile(report.file).read()["member_id"].to_pylist()
    assert members != sorted(members)
    assert sorted(members) == list(range(40))
    assert len(rows) == 40


def test_other_settings_have_another_file(tmp_path: Path) -> None:
    config, settings = configure(tmp_path), ExampleSettings()
    files = {
        examples_file(config, settings, AS_OF),
        examples_file(config, settings, AS_OF, AS_OF - DAY),
        examples_file(config, settings, AS_OF - DAY),
        examples_file(config, replace(settings, seed=1), AS_OF),
        examples_file(configure(tmp_path, length=5), settings, AS_OF),
    }
    assert len(files) == 5


# What a wrong query might give, in place of the right column → the rule that must name it.
PLANTED = {
    "as_of + interval 1 second as as_of": "a label does not happen before as_of",
    "list_append(event_timestamps[1:-2], as_of) as event_timestamps": (
        "event_timestamps lie in the window"
    ),
    "list_prepend(as_of - interval 29 day, event_timestamps[2:]) as event_timestamps": (
        "event_timestamps lie in the window"
    ),
    "item_ids[2:] as item_ids": "length is 1 to the maximum",
    "list_append(actions, 'SAVE') as actions": "lists are of equal length",
    "list_prepend('CLICK', actions[2:]) as actions": "actions are configured",
    "happened_at - interval 300 day as happened_at": "a label does not happen before as_of",
    "if(is_random, label_timestamp + interval 2 hour, label_timestamp) as label_timestamp": (
        "a random negative is moved by no more than its shift"
    ),
    "if(is_random, 70, label_item_id) as label_item_id": (
        "the item of a random negative was acted on that day"
    ),
    "not is_positive as is_positive": "a positive label is of a positive action",
    "null::float as weight": "nothing but",
}


@pytest.mark.parametrize("wrong", PLANTED)
def test_the_check_catches_a_planted_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def planted(table: str) -> str:
        query = sql(table)
        return f"select * replace ({wrong}) from ({query})" if table == TABLE else query

    monkeypatch.setattr(building, "sql", planted)
    config = configure(tmp_path)

    with pytest.raises(RunFailedError, match=PLANTED[wrong]):
        built(config)

    assert not list(config.data.glob("training_examples/*/*"))


def test_the_check_catches_a_repeated_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(table: str) -> str:
        query = sql(table)
        return (
            f"select * exclude (range) from ({query}) cross join range(2)"
            if table == TABLE
            else query
        )

    monkeypatch.setattr(building, "sql", planted)
    with pytest.raises(RunFailedError, match="member_id, as_of and label are unique"):
        built(configure(tmp_path))


# --- arrays and batches ---------------------------------------------------------------------------


def table_of(*items: int) -> ItemTable:
    return ItemTable(pa.array(items, pa.int64()), np.zeros((len(items) + 1, 4), np.float32))


def test_arrays(tmp_path: Path) -> None:
    config = configure(tmp_path, length=3)
    report, _ = built(config, random_negatives=0)

    # 20 and 40 have no vector: the one is PAD, and examples with the other as label are dropped.
    items = table_of(10, 30, 50)
    got = read(report.file, items, config)

    indices = np.argsort(got.label_timestamps)
    assert got.n_without_vector == 2
    assert got.rows[indices].tolist() == [[0, 1, 0], [0, 2, 0]]
    assert got.actions[indices].tolist() == [[0, 1, 0], [0, 3, 0]]
    ages = [[0, 21 / 24, 0], [0, 140 / 1440, 0]]
    np.testing.assert_allclose(got.ages[indices], ages, rtol=1e-6)
    assert got.label_rows[indices].tolist() == [2, 3]
    assert got.label_actions[indices].tolist() == [3, 2]
    assert got.positive[indices].tolist() == [False, True]
    assert not got.random.any()
    assert [a.dtype for a in (got.rows, got.ages, got.label_timestamps)] == [
        np.int32,
        np.float32,
        np.int64,
    ]


def test_a_random_negative_goes_with_its_positive(tmp_path: Path) -> None:
    config = configure(tmp_path)
    report, _ = built(config, random_negatives=40)
    items = table_of(10, 20, 30, 40, 50, 60)
    edge = STORY[3].event_timestamp

    before = read(report.file, items, config, (AS_OF - 28 * DAY, edge))
    after = read(report.file, items, config, (edge, AS_OF))

    assert (before.label_timestamps >= edge.timestamp() * 1e6).sum() == 0
    assert (after.label_timestamps < edge.timestamp() * 1e6).any()
    assert int(before.random.sum()) == 40
    assert int(after.random.sum()) == 80
    assert set(after.label_actions[after.random]) == {1, 2}


def test_random_negatives_in_inputs_have_codes_after_the_others(tmp_path: Path) -> None:
    config = configure(tmp_path)
    report, _ = built(config, random_negatives_in_inputs=True)

    got = read(report.file, table_of(10, 20, 30, 40, 50, 60), config)

    assert set(got.actions.ravel()) == {0, 1, 2, 3, 4, 5}


def many(config: Config) -> tuple[Path, ItemTable]:
    log = [
        Event(
            m, (m + i) % 30, "APPLY" if i % 3 else "DISMISS", AS_OF - DAY + (i * 60 + m) * HOUR / 90
        )
        for m in range(60)
        for i in range(8)
    ]
    report, _ = built(config, log)
    return report.file, table_of(*range(30))


def epochs(batches: Any, count: int = 2) -> list[list[dict[str, Any]]]:
    return [list(batches.as_numpy_iterator()) for _ in range(count)]


def contents(batches: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Each example of the batches, in their order, as something to compare."""
    return [
        tuple(np.asarray(batch[name][i]).tobytes() for name in sorted(batch))
        for batch in batches
        for i in range(len(batch["rows"]))
    ]


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "streamed"])
def test_every_pass_has_all_examples_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    config = configure(tmp_path, length=4)
    file, items = many(config)
    # Several small row groups, as a large file has.
    pq.write_table(pq.read_table(file, partitioning=None), file, row_group_size=100)
    if not kept:
        monkeypatch.setattr(module, "KEPT_BYTES", 0)
    whole = read(file, items, config)

    first, second = epochs(dataset(file, items, config, batch_size=32, seed=5))
    again, _ = epochs(dataset(file, items, config, batch_size=32, seed=5))
    other, _ = epochs(dataset(file, items, config, batch_size=32, seed=6))

    assert [len(batch["rows"]) for batch in first[:-1]] == [32] * (len(whole) // 32)
    assert len(first[-1]["rows"]) == len(whole) % 32
    expected = sorted(contents([whole.tensors()]))
    assert sorted(contents(first)) == sorted(contents(second)) == expected
    assert contents(first) == contents(again)
    assert contents(first) != contents(second)
    assert contents(first) != contents(other)


def test_which_examples(tmp_path: Path) -> None:
    config = configure(tmp_path, length=4)
    file, items = many(config)
    since = AS_OF - DAY + 3 * HOUR
    whole = read(file, items, config)

    def batches(**chosen: Any) -> dict[str, Any]:
        (batch,) = dataset(
            file, items, config, batch_size=10_000, seed=0, **chosen
        ).as_numpy_iterator()
        return batch

    assert len(batches(only_positive=True)["rows"]) == whole.positive.sum()
    assert not batches(with_random=False)["random"].any()
    recent = batches(between=(since, AS_OF))
    assert len(recent["rows"]) == (whole.happened_at >= since.timestamp() * 1e6).sum()
    nothing = dataset(file, items, config, 8, 0, between=(AS_OF, AS_OF + DAY))
    assert list(nothing.as_numpy_iterator()) == []
