"""How far two fits of an item space are apart."""

import numpy as np
import pyarrow as pa
import pytest

from models.items.distance import distance


def table(ids: list[int], vectors: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    return pa.array(ids, pa.int64()), vectors.astype(np.float32)


def test_a_turned_and_scaled_space_is_the_same_space() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 4))
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    order = rng.permutation(50)
    found = distance(
        table(list(range(50)), vectors), table(order.tolist(), 3 * (vectors @ turn)[order])
    )
    assert (found.cosine, found.overlap, found.new) == pytest.approx((1.0, 1.0, 0.0), abs=1e-6)


def test_unlike_spaces_are_far_apart() -> None:
    rng = np.random.default_rng(2)
    ids = list(range(400))
    one, other = rng.normal(size=(2, 400, 32))
    found = distance(table(ids, one), table(ids, other))
    assert found.cosine < 0.5
    assert found.overlap < 0.1  # ten of four hundred by chance


def test_lengths_count_where_the_dot_product_does() -> None:
    angles = np.linspace(0, np.pi, 60)
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    ids = list(range(len(directions)))
    longer = directions * np.where(np.arange(60) % 2, 9, 1)[:, None]
    one, other = table(ids, directions), table(ids, longer)
    by_cosine, by_dot = distance(one, other), distance(one, other, "dot")
    assert (by_cosine.cosine, by_cosine.overlap) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert by_dot.cosine < 0.95
    assert by_dot.overlap < 0.7  # only the long ones, every second, are near
    # One factor for all changes no order.
    alike = distance(other, table(ids, 3 * longer), "dot")
    assert (alike.cosine, alike.overlap) == pytest.approx((1.0, 1.0), abs=1e-6)


def test_new_items_are_counted_and_left_out() -> None:
    vectors = np.eye(4)
    found = distance(table([1, 2, 3, 4], vectors), table([3, 4, 5, 6, 1], np.ones((5, 4))))
    assert found.new == pytest.approx(2 / 5)
    nothing = distance(table([1], vectors[:1]), table([2], vectors[:1]))
    assert np.isnan(nothing.cosine)
    assert nothing.new == 1.0
    assert distance(table([1], vectors[:1]), table([1], vectors[:1])).overlap == 1.0
