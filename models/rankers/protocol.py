"""What the class behind a ranker's line does; RANKERS enrol in its contract suite by themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from models.rankers.inputs import Floats, Inputs, Labelled
from models.rankers.spec import Ranker


class FittedRanker(Protocol):
    """A fitted ranker. Threads may share it.

    It holds its preprocessing too: how numbers are scaled, what stands for missing ones, which
    categories are known. What it was not fitted with, it never needs: a new category is the unknown
    one, an unknown column is left out, a column that is gone is an error.
    """

    @classmethod
    def fit(
        cls,
        line: Ranker,
        heads: Mapping[str, float],
        train: Labelled,
        validation: Labelled,
        seed: int,
    ) -> Self:
        """Fit it; the same seed gives the same ranker.

        Args:
            heads: The actions of the targets' columns, each with its weight in the score.
            validation: Later labels, for early stopping; it may be empty.

        Raises:
            InputError: nothing to learn from.
        """
        ...

    def probabilities(self, inputs: Inputs) -> Floats:
        """Return the probability of each head's action, float32 [n, heads].

        Raises:
            InputError: a column that it was fitted with is missing.
        """
        ...

    def scores(self, inputs: Inputs) -> Floats:
        """Return what items are ordered by, float32 [n]."""
        ...

    def judged(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """Return `scores` and `probabilities` by one pass."""
        ...

    def importance(self) -> Mapping[str, float]:
        """Return how much each input counts, the largest first; empty where it cannot tell."""
        ...

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """The inputs that it needs: numbers, categories, vectors → their names."""
        ...

    @property
    def spaces(self) -> Mapping[str, str]:
        """A member's vector → the item's vector that it is compared with."""
        ...

    @property
    def figures(self) -> Mapping[str, Any]:
        """What is to be noted of the fit: epochs, validation loss."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into a folder that is there and empty."""
        ...

    @classmethod
    def load(cls, line: Ranker, heads: Mapping[str, float], folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


class Continuing(FittedRanker, Protocol):
    """A ranker whose line `goes_on`: another fit may begin with its weights."""

    def reading(self, columns: Mapping[str, str]) -> Self:
        """Return it with vectors under other names: of the fits that went on from those it read.

        Args:
            columns: The name of before → the name of now.
        """
        ...

    def check(self, inputs: Inputs) -> None:
        """Raise InputError unless all columns that it was fitted with are there."""
        ...

    def go_on(self, train: Labelled, validation: Labelled, seed: int) -> Self:
        """Return a fit that began with these weights; the same seed gives the same ranker.

        How inputs are scaled and which columns are read stays. What the training pairs have of new
        ids and categories gets weights, after those that there are, which stay at the beginning.

        Raises:
            InputError: a column that it was fitted with is missing, or nothing to learn from.
        """
        ...
