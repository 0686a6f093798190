"""`Linear`: one logistic regression per action, over the scaled columns and the categories."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from models.rankers import saved
from models.rankers.additive import added
from models.rankers.inputs import Floats, Inputs, Labelled
from models.rankers.labels import combined, refuse_nothing, shown_at, sigmoid
from models.rankers.lines import Linear
from models.rankers.preprocessing import Encoded, Preprocessing
from models.rankers.spec import Ranker

STEPS = 100
"""Of L-BFGS at most."""
CHUNK = 65_536
"""Pairs whose products are laid out at once."""
KEPT = 128_000_000
"""Entries of products that are kept between steps: half a gigabyte."""


@dataclass(frozen=True, eq=False)
class LinearRanker:
    """A fitted ranker; the methods are those of `FittedRanker`.

    Where a label was shown is two columns of training: that it was, and log(1 + position). Served,
    each pair counts as shown first.

    Attributes:
        heads: Actions with their weights in the score.
        weights: float32 [dense columns, heads].
        table: Of each category's code, float32 [codes, heads].
        bias: float32 [heads]; with what being shown first adds.
        noted: Figures of the fit.
    """

    heads: Mapping[str, float]
    preprocessing: Preprocessing
    weights: Floats
    table: Floats
    bias: Floats
    noted: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        line: Ranker,
        heads: Mapping[str, float],
        train: Labelled,
        validation: Labelled,  # noqa: ARG003 - one regression has nothing to stop early
        seed: int,  # noqa: ARG003 - nor anything random
    ) -> Self:
        """Fit it by L-BFGS, all heads at once: their losses share no weight."""
        line = cast(Linear, line)
        refuse_nothing(train, heads)
        made = Preprocessing.fit(train.inputs, line.impute, line.min_count)
        regression = _Regression.of(made.encode(train.inputs), train, line.l2, made)
        parts, steps, loss = regression.solved()
        weights, table, bias, shown = (part.astype(np.float32) for part in parts)
        return cls(heads, made, weights, table, bias + shown[0], {"steps": steps, "loss": loss})

    def probabilities(self, inputs: Inputs) -> Floats:
        """As `FittedRanker.probabilities`."""
        encoded = self.preprocessing.encode(inputs)
        return sigmoid(self.bias + added(encoded, self.weights, self.table))

    def scores(self, inputs: Inputs) -> Floats:
        """As `FittedRanker.scores`: the probabilities by the heads' weights."""
        return self.judged(inputs)[0]

    def judged(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """As `FittedRanker.judged`."""
        likely = self.probabilities(inputs)
        return combined(likely, [*self.heads.values()]), likely

    def importance(self) -> Mapping[str, float]:
        """Return the absolute weights of each input, by the heads' weights; of a category, how much
        its values differ."""
        of_heads = np.abs([*self.heads.values()])
        found: dict[str, float] = {}
        dense = np.abs(self.weights) @ of_heads
        for name, weight in zip(self.preprocessing.columns, dense, strict=True):
            found[name] = found.get(name, 0.0) + float(weight)
        offsets = self.preprocessing.offsets
        for index, category in enumerate(self.preprocessing.categories):
            rows = self.table[offsets[index] : offsets[index + 1]]
            found[category.name] = float(rows.std(axis=0) @ of_heads)
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

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
        """Steps, and the loss of training."""
        return self.noted

    def save(self, folder: Path) -> None:
        """As `FittedRanker.save`."""
        arrays = {"weights": self.weights, "table": self.table, "bias": self.bias}
        saved.write(folder, self.preprocessing, arrays, self.noted)

    @classmethod
    def load(cls, line: Ranker, heads: Mapping[str, float], folder: Path) -> Self:  # noqa: ARG003
        """As `FittedRanker.load`."""
        preprocessing, arrays, noted = saved.read(folder)
        return cls(heads, preprocessing, **arrays, noted=noted)


@dataclass(frozen=True, eq=False)
class _Regression:
    """The loss of all heads and its gradient, over tables that hold a member or an item once."""

    encoded: Encoded
    without: Encoded
    targets: NDArray[np.float64]
    weights: NDArray[np.float64]
    shown: NDArray[np.float64]
    l2: float
    shapes: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, encoded: Encoded, train: Labelled, l2: float, made: Preprocessing) -> "_Regression":
        positions = shown_at(train)
        shown = np.stack([positions >= 0, np.log1p(np.maximum(positions, 0))], axis=1)
        heads = train.targets.shape[1]
        return cls(
            encoded,
            Encoded(**{**vars(encoded), "matched": ()}),
            train.targets.astype(np.float64),
            train.weights.astype(np.float64) / max(float(train.weights.sum()), 1e-12),
            shown.astype(np.float64),
            l2,
            [(len(made.columns), heads), (int(made.offsets[-1]), heads), (heads,), (2, heads)],
        )

    def solved(self) -> tuple[list[NDArray[np.float64]], int, float]:
        """Return weights, table, bias and the weights of being shown; the steps; the loss."""
        from scipy.optimize import minimize

        start = np.zeros(sum(int(np.prod(shape)) for shape in self.shapes))
        options = {"maxiter": STEPS, "ftol": 1e-8, "gtol": 1e-6}
        found = minimize(self._loss, start, jac=True, method="L-BFGS-B", options=options)
        return self._parts(found.x), int(found.nit), float(found.fun)

    def _parts(self, flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        pieces = zip(np.split(flat, ends[:-1]), self.shapes, strict=True)
        return [piece.reshape(shape) for piece, shape in pieces]

    def _loss(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, table, bias, shown = self._parts(flat)
        logits = bias + self.shown @ shown + self._added(weights, table)
        # log(1 + exp(z)) - y·z, without overflow.
        losses = np.logaddexp(0.0, logits) - self.targets * logits
        decayed = sum(float(np.square(part).sum()) for part in (weights, table))
        loss = float(self.weights @ losses.sum(axis=1)) + 0.5 * self.l2 * decayed
        errors = self.weights[:, None] * (0.5 + 0.5 * np.tanh(0.5 * logits) - self.targets)
        of_weights, of_table = self._gradients(errors)
        of_weights += self.l2 * weights
        of_table += self.l2 * table
        parts = (of_weights, of_table, errors.sum(axis=0), self.shown.T @ errors)
        return loss, np.concatenate([part.ravel() for part in parts])

    def _added(
        self, weights: NDArray[np.float64], table: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """As `added`, with the products of a chunk at a time."""
        first = sum(side.dense.shape[1] for side, _ in self.encoded.sides)
        # The tables are float32: of two types, each product would copy them.
        weights, table = weights.astype(np.float32), table.astype(np.float32)
        total = added(self.without, weights[:first], table).astype(np.float64)
        for chunk, products in self._products():
            total[chunk] += products @ weights[first:]
        return total

    def _gradients(
        self, errors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        dense, table = [], np.zeros(self.shapes[1])
        for side, rows in self.encoded.sides:
            share = errors if isinstance(rows, slice) else _summed(errors, rows, len(side.dense))
            dense.append(side.dense.T @ share.astype(np.float32))
            for codes in side.codes.T:
                table += _summed(share, codes, len(table))
        products = np.zeros((self.shapes[0][0] - sum(map(len, dense)), errors.shape[1]))
        for chunk, made in self._products():
            products += made.T @ errors[chunk].astype(np.float32)
        return np.concatenate([*dense, products]), table

    def _products(self) -> Iterable[tuple[slice, Floats]]:
        """Return member ∘ item of each chunk of pairs; kept where there is room."""
        width = sum(member.stop - member.start for member, _ in self.encoded.matched)
        return self._kept if width * len(self.encoded) <= KEPT else self._made()

    @cached_property
    def _kept(self) -> list[tuple[slice, Floats]]:
        return list(self._made())

    def _made(self) -> Iterator[tuple[slice, Floats]]:
        if self.encoded.matched:
            for start in range(0, len(self.encoded), CHUNK):
                chunk = slice(start, start + CHUNK)
                yield chunk, self.encoded.products(chunk)


def _summed(values: NDArray[np.float64], rows: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Return the sums of the values of each row, [size, columns]."""
    columns = [np.bincount(rows, column, minlength=size) for column in values.T]
    return np.stack(columns, axis=1)
