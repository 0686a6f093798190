"""What the kinds of ranker read of labels in the same way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.rankers.inputs import Floats, Labelled, Rows
from transformations.errors import InputError

POSITIONS = 50
"""Positions from this on count as one."""


def refuse_nothing(labelled: Labelled, heads: Mapping[str, float]) -> None:
    """Raise InputError unless pairs differ in what came of them, and stand group by group.

    Args:
        heads: The actions of the targets' columns.
    """
    if labelled.targets.shape[1] != len(heads):
        raise InputError(
            f"expected a target for each of {', '.join(heads)}, got {labelled.targets.shape[1]}"
        )
    if (np.diff(labelled.groups) < 0).any():
        raise InputError("expected the groups of labels in ascending order, got others; sort them")
    positive = labelled.targets.sum(axis=0) if len(labelled) else np.zeros(len(heads))
    if not ((positive > 0) & (positive < len(labelled))).any():
        told = ", ".join(
            f"{head} {int(count):,}" for head, count in zip(heads, positive, strict=True)
        )
        raise InputError(
            f"expected pairs of which some led to an action and others did not, got {told} of "
            f"{len(labelled):,} pairs; give it more days, or wait for more actions"
        )


def starts(groups: Rows) -> Rows:
    """Return where each group begins, int64.

    >>> starts(np.array([3, 3, 7, 9, 9])).tolist()
    [0, 2, 3]
    """
    return np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]][: len(groups)])


def sizes(groups: Rows) -> Rows:
    """Return how many pairs each group has, int64.

    >>> sizes(np.array([3, 3, 7, 9, 9])).tolist()
    [2, 1, 2]
    """
    return np.diff(np.r_[starts(groups), len(groups)])


def shuffled(groups: Rows, rng: np.random.Generator) -> Rows:
    """Return an order of pairs that is chance inside each group, int64.

    >>> shuffled(np.array([3, 3, 7]), np.random.default_rng(0)).tolist()
    [1, 0, 2]
    """
    return np.lexsort((rng.random(len(groups)), groups))


def shown_at(labelled: Labelled) -> Rows:
    """Return the position of each pair, -1 where it says nothing; int64 [n].

    In a group of which some pairs were shown and others drawn, the position would tell which is
    which, and with it the label: there it says nothing.
    """
    if not len(labelled):
        return labelled.positions
    least = np.minimum.reduceat(labelled.positions, starts(labelled.groups))
    whole = np.repeat(least >= 0, sizes(labelled.groups))
    return np.where(whole, np.minimum(labelled.positions, POSITIONS - 1), -1)


def gains(targets: Floats, weights: Sequence[float]) -> Floats:
    """Return what each pair is worth in its group: the weights of what came of it, float32 [n]."""
    return np.asarray(targets @ np.asarray(weights, np.float32), np.float32)


def combined(probabilities: Floats, weights: Sequence[float]) -> Floats:
    """Return the score of each pair: the heads' probabilities by their weights, float32 [n]."""
    return gains(probabilities, weights)


def sigmoid(logits: NDArray[Any]) -> Floats:
    """Return probabilities, float32, without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    # A sigmoid by tanh stays finite for any input.
    return (0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits))).astype(np.float32)
