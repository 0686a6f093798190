"""How a ranker is measured: candidates, seen items, random items; against plain loops."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.bootstrap import Resamples
from models.evaluation.compare import METRICS, Carrier, carriers, estimates
from models.evaluation.item_days import EVERY, ItemDays
from models.evaluation.scoring import LabelScores, measure
from models.evaluation.task import (
    RANDOM_ITEMS,
    RankerLabels,
    Task,
    random_items,
    seen_items,
    which,
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
    pairs = [(row, item) for row, items in enumerate(seen) for item in items]
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    return Task(labels, ITEM_DAYS, which(columns[0], columns[1], (len(rows), 4)), random)


def test_ranks_are_among_known_items_that_the_member_has_not_seen() -> None:
    scores = np.array([0.1, 0.9, 0.5, 1.0], np.float32)
    task = task_of(
        [(0, 0, TODAY, True), (1, 0, TODAY, True), (2, 2, TODAY, True), (3, 1, TODAY, False)],
        seen=[[], [1], [], []],
    )
    got = measure(lambda rows, _: np.tile(scores, (len(rows), 1)), task)
    # Item 3 scores highest but has no vector yet; member 1 has seen item 1.
    np.testing.assert_array_equal(got.rank, [3, 2, 2, np.nan])
    # Item 0 is the only active one; labels on other items are not ranked among active items.
    np.testing.assert_array_equal(got.rank_recent, [1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(got.random, [0.5, 0.5, 1.0, np.nan])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_batches_change_nothing(data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows = [(n, int(rng.integers(0, 3)), TODAY + n % 2, True) for n in range(7)]
    scores = rng.integers(0, 3, (7, 4)).astype(np.float32)
    task = task_of(rows, [[int(item)] for item in rng.integers(0, 4, 7)])
    whole, cut = (
        measure(lambda some, _: scores[some], task, batch=size)
        for size in (100, data.draw(st.integers(1, 4)))
    )
    np.testing.assert_array_equal(whole.rank, cut.rank)
    np.testing.assert_array_equal(whole.rank_recent, cut.rank_recent)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.booleans()), min_size=1),
    st.integers(0, 12),
    st.integers(1, 4),
)
def test_item_days_are_those_of_counting(
    events: list[tuple[int, int, bool]], day: int, days: int
) -> None:
    """Half days, so that midnights are hit; checkpoints of the counts at every third event."""
    items, halves, positive = (np.array(column) for column in zip(*events, strict=True))
    counted = ItemDays.count(items, halves * DAY_US // 2, positive, np.zeros(4, np.int64))
    for got, since in ((counted.window(day, days), day - days), (counted.so_far(day), -1)):
        expected = np.zeros((4, 2), int)
        for item, half, is_positive in events:
            if since * 2 <= half < 2 * day:
                expected[item, int(not is_positive)] += 1
        assert got.tolist() == expected.tolist()


def test_counts_of_all_time_are_kept_now_and_then() -> None:
    rng, many = np.random.default_rng(0), 2 * EVERY + 17
    items, times = rng.integers(0, 3, many), rng.integers(0, 40 * DAY_US, many)
    counted = ItemDays.count(items, times, np.ones(many, bool), np.zeros(3, np.int64))
    for day in (0, 3, 20, 39, 50):
        expected = np.bincount(items[times < day * DAY_US], minlength=3)
        assert counted.so_far(day)[:, 0].tolist() == expected.tolist()


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

    measure(score, task_of([(0, 0, 103, True), (0, 0, 101, True), (0, 0, 103, True)], [[]] * 3))
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


def test_seen_items_are_those_before_the_label() -> None:
    rng = np.random.default_rng(2)
    members, items = rng.integers(0, 8, 300), rng.integers(0, 40, 300)
    times = np.sort(rng.integers(at(90), at(104), 300))
    chosen = rng.integers(0, 300, 40)  # labels at the times of events
    labels = RankerLabels(
        members[chosen], items[chosen], times[chosen] // DAY_US, times[chosen], chosen >= 0
    )
    got = seen_items(labels, members, items, times, 40).toarray()
    for row, member, time in zip(got, labels.members, labels.times, strict=True):
        expected = set(items[(members == member) & (times < time)].tolist())
        assert set(np.flatnonzero(row).tolist()) == expected


def test_items_that_the_member_saw_are_drawn_again() -> None:
    labels = labels_of([(0, 5, TODAY, True), (1, 5, TODAY, True)])
    pool, times = np.arange(6), np.full(6, at(100.3))
    seen = which(np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3]), (2, 6))
    drawn = random_items(labels, pool, times, seen=seen)
    assert set(drawn[0].tolist()) == {4}
    assert len(set(drawn[1].tolist())) > 1


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


def test_the_items_that_carry_a_difference() -> None:
    """Item 7 gains a hit on both labels, item 8 loses half of one, item 9 changes nothing."""
    labels = labels_of(
        [(0, 7, TODAY, True), (1, 7, TODAY, True), (0, 8, TODAY, True), (1, 9, TODAY, True)]
    )
    ranks = {"ours": [[1, 1, 20, 3], [1, 1, 1, 3]], "theirs": [[20, 20, 1, 3]]}
    ours, theirs = (
        [scores_of([float(r) for r in seed], [float("nan")] * 4, None) for seed in ranks[who]]
        for who in ("ours", "theirs")
    )
    assert carriers(ours, theirs, labels, "hr10", most=3) == [
        Carrier(item=7, labels=2, share=2 / 4),
        Carrier(item=8, labels=1, share=-1 / 8),
        Carrier(item=9, labels=1, share=0.0),
    ]
    with pytest.raises(ValueError, match="a mean over labels, got auc_dismiss"):
        carriers(ours, theirs, labels, "auc_dismiss")
