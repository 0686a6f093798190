"""Labels of lines that predict some actions, on items of their kinds; weights of labels."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worlds.events import AS_OF, DAY, Event, at, configure, write_activity
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples
from transformations.item_kinds import predicted_kinds

ACTIONS = {
    "APPLY": {"sign": "positive", "item_kind": "job"},
    "ENROLL": {"sign": "positive", "item_kind": "course"},
    "SAVE": "positive",
    "HIDE": "negative",
    "VIEW": "neutral",
}
KINDS = {10: "job", 11: "job", 20: "course", 21: "course", 30: None, -5: "search"}
EVENTS = [
    Event(1, 10, "APPLY", at("2026-03-01 01:00")),
    Event(1, 20, "ENROLL", at("2026-03-01 02:00")),
    Event(1, -5, "SAVE", at("2026-03-01 03:00")),
    Event(1, 20, "SAVE", at("2026-03-01 04:00")),
    Event(1, 21, "HIDE", at("2026-03-01 05:00")),
    Event(1, 11, "HIDE", at("2026-03-01 06:00")),
    Event(1, 30, "VIEW", at("2026-03-01 07:00")),
    Event(1, 21, "ENROLL", at("2026-03-01 08:00")),
    Event(1, 10, "ENROLL", at("2026-03-01 09:00")),
]
SETTINGS = ExampleSettings(inputs="before_label", min_actions=1, random_negatives=2)


def world(folder: Path, kinds: dict[int, Any] = KINDS, **settings: Any) -> Config:
    config = configure(folder, actions=ACTIONS, **settings)
    write_activity(config, EVENTS)
    config.layout.staged_items.parent.mkdir(parents=True, exist_ok=True)
    staged = pa.table(
        {
            "item_id": list(kinds),
            "kind": pa.array(list(kinds.values()), pa.string()),
            "available_at": pa.array([AS_OF] * len(kinds)),
        }
    )
    pq.write_table(staged, config.layout.staged_items)
    return config


def labels(config: Config, *predicts: str) -> list[tuple[Any, ...]]:
    """Return item, action, is_positive, is_random and weight of each label, oldest first."""
    with connect(config) as con:
        report = build_training_examples(config, con, SETTINGS, AS_OF, predicts=predicts)
    rows = duckdb.sql(
        "select label_item_id, label_action, is_positive, is_random, weight "
        f"from '{report.file}' order by happened_at, is_random, label_timestamp"
    )
    return rows.fetchall()


def taken(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[:3] for row in rows if not row[3]]


def test_without_a_choice_all_signs_are_labels_but_of_searches(tmp_path: Path) -> None:
    got = labels(world(tmp_path))
    assert taken(got) == [
        (20, "ENROLL", True),
        (20, "SAVE", True),
        (21, "HIDE", False),
        (11, "HIDE", False),
        (21, "ENROLL", True),
        (10, "ENROLL", True),
    ]
    assert -5 not in {row[0] for row in got}


def test_a_line_that_predicts_courses(tmp_path: Path) -> None:
    got = labels(world(tmp_path), "ENROLL")
    # A stray ENROLL on a job is no label, nor is a SAVE of a course; jobs stay inputs.
    assert taken(got) == [(20, "ENROLL", True), (21, "HIDE", False), (21, "ENROLL", True)]
    assert {row[0] for row in got if row[3]} == {20, 21}


def test_an_action_of_any_kind_predicts_any_kind_but_searches(tmp_path: Path) -> None:
    got = labels(world(tmp_path), "SAVE", "ENROLL")
    assert (10, "ENROLL", True) in taken(got)
    assert (20, "SAVE", True) in taken(got)
    assert -5 not in {row[0] for row in got}


@pytest.mark.parametrize("name", ["HIDE", "VIEW", "BUY"])
def test_what_cannot_be_positive_is_not_predicted(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"\(APPLY, ENROLL, SAVE\), got {name}"):
        predicted_kinds(world(tmp_path), (name,))


def test_kinds_without_a_column_of_them(tmp_path: Path) -> None:
    config = world(tmp_path)
    staged = pq.read_table(config.layout.staged_items).drop_columns("kind")
    pq.write_table(staged, config.layout.staged_items)
    with pytest.raises(InputError, match="expected items of the kind course, but no item has"):
        labels(config, "ENROLL")


def test_a_weight_of_labels(tmp_path: Path) -> None:
    """One of nine actions is a VIEW, three an ENROLL; the bounds cut."""
    weight = "min(1, member_actions / 18) / (3 * action_share)"
    config = world(tmp_path, train={"weight": weight, "weight_bounds": [0.2, 0.7]})
    by_action = {row[1]: row[4] for row in labels(config) if not row[3]}
    assert by_action["ENROLL"] == pytest.approx(0.5 / 1)
    assert by_action["HIDE"] == pytest.approx(0.7)  # 0.5 / (3 * 2/9) = 0.75
    random = [row[4] for row in labels(config) if row[3] and row[1].endswith("ENROLL")]
    assert random == pytest.approx([0.5 * SETTINGS.random_negative_weight] * len(random))
    assert random


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"weight": "members"},
            r"(?s)train.*unknown name 'members'; expected one of: member_actions",
        ),
        ({"weight": "member_actions > 3"}, "expected a number, got a condition"),
        ({"weight": "1", "weight_bounds": [0, 1]}, "expected bounds above 0"),
        ({"weight": "1", "weight_bounds": [2, 1]}, "the lower one first"),
    ],
)
def test_a_weight_that_is_none(tmp_path: Path, train: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(tmp_path, train=train)


def test_an_example_holds_what_its_actions_carry(tmp_path: Path) -> None:
    """In the order of the actions, missing as NaN; of random negatives in inputs nothing."""
    config = configure(
        tmp_path,
        actions={"APPLY": "positive"},
        events={"attributes": {"dwell": {"type": "number"}}},
    )
    events = [Event(1, item, "APPLY", AS_OF - (5 - item) * DAY) for item in (1, 2, 3, 4)]
    write_activity(config, events)
    for file in config.layout.activity.rglob("*.parquet"):
        table = pq.read_table(file)
        items = table["item_id"].to_pylist()
        dwell = pa.array([None if item == 2 else float(item) for item in items], pa.float64())
        pq.write_table(table.append_column("dwell", dwell), file)
    settings = ExampleSettings(
        inputs="before_label", min_actions=1, random_negatives=0, random_negative_shift=timedelta(0)
    )
    with connect(config) as con:
        file = build_training_examples(config, con, settings, AS_OF).file
    rows = duckdb.sql(f"select item_ids, dwell::varchar from '{file}' order by as_of").fetchall()
    assert rows == [
        ([1], "[1.0]"),
        ([1, 2], "[1.0, nan]"),
        ([1, 2, 3], "[1.0, nan, 3.0]"),
    ]
