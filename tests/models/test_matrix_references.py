"""EASE against a regression per item, ALS against its equations."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from models.evaluation.matrix_references import Als, Ease, least_squares


def matrix_of(seed: int, members: int = 12, items: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((members, items)) < 0.4).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 3.0]))
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(seed: int, l2: float) -> None:
    dense = matrix_of(seed)
    ease = Ease.fit(csr_array(dense), l2)
    there = np.flatnonzero(dense.sum(axis=0))
    assert ease.items.tolist() == there.tolist()
    own = dense[:, there].astype(np.float64)
    for index in range(len(there)):
        others = np.arange(len(there)) != index
        x = own[:, others]
        expected = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ own[:, index])
        np.testing.assert_allclose(ease.weights[others, index], expected, atol=1e-4)
        assert ease.weights[index, index] == 0
    got = ease.scores(csr_array(dense))
    np.testing.assert_allclose(got[:, there], own @ ease.weights, atol=1e-5)
    assert not got[:, ~ease.known].any()


def test_ease_keeps_the_items_with_most_actions() -> None:
    dense = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0]], np.float32)
    ease = Ease.fit(csr_array(dense), 1.0, most=2)
    assert ease.items.tolist() == [0, 3]
    assert ease.known.tolist() == [True, False, False, True]
    assert ease.scores(csr_array(dense)).shape == (3, 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 5.0]), st.sampled_from([0.1, 2.0]))
def test_least_squares_solve_the_weighted_equations(seed: int, alpha: float, l2: float) -> None:
    """Against a regression with an observation per column, entry or not."""
    rng = np.random.default_rng(seed)
    dense, others = matrix_of(seed), rng.normal(size=(6, 3)).astype(np.float32)
    got = least_squares(csr_array(dense), others, alpha, l2)
    for row, entries in zip(got, dense, strict=True):
        if not entries.any():
            assert not row.any()
            continue
        confidence = np.where(entries > 0, 1 + alpha, 1.0)
        left = others.T @ (confidence[:, None] * others) + l2 * np.eye(3)
        np.testing.assert_allclose(
            row, np.linalg.solve(left, others.T @ (confidence * entries)), rtol=1e-3, atol=1e-4
        )


def loss(als: Als, dense: np.ndarray) -> float:
    """What alternating least squares minimize, with the members' best factors."""
    members = least_squares(csr_array(dense), als.factors, als.alpha, als.l2)
    confidence = np.where(dense > 0, 1 + als.alpha, 1.0)
    norms = (members**2).sum() + (als.factors**2).sum()
    return float((confidence * (dense - members @ als.factors.T) ** 2).sum() + als.l2 * norms)


def test_each_round_of_als_lowers_its_loss() -> None:
    dense = matrix_of(3, members=30, items=8)
    dense[:, 7] = 0
    rounds = [
        Als.fit(csr_array(dense), alpha=5.0, l2=0.1, factors=2, iterations=n) for n in range(1, 9)
    ]
    losses = [loss(als, dense) for als in rounds]
    assert all(after <= before + 1e-3 for before, after in pairwise(losses))
    als = rounds[-1]
    assert als.known.tolist() == [True] * 7 + [False]
    scores = als.scores(csr_array(dense))
    # What members acted on scores higher than what they did not.
    assert scores[:, :7][dense[:, :7] > 0].mean() > scores[:, :7][dense[:, :7] == 0].mean() + 0.2
    assert not als.scores(csr_array((1, 8), dtype=np.float32)).any()
    again, other = (
        Als.fit(csr_array(dense), alpha=5.0, l2=0.1, factors=2, iterations=8, seed=seed)
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(als.factors, again.factors)
    assert (als.factors != other.factors).any()
