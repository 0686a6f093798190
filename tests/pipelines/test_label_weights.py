"""How much each label of a ranker counts, by `train.weight`."""

from collections import Counter
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ranking.labels import Labels, label_weights
from tests.worlds.events import AS_OF, DAY, Event, configure, distinct, write_activity
from transformations.config import Config
from transformations.duck import connect
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples

ACTIONS = {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative", "OPEN": "neutral"}
WEIGHT = "min(1, member_actions / 4) / (3 * action_share)"


def config_of(folder: Path, weight: str | None = WEIGHT, **more: Any) -> Config:
    train = {"weight": weight, "weight_bounds": [0.01, 100]}
    return configure(folder, actions=ACTIONS, train=train, **more)


def weights(config: Config, *labels: tuple[Any, str], until: datetime = AS_OF) -> list[float]:
    members, actions = zip(*labels, strict=True)
    count = len(labels)
    asked = Labels(
        np.array(members),
        np.zeros(count, np.int64),
        np.array(actions, object),
        np.ones(count, np.int32),
        np.zeros(count, np.int64),
    )
    with connect(config) as con:
        return label_weights(config, con, asked, until).tolist()


def test_by_hand(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    events = [
        Event(1, 10, "APPLY", AS_OF - 3 * DAY),
        Event(1, 11, "OPEN", AS_OF - 2 * DAY),
        *(Event(2, item, "OPEN", AS_OF - DAY) for item in (10, 11, 12, 13, 14)),
        Event(2, 15, "DISMISS", AS_OF - DAY),
        Event(3, 10, "APPLY", AS_OF),  # not yet
        Event(3, 10, "APPLY", AS_OF - DAY, AS_OF),  # not known yet
    ]
    write_activity(config, events)
    found = weights(config, (2, "DISMISS"), (1, "APPLY"), (1, "OPEN"), (3, "APPLY"), (1, ""))
    # One of eight is an APPLY, six an OPEN. Nothing is known of member 3, nor of no action.
    assert found == pytest.approx([8 / 3, 0.5 * 8 / 3, 0.5 / (3 * 6 / 8), 1.0, 1.0])
    assert weights(config_of(tmp_path, weight=None), (1, "APPLY")) == [1.0]
    members = config_of(tmp_path, weight="min(1, member_actions / 4)")
    assert weights(members, (1, ""), (2, "")) == [0.5, 1.0]


def test_members_that_are_texts(tmp_path: Path) -> None:
    config = config_of(tmp_path, id_type="string")
    write_activity(config, [Event("a", "x", "APPLY", AS_OF - DAY)])
    assert weights(config, ("a", "APPLY"), ("b", "APPLY")) == pytest.approx([0.25 / 3, 1.0])


TIMES = st.integers(-2, 1).map(lambda days: AS_OF + days * DAY)
EVENTS = st.builds(
    Event,
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([*ACTIONS]),
    TIMES,
    st.one_of(st.none(), TIMES),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=12))
def test_weights_are_what_counting_by_hand_gives(events: list[Event]) -> None:
    events = distinct(events)
    known = [
        one for one in events
        if one.event_timestamp < AS_OF and (one.ingested_at is None or one.ingested_at < AS_OF)
    ]  # fmt: skip
    of_members = Counter(one.member_id for one in known)
    of_actions = Counter(one.action for one in known)
    labels = [(member, action) for member in (1, 2, 3) for action in ACTIONS]
    expected = [
        min(1, of_members[member] / 4) / (3 * of_actions[action] / len(known))
        if of_members[member] and of_actions[action]
        else 1.0
        for member, action in labels
    ]
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder))
        write_activity(config, events)
        assert weights(config, *labels) == pytest.approx(expected)


def test_it_is_the_weight_of_an_aggregators_example(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    rng, actions = np.random.default_rng(0), [*ACTIONS]
    chosen = (4 * rng.random((40, 2)) ** 2).astype(int).tolist()
    events = [
        Event(member, 10 + place % 7, actions[action], AS_OF - (40 - place) * DAY / 8)
        for place, (member, action) in enumerate(chosen)
    ]
    write_activity(config, events)
    examples = ExampleSettings(inputs="before_label", min_actions=1)
    with connect(config) as con:
        report = build_training_examples(config, con, examples, AS_OF)
    rows = duckdb.sql(
        f"select member_id, label_action, weight from '{report.file}' where not is_random"
    ).fetchall()
    assert len({weight for *_, weight in rows}) > 2
    found = weights(config, *((member, action) for member, action, _ in rows))
    assert found == pytest.approx([weight for *_, weight in rows])
