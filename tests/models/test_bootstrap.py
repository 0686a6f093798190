import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.bootstrap import Interval, Resamples
from models.evaluation.metrics import auc
from transformations.errors import InputError


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_an_estimate_minus_itself_is_zero_throughout():
    rng = np.random.default_rng(0)
    members = rng.integers(0, 20, 100)
    scores, positive = rng.random((3, 100)), rng.random(100) < 0.5
    resamples = Resamples(20, 3, 100)
    for estimate in (resamples.mean(scores, members), resamples.auc(scores, positive, members)):
        assert (estimate - estimate).interval() == Interval(0.0, 0.0, 0.0)
        assert width(estimate.interval()) > 0


@st.composite
def labels(draw):
    """Scores with ties; some members have only positives, or no labels."""
    n = draw(st.integers(1, 12))
    seeds = draw(st.integers(1, 3))
    value = st.sampled_from([0.0, 0.5, 1.0, 2.0])
    scores = [draw(st.lists(value, min_size=n, max_size=n)) for _ in range(seeds)]
    positive = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    members = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    mask = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return np.array(scores), np.array(positive), np.array(members), np.array(mask)


def drawn(resamples: Resamples, number: int) -> tuple[np.ndarray, np.ndarray]:
    """How often one resample drew each member and each seed."""
    return resamples._members[:, number].astype(int), resamples._seeds[number]


@settings(max_examples=60, deadline=None)
@given(labels())
def test_every_resample_is_the_metric_of_repeated_labels(case):
    scores, positive, members, mask = case
    resamples = Resamples(5, len(scores), 10)
    mean = resamples.mean(scores, members, mask)
    of_auc = resamples.auc(scores, positive, members, mask)
    for number in range(10):
        member_draws, seed_shares = drawn(resamples, number)
        again = np.flatnonzero(mask).repeat(member_draws[members[mask]])
        by_seed = [row[again].mean() if len(again) else math.nan for row in scores]
        expected = np.dot(by_seed, seed_shares)
        np.testing.assert_allclose(mean.resampled[number], expected, rtol=1e-9)
        by_seed = [auc(row[again], positive[again]) for row in scores]
        expected = np.dot(by_seed, seed_shares)
        np.testing.assert_allclose(of_auc.resampled[number], expected, rtol=1e-9)
    by_seed = [auc(row[mask], positive[mask]) for row in scores]
    np.testing.assert_allclose(of_auc.value, np.mean(by_seed))
    np.testing.assert_allclose(mean.value, scores[:, mask].mean() if mask.any() else math.nan)


@settings(max_examples=60, deadline=None)
@given(labels(), st.data())
def test_over_items_every_label_counts_with_the_product_of_both_weights(case, data):
    scores, positive, members, mask = case
    items = np.array([data.draw(st.integers(0, 3)) for _ in members])
    resamples = Resamples(5, len(scores), 10, items=4)
    mean = resamples.mean(scores, members, mask, items)
    of_auc = resamples.auc(scores, positive, members, mask, items)
    for number in range(10):
        of_members = resamples._member_weights[:, number].astype(int)
        of_items = resamples._item_weights[:, number].astype(int)
        again = np.flatnonzero(mask).repeat((of_members[members] * of_items[items])[mask])
        shares = resamples._seeds[number]
        by_seed = [row[again].mean() if len(again) else math.nan for row in scores]
        np.testing.assert_allclose(mean.over_items[number], np.dot(by_seed, shares), rtol=1e-5)
        by_seed = [auc(row[again], positive[again]) for row in scores]
        np.testing.assert_allclose(of_auc.over_items[number], np.dot(by_seed, shares), rtol=1e-5)
    plain = Resamples(5, len(scores), 10)
    np.testing.assert_array_equal(mean.resampled, plain.mean(scores, members, mask).resampled)
    assert not len(plain.mean(scores, members, mask).over_items)


@settings(max_examples=60, deadline=None)
@given(labels(), st.data())
def test_a_weight_counts_as_many_equal_labels(case, data):
    scores, _, members, mask = case
    items = np.array([data.draw(st.integers(0, 3)) for _ in members])
    weights = np.array([data.draw(st.integers(0, 4)) for _ in members])
    resamples = Resamples(5, len(scores), 10, items=4)
    found = resamples.mean(scores, members, mask, items, weights.astype(float))
    again = np.repeat(np.arange(len(members)), weights)
    expected = resamples.mean(scores[:, again], members[again], mask[again], items[again])
    for name in ("value", "resampled", "over_items"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5)


def test_an_item_that_moves_all_of_its_labels_widens_the_interval_over_items():
    """A hundred members, two items: whether the first one is hit decides half of all labels."""
    members, items = np.arange(200) % 100, np.arange(200) // 100
    hits = (items == 0).astype(float)
    estimate = Resamples(100, 1, 600, items=2).mean(hits, members, items=items)
    over_members, over_items = estimate.interval(), estimate.interval_over_items()
    assert over_members == Interval(0.5, 0.5, 0.5)
    assert over_items.low == 0.0
    assert over_items.high == 1.0


def test_items_need_resamples_that_know_them():
    with pytest.raises(InputError, match="know the number of items"):
        Resamples(2, 1, 10).mean(np.ones(2), np.array([0, 1]), items=np.array([0, 1]))


def test_every_member_and_seed_is_drawn_as_often_on_average():
    resamples = Resamples(300, 4, 400)
    draws = resamples._members.astype(int)
    assert (draws.sum(axis=0) == 300).all()
    assert abs(draws.mean(axis=1) - 1).max() < 5 / math.sqrt(400)
    np.testing.assert_allclose(resamples._seeds.sum(axis=1), 1)
    assert abs(resamples._seeds.mean(axis=0) - 1 / 4).max() < 0.06


def test_it_is_reproducible_from_its_seed():
    rng = np.random.default_rng(0)
    values, members = rng.random((2, 50)), rng.integers(0, 9, 50)
    first, again, other = (
        Resamples(9, 2, 200, seed=seed).mean(values, members).interval() for seed in (7, 7, 8)
    )
    assert first == again != other


def simulate(rng, seeds, members, member_noise, seed_noise, noise):
    """Values of two labels per member, from a distribution with mean 1."""
    of = np.arange(members).repeat(2)
    return (
        1
        + member_noise * rng.normal(size=members)[of]
        + seed_noise * rng.normal(size=(seeds, 1))
        + noise * rng.normal(size=(seeds, 2 * members))
    ), of


@pytest.mark.parametrize(
    ("seeds", "member_noise", "seed_noise", "noise", "least", "most"),
    [
        (6, 1.0, 0.0, 0.0, 0.92, 0.98),
        (6, 1.0, 0.05, 0.2, 0.92, 0.99),
        # With 6 seeds alone the coverage falls short, as the module says; with 40 it does not.
        (40, 0.0, 1.0, 0.0, 0.91, 0.98),
        (6, 0.0, 1.0, 0.0, 0.82, 0.92),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_claim(
    seeds, member_noise, seed_noise, noise, least, most
):
    rng, covered, worlds = np.random.default_rng(1), 0, 400
    resamples = Resamples(50, seeds, 1000)
    for _ in range(worlds):
        values, members = simulate(rng, seeds, 50, member_noise, seed_noise, noise)
        interval = resamples.mean(values, members).interval()
        covered += interval.low <= 1 <= interval.high
    assert least <= covered / worlds <= most


def test_auc_intervals_cover_the_truth():
    """Positives are one standard deviation higher, so the AUC is P(N(1, 2) > 0)."""
    truth = (1 + math.erf(1 / 2)) / 2
    rng, covered, worlds = np.random.default_rng(2), 0, 200
    resamples = Resamples(150, 1, 500)
    for _ in range(worlds):
        members = rng.integers(0, 150, 400)
        positive = rng.random(400) < 0.5
        scores = rng.normal(size=400) + positive
        interval = resamples.auc(scores, positive, members).interval()
        covered += interval.low <= truth <= interval.high
    assert 0.91 <= covered / worlds <= 0.98


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(3)
    values, members = simulate(rng, 6, 200, 1.0, 0.1, 0.2)
    better = values + 0.05
    resamples = Resamples(200, 6)
    paired = (resamples.mean(better, members) - resamples.mean(values, members)).interval()
    assert paired.low == pytest.approx(0.05)
    assert paired.high == pytest.approx(0.05)
    assert width(resamples.mean(values, members).interval()) > 0.1
    with pytest.raises(InputError, match="would not be paired"):
        resamples.mean(values, members) - Resamples(200, 6, seed=1).mean(values, members)


def test_resampling_seeds_widens_the_interval_when_seeds_differ():
    rng = np.random.default_rng(4)
    values, members = simulate(rng, 6, 200, 0.1, 1.0, 0.0)
    over_both = Resamples(200, 6).mean(values, members).interval()
    over_members = Resamples(200, 1).mean(values.mean(axis=0), members).interval()
    assert width(over_both) > 10 * width(over_members)


def test_scale_and_shift():
    rng = np.random.default_rng(5)
    values, members = rng.random((2, 60)), rng.integers(0, 10, 60)
    resamples = Resamples(10, 2, 300)
    one = resamples.mean(values, members).interval()
    two = resamples.mean(3 * values + 1, members).interval()
    np.testing.assert_allclose(dataclasses.astuple(two), 3 * np.array(dataclasses.astuple(one)) + 1)


def test_values_without_seeds_are_compared_to_values_with_seeds():
    rng = np.random.default_rng(6)
    values, members = rng.random((4, 60)), rng.integers(0, 10, 60)
    resamples = Resamples(10, 4, 300)
    difference = resamples.mean(values, members) - resamples.mean(values[0], members)
    assert difference.interval().low <= difference.value <= difference.interval().high
    with pytest.raises(InputError, match="1 or 4 seeds, got 3"):
        resamples.mean(values[:3], members)


def test_no_labels_give_nan_that_json_can_hold():
    resamples = Resamples(2, 1, 10)
    members, nobody = np.array([0, 1]), np.array([False, False])
    none = resamples.mean(np.array([1.0, 2.0]), members, nobody).interval()
    assert math.isnan(none.estimate)
    assert math.isnan(none.low)
    one_class = resamples.auc(np.array([1.0, 2.0]), np.array([True, True]), members).interval()
    assert math.isnan(one_class.estimate)
    assert "NaN" in json.dumps(dataclasses.asdict(none))
    # A cohort of one member is missing from a third of the resamples; the others are used.
    one = resamples.mean(np.array([1.0, 2.0]), members, np.array([True, False])).interval()
    assert one == Interval(1.0, 1.0, 1.0)


def test_an_empty_world_is_refused():
    with pytest.raises(InputError, match="at least one member"):
        Resamples(0, 6)
