"""What came of what was shown: against small tables, and against a search by hand."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ranking.examples import targets_of
from pipelines.ranking.impressions import attribute_impressions
from pipelines.ranking.shown import Shown, shown_labels
from serving.recommend.impressions import schema
from tests.worlds.events import AS_OF, Event, configure, distinct, table, write_activity
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import period_file

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
ACTIONS = {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative", "OPEN": "neutral"}
SIGNS = {"APPLY": 1, "SAVE": 1, "DISMISS": -1, "OPEN": 0}
SINCE, LONG_AGO = AS_OF - timedelta(days=5), AS_OF - timedelta(days=100)


class Row(NamedTuple):
    """One item that was shown."""

    request_id: str
    member_id: Any
    item_id: Any
    shown_at: datetime
    position: int = 0
    propensity: float | None = 1.0
    context: Sequence[tuple[str, str]] = ()


def config_of(folder: Path, attribution: str = "1d", **more: Any) -> Config:
    recommend = {
        "attribution": attribution,
        "context": {"surface": "category", "shift": "number"},
    }
    return configure(folder, **({"actions": ACTIONS, "recommend": recommend} | more))


def write_shown(config: Config, rows: Iterable[Row], name: str = "part") -> None:
    columns, listed = schema(config), [row._asdict() for row in rows]
    file = config.layout.impressions / "period=2026-03-01" / f"{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array([row.get(f.name) for row in listed], f.type) for f in columns]
    pq.write_table(pa.table(arrays, schema=columns), file)


def write_items(config: Config, available_at: dict[Any, datetime]) -> None:
    config.layout.staged_items.parent.mkdir(parents=True, exist_ok=True)
    times = pa.array(available_at.values(), pa.timestamp("us", tz="UTC"))
    columns = {"item_id": pa.array(available_at), "available_at": times}
    pq.write_table(pa.table(columns), config.layout.staged_items)


def attributed(config: Config, until: datetime = AS_OF) -> dict[tuple[str, int], Any]:
    """Return action, acted_at, sign and is_over of each request and position."""
    with connect(config) as con:
        if not attribute_impressions(config, con, SINCE, until):
            return {}
        rows = con.execute(
            "select request_id, position, action, acted_at, sign, is_over "
            "from attributed_impressions"
        ).fetchall()
    found = {(request, position): tuple(rest) for request, position, *rest in rows}
    assert len(found) == len(rows)
    return found


def test_the_first_action_with_a_sign_counts(tmp_path: Path) -> None:
    config, shown = config_of(tmp_path), AS_OF - 2 * 24 * HOUR
    write_shown(config, [Row("a", 1, item, shown, place) for place, item in enumerate((7, 8, 9))])
    write_activity(
        config,
        [
            Event(1, 7, "OPEN", shown + HOUR),  # no sign
            Event(1, 7, "SAVE", shown + 2 * HOUR),
            Event(1, 7, "APPLY", shown + 3 * HOUR),
            Event(1, 8, "APPLY", shown + 24 * HOUR),  # the window has just passed
            Event(1, 9, "DISMISS", shown),  # it begins with the moment itself
            Event(2, 8, "APPLY", shown + HOUR),  # somebody else
        ],
    )
    assert attributed(config) == {
        ("a", 0): ("SAVE", shown + 2 * HOUR, 1, True),
        ("a", 1): (None, None, 0, True),
        ("a", 2): ("DISMISS", shown, -1, True),
    }


def test_nothing_is_a_negative_before_its_window_has_passed(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    shown = AS_OF - 24 * HOUR
    write_shown(config, [Row("over", 1, 7, shown), Row("open", 1, 8, shown + SECOND)])
    write_shown(config, [Row("liked", 2, 8, shown + SECOND)], "of another process")
    write_activity(
        config, [Event(2, 8, "APPLY", AS_OF - SECOND), Event(1, 7, "APPLY", AS_OF + HOUR)]
    )
    assert attributed(config) == {
        ("over", 0): (None, None, 0, True),
        ("open", 0): (None, None, None, False),
        ("liked", 0): ("APPLY", AS_OF - SECOND, 1, False),
    }


def test_an_action_belongs_to_the_newest_impression_before_it(tmp_path: Path) -> None:
    config, shown = config_of(tmp_path), AS_OF - 50 * HOUR
    write_shown(
        config,
        [
            Row(name, 1, 7, shown + hours * HOUR)
            for name, hours in zip("abc", (0, 2, 4), strict=True)
        ],
    )
    write_activity(config, [Event(1, 7, "APPLY", shown + 3 * HOUR)])
    assert {name: row[2] for (name, _), row in attributed(config).items()} == {
        "a": 0, "b": 1, "c": 0,
    }  # fmt: skip


def test_what_is_ingested_later_was_not_known(tmp_path: Path) -> None:
    config, shown = config_of(tmp_path), AS_OF - 50 * HOUR
    write_shown(config, [Row("a", 1, 7, shown), Row("a", 1, 8, shown, 1)])
    write_activity(
        config,
        [
            Event(1, 7, "APPLY", shown + HOUR, AS_OF),
            Event(1, 8, "APPLY", shown + HOUR, AS_OF - SECOND),
        ],
    )
    assert [row[2] for row in attributed(config).values()] == [0, 1]


def test_a_sign_may_hang_on_what_the_action_carries(tmp_path: Path) -> None:
    """An early exit dislikes, a long look likes; the time that it took stands beside it."""
    look = {"sign": "neutral", "positive_if": "dwell >= 30", "negative_if": "dwell < 5"}
    events = {"attributes": {"dwell": {"type": "number", "unit": "s"}}}
    config = config_of(tmp_path, actions={"LOOK": look}, events=events)
    shown = AS_OF - 50 * HOUR
    write_shown(config, [Row("a", 1, item, shown, place) for place, item in enumerate((7, 8, 9))])
    looks = [Event(1, item, "LOOK", shown + HOUR) for item in (7, 8, 9)]
    file = period_file(config.layout.activity, shown.date())
    file.parent.mkdir(parents=True)
    dwell = pa.array([31.0, 4.0, 12.0])
    pq.write_table(table(looks, "int64").append_column("dwell", dwell), file)
    with connect(config) as con:
        attribute_impressions(config, con, SINCE, AS_OF)
        rows = con.execute(
            "select sign, dwell from attributed_impressions order by position"
        ).fetchall()
    assert rows == [(1, 31.0), (-1, 4.0), (0, None)]


def test_nothing_shown_and_other_ids(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert attributed(config) == {}
    write_shown(config, [Row("a", 1, 7, SINCE - SECOND), Row("b", 1, 7, AS_OF)])
    assert attributed(config) == {}
    texts = config_of(tmp_path, id_type="string")
    write_shown(config, [Row("a", 1, 7, SINCE)])
    with pytest.raises(InputError, match="move that folder away"):
        attributed(texts)


WINDOW = 4
TICKS = st.integers(0, 9)
SHOWN = st.tuples(st.integers(1, 2), st.integers(1, 2), TICKS)
ACTED = st.tuples(
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from([*SIGNS]),
    TICKS,
    st.one_of(st.none(), TICKS),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(SHOWN, min_size=1, max_size=7),
    st.lists(ACTED, max_size=7),
    st.integers(1, 10),
)
def test_attribution_is_that_of_a_search_by_hand(
    shown: list[tuple[int, int, int]], acted: list[Any], until: int
) -> None:
    rows = [
        Row(f"r{number}", member, item, SINCE + tick * SECOND)
        for number, (member, item, tick) in enumerate(shown)
    ]
    events = [
        Event(member, item, action, SINCE + tick * SECOND,
              None if late is None else SINCE + late * SECOND)
        for member, item, action, tick, late in acted
    ]  # fmt: skip
    end = SINCE + until * SECOND
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder), f"{WINDOW}s")
        write_shown(config, rows)
        write_activity(config, events)
        found = attributed(config, end)
    known = [
        event
        for event in distinct(events)
        if SIGNS[event.action]
        and event.event_timestamp < end
        and (event.ingested_at is None or event.ingested_at < end)
    ]
    expected = {}
    for row in rows:
        if row.shown_at >= end:
            continue
        mine = []
        for event in known:
            before = [
                other
                for other in rows
                if (other.member_id, other.item_id) == (event.member_id, event.item_id)
                and other.shown_at <= event.event_timestamp
            ]
            newest = max(before, key=lambda r: (r.shown_at, r.request_id), default=None)
            if newest is row and event.event_timestamp < row.shown_at + WINDOW * SECOND:
                mine.append(event)
        first = min(mine, key=lambda event: (event.event_timestamp, event.action), default=None)
        is_over = row.shown_at + WINDOW * SECOND <= end
        expected[(row.request_id, 0)] = (
            (first.action, first.event_timestamp, SIGNS[first.action], is_over)
            if first is not None
            else (None, None, 0 if is_over else None, is_over)
        )
    assert found == expected


def labels_of(config: Config, until: datetime = AS_OF, most: int = 1_000_000) -> Shown | None:
    with connect(config) as con:
        return shown_labels(config, con, SINCE, until, most)


def shown_world(folder: Path) -> Config:
    config, early, late = config_of(folder), AS_OF - 60 * HOUR, AS_OF - 50 * HOUR
    write_items(config, {7: LONG_AGO, 8: LONG_AGO, 9: early + HOUR})
    write_shown(
        config,
        [
            Row("b", 2, 8, late, 0, 0.5, [("surface", "home"), ("shift", "2.5")]),
            Row("b", 2, 7, late, 1, 0.01, [("surface", "home"), ("shift", "2.5")]),
            Row("b", 2, 9, late, 2, None, [("surface", "home"), ("shift", "2.5")]),
            Row("a", 1, 7, early, 0),
            Row("a", 1, 9, early, 1),  # nobody knew it then
            Row("a", 1, 8, early, 2),
            Row("not over", 1, 7, AS_OF - HOUR),
        ],
    )
    write_activity(
        config,
        [
            Event(2, 9, "SAVE", late + HOUR),
            Event(2, 7, "DISMISS", late + HOUR),
            Event(1, 8, "DISMISS", early + HOUR),
            Event(1, 7, "APPLY", AS_OF - SECOND),
        ],
    )
    return config


def test_an_answer_is_a_label_and_its_items_are_pairs(tmp_path: Path) -> None:
    found = labels_of(shown_world(tmp_path))
    assert found is not None
    labels, pairs = found.labels, found.pairs
    assert labels.members.tolist() == [1, 2]
    assert labels.items.tolist() == [8, 9]
    assert labels.actions.tolist() == ["DISMISS", "SAVE"]
    assert labels.signs.tolist() == [-1, 1]
    assert [*labels.timestamps] == [AS_OF - 60 * HOUR, AS_OF - 50 * HOUR]
    assert pairs.labels.tolist() == [0, 0, 1, 1, 1]
    assert pairs.items.tolist() == [8, 7, 9, 7, 8]
    assert pairs.own.tolist() == [True, False, True, False, False]
    assert found.positions.tolist() == [2, 0, 2, 1, 0]
    assert found.weights.tolist() == [1, 1, 1, 10, 2]
    assert found.weighted == "1 / propensity, at most 10"
    assert found.take(slice(0, 1)).weighted == "none, since every place was certain"
    context = {key: values.tolist() for key, values in labels.context.items()}
    assert context == {"surface": [None, "home"], "shift": [None, 2.5]}
    targets = targets_of({"APPLY": 1.0, "SAVE": 1.0, "DISMISS": -1.0}, labels, pairs)
    assert targets.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_parts_of_labels_have_their_pairs(tmp_path: Path) -> None:
    found = labels_of(shown_world(tmp_path))
    assert found is not None
    first, second = found.take(slice(0, 1)), found.take(slice(1, 2))
    assert (first.pairs.items.tolist(), second.pairs.items.tolist()) == ([8, 7], [9, 7, 8])
    assert second.pairs.labels.tolist() == [0, 0, 0]
    assert second.labels.members.tolist() == [2]
    assert second.positions.tolist() == [2, 1, 0]
    assert second.labels.context["shift"].tolist() == [2.5]
    assert np.concatenate([first.weights, second.weights]).tolist() == found.weights.tolist()
    assert not len(found.take(slice(1, 1)).pairs.items)


def test_where_nothing_was_shown_there_is_no_label(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(InputError, match="activity run"):
        labels_of(config)
    write_items(config, {7: LONG_AGO})
    assert labels_of(config) is None
    write_shown(config, [Row("not over", 1, 7, AS_OF - HOUR)])
    assert labels_of(config) is None


def test_of_many_answers_those_of_a_sample_of_members_are_taken(tmp_path: Path) -> None:
    config, early = config_of(tmp_path), AS_OF - 50 * HOUR
    write_items(config, {7: LONG_AGO})
    rows = [
        Row(f"{member}/{number}", member, 7, early + number * SECOND)
        for member in range(500)
        for number in range(2)
    ]
    write_shown(config, rows)
    found = labels_of(config, most=500)
    assert found is not None
    assert 350 < len(found.labels) < 650
    _, counts = np.unique(found.labels.members, return_counts=True)
    assert set(counts) == {2}
