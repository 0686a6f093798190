"""What members' last actions say of pairs, against plain loops."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rankers import item_categories
from models.rankers.history import HOUR_US, Actions, Categories, history, moments, on_clocks
from transformations.duck import sql
from transformations.expressions import Expression, parse
from transformations.rules import Action, Attribute, IdType, Rules

DAY = 24 * HOUR_US
SHOP = Categories.of([1, 2, 3, 4, 5], ["tea", "tea", "cake", None, "cake"])


def stars(condition: str) -> Expression:
    return parse(f"stars {condition}", {"stars": "number"}, "truth")


def rules(ids: IdType = "int64") -> Rules:
    actions = {
        "BUY": Action("positive"),
        "LOOK": Action("neutral"),
        "RATE": Action("neutral", positive_if=stars(">= 4"), negative_if=stars("< 3")),
        "HIDE": Action("negative"),
    }
    return Rules(
        member_id_type=ids,
        item_id_type=ids,
        dim=4,
        window=timedelta(days=28),
        length=8,
        actions=actions,
        attributes={"stars": Attribute("number")},
    )


RULES = rules()


@st.composite
def members(draw: Any) -> list[list[tuple[int, str, int, float]]]:
    action = st.tuples(
        st.integers(1, 6),
        st.sampled_from(["BUY", "LOOK", "RATE", "HIDE"]),
        st.integers(0, 5 * DAY),
        st.sampled_from([1.0, 3.0, 5.0]),
    )
    rows = draw(st.lists(st.lists(action, max_size=6), min_size=1, max_size=4))
    return [sorted(row, key=lambda one: one[2]) for row in rows]


def sign(action: str, stars: float) -> int:
    if action == "RATE":
        return 1 if stars >= 4 else -1 if stars < 3 else 0
    return {"BUY": 1, "LOOK": 0, "HIDE": -1}[action]


def actions_of(rows: list[list[tuple[int, str, int, float]]]) -> Actions:
    return Actions.of(
        RULES,
        [[one[0] for one in row] for row in rows],
        [[one[1] for one in row] for row in rows],
        [np.array([one[2] for one in row], np.int64) for row in rows],
        {"stars": [[one[3] for one in row] for row in rows]},
    )


@given(members(), st.data())
def test_history_is_what_loops_count(rows, data):
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, len(rows) - 1), st.integers(1, 6)), max_size=8)
    )
    where = np.array([row for row, _ in pairs], np.int64)
    items = np.array([item for _, item in pairs], np.int64)
    actions, now = actions_of(rows), np.full(len(rows), 6 * DAY)
    found = history(actions, now, SHOP.codes(actions.items), items, SHOP.codes(items), where)
    category = dict(zip([1, 2, 3, 4, 5], ["tea", "tea", "cake", None, "cake"], strict=True))
    for place, (row, item) in enumerate(pairs):
        mine = category.get(item)
        same = [one for one in rows[row] if mine is not None and category.get(one[0]) == mine]
        expected = {
            "pair.seen": sum(one[0] == item for one in rows[row]),
            "pair.category_actions": np.nan if mine is None else len(same),
            "pair.category_liked": np.nan
            if mine is None
            else sum(sign(one[1], one[3]) > 0 for one in same),
            "pair.category_hours": (6 * DAY - same[-1][2]) / HOUR_US if same else np.nan,
        }
        got = {name: float(values[place]) for name, values in found.items()}
        assert got == pytest.approx(expected, nan_ok=True, rel=1e-6)


@given(members(), st.integers(1, 4))
def test_liked_items_are_the_last_positive_ones_each_once(rows, count):
    actions = actions_of(rows)
    for row, given_row in enumerate(rows):
        newest_first = [one[0] for one in given_row[::-1] if sign(one[1], one[3]) > 0]
        assert actions.liked(row, count) == list(dict.fromkeys(newest_first))[:count]


def test_an_unknown_member_has_done_nothing():
    actions = Actions.of(rules(), [None, [3]], [None, ["BUY"]], [None, np.array([5])], {
        "stars": [None, None]
    })  # fmt: skip
    assert actions.there.tolist() == [[False], [True]]
    assert actions.signs.tolist() == [[0], [1]]
    assert actions.liked(0, 5) == []


def test_nobody_at_all():
    assert Actions.of(rules(), [None], [None], [None], {"stars": [None]}).there.shape == (1, 1)


def test_ids_that_are_texts():
    texts = rules("string")
    actions = Actions.of(texts, [["a", "b"]], [["BUY", "HIDE"]], [np.array([1, 2])], {
        "stars": [None]
    })  # fmt: skip
    categories = Categories.of(["a", "b"], ["x", "x"])
    items = np.array(["b", "c"], object)
    found = history(
        actions,
        np.array([2 * HOUR_US]),
        categories.codes(actions.items),
        items,
        categories.codes(items),
        np.array([0, 0]),
    )
    assert found["pair.seen"].tolist() == [1.0, 0.0]
    assert found["pair.category_actions"].tolist()[0] == 2.0
    assert categories.of_items(items).tolist() == ["x", None]


@given(st.integers(0, 3_000 * DAY))
def test_moments_are_the_clocks(now):
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=now)
    found = {name: float(values[0]) for name, values in moments(np.array([now])).items()}
    hours = at.hour + at.minute / 60 + at.second / 3600 + at.microsecond / 3.6e9
    assert found["member.hour_sin"] == pytest.approx(np.sin(hours / 24 * 2 * np.pi), abs=1e-5)
    assert found["member.weekday_cos"] == pytest.approx(
        np.cos(at.weekday() / 7 * 2 * np.pi), abs=1e-5
    )


NO_ZONES = [None, 0.0, "", " ", "Mars/Olympus", "../etc/passwd", "/etc/passwd", "America", "a\0b"]
ZONES = ["UTC", "Asia/Kathmandu", "America/New_York", "Europe/Berlin", "Pacific/Apia"]


@given(
    # Until 2037: pandas knows no summer time after it.
    st.lists(st.tuples(st.sampled_from([*NO_ZONES, *ZONES]), st.integers(0, 24_800 * DAY))),
)
def test_clocks_are_those_of_the_zones(rows):
    """Also where a zone changes its time within the year, or its day."""
    zones, now = [zone for zone, _ in rows], np.array([at for _, at in rows], np.int64)
    expected = []
    for zone, at in rows:
        shown = pd.Timestamp(at, unit="us", tz="UTC").tz_convert(zone if zone in ZONES else "UTC")
        expected.append(shown.tz_localize(None).value // 1_000)
    assert on_clocks(now, zones).tolist() == expected


def test_threads_may_share_categories_from_the_first_look_up_on():
    """Several threads that made pandas' hash table at once were told that ids are not unique."""
    ids = np.arange(200_000)
    for _ in range(5):
        categories = Categories.of(ids.tolist(), ["tea", "cake"] * 100_000)
        at_once = threading.Barrier(8)

        def look_up(_: int, at_once=at_once, categories=categories) -> list[int]:
            at_once.wait(600)
            return categories.codes(ids[-3:]).tolist()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(look_up, range(8))) == [[0, 1, 0]] * 8


def test_an_item_has_the_category_that_it_became_known_with():
    """A label before an item's second version sees nothing of that."""
    with duckdb.connect() as con:
        con.execute(
            "create table stg_items as select * from (values "
            "(1, null, ['job=care'], timestamptz '2026-01-02'), "
            "(1, null, ['job=tech'], timestamptz '2026-01-01'), "
            "(2, null, []::varchar[], timestamptz '2026-01-01'), "
            "(2, null, ['job=care'], timestamptz '2026-01-03'), "
            "(3, 'search', [], timestamptz '2026-01-01')) "
            "as items(item_id, kind, categories, available_at)"
        )
        found = con.sql(sql("items_known", item_categories.__file__)).fetchall()
    assert [(item, at.day, category) for item, at, category in found] == [
        (1, 1, "job=tech"),
        (2, 1, None),
    ]
