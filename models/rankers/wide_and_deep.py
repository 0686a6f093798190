"""`WideAndDeep`, fitted: trained by Keras, served by NumPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from models.rankers import saved
from models.rankers.deep.forward import Forward
from models.rankers.inputs import IDS, Floats, Inputs, Labelled
from models.rankers.labels import combined, refuse_nothing, shown_at, sigmoid
from models.rankers.lines import WideAndDeep
from models.rankers.preprocessing import Preprocessing
from models.rankers.spec import Ranker
from transformations.errors import InputError

if TYPE_CHECKING:
    from models.rankers.deep.network import Beginning


@dataclass(frozen=True, eq=False)
class WideAndDeepRanker:
    """A fitted ranker; the methods are those of `FittedRanker`.

    Where labels were shown, each position has a bias of its own in training. Served, each pair
    counts as shown first.

    Attributes:
        heads: Actions with their weights in the score.
        weights: As `Network.arrays` returns them.
        bias: Added to each head when serving: of the first position, less what balancing added.
        noted: Figures of the fit.
    """

    line: WideAndDeep
    heads: Mapping[str, float]
    preprocessing: Preprocessing
    weights: Mapping[str, NDArray[np.float32]]
    bias: Floats
    noted: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        line: Ranker,
        heads: Mapping[str, float],
        train: Labelled,
        validation: Labelled,
        seed: int,
    ) -> Self:
        """Train it by AdamW, with early stopping."""
        line = cast(WideAndDeep, line)
        refuse_nothing(train, heads)
        made = Preprocessing.fit(train.inputs, line.impute, line.min_count, line.hashed_ids)
        return cls._trained(line, heads, made, train, validation, seed)

    def reading(self, columns: Mapping[str, str]) -> Self:
        """As `Continuing.reading`."""
        return replace(self, preprocessing=self.preprocessing.reading(columns))

    def check(self, inputs: Inputs) -> None:
        """As `Continuing.check`."""
        self.preprocessing.check(inputs)

    def go_on(self, train: Labelled, validation: Labelled, seed: int) -> Self:
        """As `Continuing.go_on`: each id keeps its vector, and new ids begin as the unknown one."""
        from models.rankers.deep.network import Beginning

        refuse_nothing(train, self.heads)
        made = self.preprocessing.grown(train.inputs, self.line.min_count)
        beginning = Beginning(self.weights, self.preprocessing.offsets.tolist())
        return self._trained(self.line, self.heads, made, train, validation, seed, beginning)

    @classmethod
    def _trained(
        cls,
        line: WideAndDeep,
        heads: Mapping[str, float],
        made: Preprocessing,
        train: Labelled,
        validation: Labelled,
        seed: int,
        beginning: "Beginning | None" = None,
    ) -> Self:
        from models.rankers.deep import learning
        from models.rankers.deep.network import Sizes

        columns, fields = wide_of(line, made)
        offsets = tuple(made.offsets.tolist())
        sizes = Sizes(len(made.columns), offsets, len(heads), columns, fields)
        of_train = made.encode(train.inputs), train
        held = validation if len(validation) else train.take(np.zeros(0, np.int64))
        of_validation = made.encode(held.inputs), held
        weights, figures = learning.train(
            line, heads, sizes, of_train, of_validation, seed, beginning
        )
        bias = -np.log(learning.positive_weights(line, train))
        if (shown_at(train) >= 0).any():
            bias = bias + weights["position_bias"][0]
        return cls(line, heads, made, weights, bias.astype(np.float32), figures)

    @cached_property
    def forward(self) -> Forward:
        """The weights, laid out for one pass."""
        columns, fields = wide_of(self.line, self.preprocessing)
        offsets = self.preprocessing.offsets.tolist()
        width = len(self.preprocessing.columns)
        return Forward.of(self.weights, width, offsets, columns, fields, self.bias)

    def probabilities(self, inputs: Inputs) -> Floats:
        """As `FittedRanker.probabilities`."""
        return sigmoid(self.forward.logits(self.preprocessing.encode(inputs)))

    def scores(self, inputs: Inputs) -> Floats:
        """As `FittedRanker.scores`: the probabilities by the heads' weights."""
        return self.judged(inputs)[0]

    def judged(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """As `FittedRanker.judged`."""
        likely = self.probabilities(inputs)
        return combined(likely, [*self.heads.values()]), likely

    def importance(self) -> Mapping[str, float]:
        """Return nothing: no weight of it stands for one input."""
        return {}

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """The inputs that it needs."""
        return self.preprocessing.names

    @property
    def spaces(self) -> Mapping[str, str]:
        """A member's vector → the item's of its space."""
        return dict(self.preprocessing.matched)

    @property
    def figures(self) -> Mapping[str, Any]:
        """Epochs, and the losses of each."""
        return self.noted

    def save(self, folder: Path) -> None:
        """As `FittedRanker.save`."""
        saved.write(folder, self.preprocessing, {**self.weights, "serving": self.bias}, self.noted)

    @classmethod
    def load(cls, line: Ranker, heads: Mapping[str, float], folder: Path) -> Self:
        """As `FittedRanker.load`; without TensorFlow."""
        preprocessing, arrays, noted = saved.read(folder)
        bias = arrays.pop("serving")
        made = cls(cast(WideAndDeep, line), heads, preprocessing, arrays, bias, noted)
        made.forward  # noqa: B018 - laid out now, not at the first request
        return made


def wide_of(line: WideAndDeep, made: Preprocessing) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the dense columns and the categories that the factorization machine reads.

    Raises:
        InputError: there is none.
    """
    beginnings = tuple(name for entry in line.wide for name in (IDS if entry == "ids" else [entry]))

    def reads(name: str) -> bool:
        return not beginnings or name.startswith(beginnings)

    columns = tuple(index for index, name in enumerate(made.columns) if reads(name))
    fields = tuple(index for index, one in enumerate(made.categories) if reads(one.name))
    if not columns and not fields:
        there = dict.fromkeys([*made.columns, *(one.name for one in made.categories)])
        raise InputError(
            f"{line}: wide: expected the beginning of an input's name, got {', '.join(line.wide)}; "
            f"there are {', '.join(there)}"
        )
    return columns, fields
