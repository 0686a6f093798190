"""A label counts as much as its weight says."""

from dataclasses import replace

import numpy as np
import pytest

from models.rankers.inputs import Inputs, Labelled
from models.rankers.linear import LinearRanker
from models.rankers.lines import Linear
from tests.models.rankers.worlds import HEADS, market, nothing


def otherwise(labels: Labelled) -> Labelled:
    """The same pairs, of which something else came: what is fitted to inputs stays the same."""
    return replace(labels, targets=np.roll(labels.targets, 1, axis=0))


def together(*parts: Labelled) -> Labelled:
    groups, first = [], 0
    for part in parts:
        groups.append(part.groups + first)
        first += int(part.groups.max()) + 1
    return Labelled(
        Inputs.concatenated([part.inputs for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate(groups),
        np.concatenate([part.positions for part in parts]),
    )


def weighing(labels: Labelled, weight: float) -> Labelled:
    return replace(labels, weights=np.full(len(labels), weight, np.float32))


def likely(train: Labelled) -> np.ndarray:
    fitted = LinearRanker.fit(Linear(version=1), HEADS, train, nothing(train), 0)
    return fitted.probabilities(market(9, groups=20).inputs)


def test_two_are_two_copies_and_none_is_nothing() -> None:
    labels = market(1, groups=150)
    others = otherwise(labels)
    alone = likely(labels)
    equal = likely(together(labels, others))
    twice = likely(together(labels, others, others))
    assert np.abs(alone - equal).max() > 0.05 < np.abs(twice - alone).max()
    assert np.abs(twice - equal).max() > 0.01
    assert likely(together(labels, weighing(others, 0.0))) == pytest.approx(alone, abs=5e-3)
    assert likely(together(labels, weighing(others, 2.0))) == pytest.approx(twice, abs=5e-3)
