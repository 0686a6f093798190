"""Negatives that are drawn for labels, ranks in sources, targets of heads."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rankers.spec import Ranker
from pipelines.ranking.examples import Pairs, draw, ranks_of, targets_of
from pipelines.ranking.labels import Labels, items_of_days
from transformations.timestamps import DAY_US


class Line(Ranker):
    """A ranker that is never fitted."""

    kind = "none"
    code = ""


def labels_of(rows: list[tuple[int, str, int, int]]) -> Labels:
    items, actions, signs, days = zip(*rows, strict=True)
    return Labels(
        np.arange(len(rows)),
        np.array(items, np.int64),
        np.array(actions, object),
        np.array(signs, np.int32),
        np.array(days, np.int64) * DAY_US + 5,
    )


ITEMS = st.integers(0, 9)
LISTS = st.lists(ITEMS, max_size=6, unique=True).map(lambda items: np.array(items, np.int64))


@st.composite
def worlds(draw: Any) -> tuple[Labels, list[Any], dict[str, list[Any]], list[Any]]:
    n = draw(st.integers(1, 5))
    rows = [(draw(ITEMS), "BUY", draw(st.sampled_from([1, -1])), 0) for _ in range(n)]
    seen = [draw(LISTS) for _ in range(n)]
    candidates = {name: [draw(LISTS) for _ in range(n)] for name in ("popular", "near")}
    return labels_of(rows), seen, candidates, [draw(LISTS) for _ in range(n)]


@given(worlds(), st.integers(0, 5), st.integers(1, 5), st.integers(0, 3))
def test_negatives_are_what_could_have_been_shown(world, hard, easy, seed):
    labels, seen, candidates, of_days = world
    line = Line(name="none", version=1, hard=hard, easy=easy)
    pairs = draw(line, labels, seen, candidates, of_days, seed)
    for row in range(len(labels)):
        own = pairs.labels == row
        assert pairs.items[own & pairs.own].tolist() == [labels.items[row]]
        drawn = pairs.items[own & ~pairs.own].tolist()
        assert len(drawn) == len(set(drawn))
        if labels.signs[row] < 0:
            assert not drawn  # an answer of its own
            continue
        assert not set(drawn) & {labels.items[row], *seen[row].tolist()}
        brought = {item for lists in candidates.values() for item in lists[row].tolist()}
        if labels.items[row] not in brought:  # then nothing but what anybody acted on
            assert set(drawn) <= set(of_days[row].tolist())
        assert set(drawn) <= brought | set(of_days[row].tolist())
        assert len(drawn) <= hard + easy
    assert (np.diff(pairs.labels) >= 0).all()


@given(worlds())
def test_ranks_are_places_in_the_lists(world):
    labels, _, candidates, _ = world
    where = np.repeat(np.arange(len(labels)), 10)
    items = np.tile(np.arange(10), len(labels))
    found = ranks_of(candidates, where, items)
    for name, lists in candidates.items():
        expected = [
            lists[row].tolist().index(item) if item in lists[row].tolist() else np.nan
            for row, item in zip(where.tolist(), items.tolist(), strict=True)
        ]
        assert found[name] == pytest.approx(np.array(expected), nan_ok=True)


def test_ranks_of_texts():
    lists = [np.array(["b", "a"], object), np.array([], object)]
    found = ranks_of({"s": lists}, np.array([0, 0, 1]), np.array(["a", "c", "a"], object))
    assert found["s"].tolist()[0] == 1.0
    assert np.isnan(found["s"][1:]).all()


def test_a_head_counts_what_it_stands_for():
    labels = labels_of([(1, "RATE", 1, 0), (2, "RATE", -1, 0), (3, "HIDE", -1, 0)])
    pairs = Pairs(
        np.array([0, 0, 1, 2]), np.array([1, 7, 2, 3]), np.array([True, False, True, True])
    )
    found = targets_of({"RATE": 1.0, "HIDE": -1.0}, labels, pairs)
    assert found.tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]


def test_items_of_each_day():
    labels = labels_of([(1, "BUY", 1, 0), (2, "BUY", 1, 0), (1, "BUY", 1, 1)])
    found = {day: items.tolist() for day, items in items_of_days(labels).items()}
    assert found == {0: [1, 2], 1: [1]}
