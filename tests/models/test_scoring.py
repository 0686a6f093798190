"""How a ranker is measured: candidates, seen items, random items; against plain loops."""

from datetime import UTC, datetime

import numpy as np
import pytest

from models.evaluation.bootstrap import Resamples
from models.evaluation.compare import METRICS, estimates
from models.evaluation.item_days import ItemDays
from models.evaluation.ranker import RankerLabels
from models.evaluation.scoring import (
    RANDOM_ITEMS,
    LabelScores,
    Task,
    measure,
    random_items,
    seen_items,
)
from transformations.timestamps import DAY_US

HOUR = DAY_US // 24
TODAY = 100  # days since 1970; the labels' features are of its midnight


def labels_of(rows: list[tuple[int, int, int, bool]], hours: int = 7) -> RankerLabels:
    """Labels from rows of (member, item, day, positive), some hours after the day's midnight."""
    members, items, days, positive = (np.array(column) for column in zip(*rows, strict=True))
    times = days * DAY_US + hours * HOUR
    return RankerLabels(members, items, days, times, positive.astype(bool))


def at(day: float) -> int:
    return int(day * DAY_US)


# Item 0 is popular this week, 1 had an action long ago, 2 none; 3 gets its vector tomorrow.
ITEM_DAYS = ItemDays.count(
    items=np.array([0, 0, 0, 1]),
    times=np.array([at(98.5), at(99.2), at(99.9), at(80)]),
    positive=np.array([True, True, False, True]),
    available_at=np.array([at(70), at(70), at(95), at(101)]),
)


def test_counts_are_of_actions_before_the_midnight() -> None:
    assert ITEM_DAYS.window(100, 1).tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert ITEM_DAYS.window(99, 1).tolist() == [[1, 0], [0, 0], [0, 0], [0, 0]]
    assert ITEM_DAYS.window(100, 28).tolist() == [[2, 1], [1, 0], [0, 0], [0, 0]]
    assert ITEM_DAYS.known(100).tolist() == [True, True, True, False]
    assert ITEM_DAYS.active(100).tolist() == [True, False, False, False]
    assert ITEM_DAYS.active(108).tolist() == [False] * 4
    np.testing.assert_allclose(ITEM_DAYS.popular_share(100), [1.0, 0.0, 0.0, 0.0])


def test_days_beyond_the_counts_are_their_ends() -> None:
    assert not ITEM_DAYS.window(60, 7).any()
    assert ITEM_DAYS.window(1000, 1000).sum() == 4


def test_features_are_finite_and_mark_new_items() -> None:
    features = ITEM_DAYS.features(95)
    assert np.isfinite(features).all()
    assert features[:, -1].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert ITEM_DAYS.features(100)[0, 0] == pytest.approx(np.log(2))


def task_of(rows: list[tuple[int, int, int, bool]], seen: list[list[int]]) -> Task:
    labels = labels_of(rows)
    random = np.zeros((len(rows), RANDOM_ITEMS), np.int64)
    return Task(labels, ITEM_DAYS, np.array(seen, np.int32), random)


def test_ranks_are_among_known_items_that_the_member_has_not_seen() -> None:
    scores = np.array([0.1, 0.9, 0.5, 1.0], np.float32)
    task = task_of(
        [(0, 0, TODAY, True), (1, 0, TODAY, True), (2, 2, TODAY, True), (3, 1, TODAY, False)],
        seen=[[-1], [1], [-1], [-1]],
    )
    got = measure(lambda rows, _: np.tile(scores, (len(rows), 1)), task)
    # Item 3 scores highest but has no vector yet; member 1 has seen item 1.
    np.testing.assert_array_equal(got.rank, [3, 2, 2, np.nan])
    # Item 0 is the only active one; labels on other items are not ranked among active items.
    np.testing.assert_array_equal(got.rank_recent, [1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(got.random, [0.5, 0.5, 1.0, np.nan])


def test_a_target_is_a_candidate_even_if_it_was_seen() -> None:
    got = measure(
        lambda rows, _: np.tile(np.array([0.0, 1.0, 2.0, 3.0], np.float32), (len(rows), 1)),
        task_of([(0, 2, TODAY, True)], seen=[[2]]),
    )
    assert got.rank.tolist() == [1.0]


def test_days_come_in_ascending_order() -> None:
    days: list[int] = []

    def score(rows: np.ndarray, day: int) -> np.ndarray:
        days.append(day)
        return np.zeros((len(rows), 4), np.float32)

    measure(score, task_of([(0, 0, 103, True), (0, 0, 101, True), (0, 0, 103, True)], [[-1]] * 3))
    assert days == [101, 103]


def test_random_items_are_those_of_the_labels_own_day_and_never_its_own() -> None:
    rng = np.random.default_rng(0)
    events = rng.integers(0, 30, 400)
    times = rng.integers(at(98), at(103), 400)
    rows = [(0, int(events[i]), int(rng.integers(98, 103)), True) for i in range(60)]
    labels = labels_of(rows)
    drawn = random_items(labels, events, times, seed=1)
    for own, time, picks in zip(labels.items, labels.times, drawn, strict=True):
        that_day = set(events[times // DAY_US == time // DAY_US].tolist())
        assert set(picks.tolist()) <= that_day - {int(own)}
    assert len(np.unique(drawn)) > 15
    np.testing.assert_array_equal(drawn, random_items(labels, events, times, seed=1))


def test_a_day_without_another_item_is_a_tie() -> None:
    labels = labels_of([(0, 5, TODAY, True)])
    drawn = random_items(labels, np.array([5]), np.array([at(100.3)]))
    assert drawn.tolist() == [[5] * RANDOM_ITEMS]


def test_seen_items_are_those_before_the_midnight() -> None:
    rng = np.random.default_rng(2)
    members, items = rng.integers(0, 8, 300), rng.integers(0, 40, 300)
    times = np.sort(rng.integers(at(90), at(104), 300))
    labels = labels_of(
        [(int(m), 0, int(d), True) for m, d in rng.integers([0, 90], [9, 104], (40, 2))]
    )
    got = seen_items(labels, members, items, times)
    for row, member, day in zip(got, labels.members, labels.days, strict=True):
        expected = sorted(items[(members == member) & (times < day * DAY_US)].tolist())
        assert sorted(row[row >= 0].tolist()) == expected


def scores_of(rank: list[float], recent: list[float], judged: list[float] | None) -> LabelScores:
    random = np.where(np.isnan(rank), np.nan, 0.75)
    return LabelScores(
        np.array(rank),
        np.array(recent),
        random,
        None if judged is None else np.array(judged, np.float32),
    )


def test_metrics_of_a_few_labels_by_hand() -> None:
    labels = labels_of(
        [(0, 0, TODAY, True), (0, 1, TODAY, True), (1, 2, TODAY, True), (1, 3, TODAY, False)]
    )
    nan = float("nan")
    got = scores_of([1, 4, 20, nan], [1, nan, 12, nan], [0.9, 0.2, 0.8, 0.3])
    resamples = Resamples(members=2, seeds=1, resamples=5)
    found = {name: e.value for name, e in estimates([got], labels, resamples).items()}
    assert found == {
        "hr10_recent": pytest.approx(1 / 2),
        "ndcg10_recent": pytest.approx(1 / 2),
        "hr10": pytest.approx(2 / 3),
        "ndcg10": pytest.approx((1 + 1 / np.log2(5)) / 3),
        "mrr": pytest.approx((1 + 1 / 4 + 1 / 20) / 3),
        # Member 0 has two relevant items, at ranks 1 and 4.
        "map": pytest.approx(((1 / 1 + 2 / 4) / 2 + 1 / 20) / 2),
        "auc_random": pytest.approx(0.75),
        "auc_dismiss": pytest.approx(2 / 3),
    }
    assert list(found) == list(METRICS)


def test_a_recommender_has_no_auc_against_dismissed() -> None:
    labels = labels_of([(0, 0, TODAY, True)])
    resamples = Resamples(members=1, seeds=1, resamples=2)
    assert "auc_dismiss" not in estimates([scores_of([1.0], [1.0], None)], labels, resamples)


def test_the_clock_of_days_is_utc() -> None:
    midnight = datetime(1970, 4, 11, tzinfo=UTC)  # of day 100
    assert int(midnight.timestamp()) * 1_000_000 == TODAY * DAY_US
