"""How far a served feature is from the joined one, by its kind."""

from typing import Any

import numpy as np
import pytest

from models.quantization import to_int8
from pipelines.ranking.skew import differences

AT = np.array(["2026-11-29T12:00:00"], "M8[us]")


def cell(value: Any) -> np.ndarray:
    """One row of an object column."""
    cells = np.empty(1, object)
    cells[0] = value
    return cells


def kept(*numbers: float) -> np.ndarray:
    """A vector as its view keeps it, in int8."""
    return cell(to_int8(np.array([numbers], np.float32)).tobytes())


def times(*texts: str) -> np.ndarray:
    return np.array(texts, "M8[us]")


@pytest.mark.parametrize(
    ("served", "joined", "off"),
    [
        (np.array([3.0]), np.array([4.0]), 0.25),
        # By their ages: an hour of two. The online store has whole seconds.
        (times("2026-11-29T11:00:00"), times("2026-11-29T10:00:00"), 0.5),
        (times("2026-11-29T11:00:00"), times("2026-11-29T11:00:00.9"), 0.0),
        (np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 1.0),
        (np.array([[1.0, 0.0]]), np.array([[2.0, 0.0]]), 0.0),
        (np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]]), 0.0),
        (kept(1.0, 0.0), kept(0.0, 1.0), 1.0),
        (kept(1.0, 0.0), kept(3.0, 0.0), 0.0),
        (kept(1.0, 0.0), cell(None), 1.0),
        (kept(0.0, 0.0), cell(None), 0.0),
        (cell("feed"), cell("feed"), 0.0),
        (cell("feed"), cell("mail"), 1.0),
        (cell(np.array([1, 2])), cell(np.array([1, 2])), 0.0),
        (cell(np.array([1, 2])), cell(np.array([2, 1])), 1.0),
        (cell(np.array([1, 2])), cell(None), 1.0),
        (cell(None), cell(np.array([])), 0.0),
        (cell(None), cell(None), 0.0),
        (cell(np.array([1.5, np.nan])), cell(np.array([1.5, np.nan])), 0.0),
        (cell(times("2026-11-29T11:00:00")), cell(times("2026-11-29T11:00:00.9")), 0.0),
        (cell(times("2026-11-29T11:00:00")), cell(times("2026-11-29T11:00:01")), 1.0),
    ],
)
def test_how_far_a_value_is_off(served: np.ndarray, joined: np.ndarray, off: float) -> None:
    assert differences(served, joined, AT).tolist() == pytest.approx([off])
