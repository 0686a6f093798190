"""`BoostedTrees`, fitted: LightGBM's lambdarank orders each group.

One booster gives the scores that items are ordered by. The probability of each action is a logistic
regression of that score, fitted on the validation where it has such actions, else on training: it
grows or falls with the score, so it tells no more of an item than the score does. A line with a
network has an output of its own for each action.

Trees read numbers as they are, categories by code, NaN where missing; of two vectors of one space
how well they match.

From: Burges, "From RankNet to LambdaRank to LambdaMART", 2010; Ke et al., "LightGBM", 2017.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import lightgbm
import numpy as np
from numpy.typing import NDArray

from models.rankers import saved
from models.rankers.inputs import Floats, Inputs, Labelled
from models.rankers.labels import gains, refuse_nothing, shown_at, shuffled, sigmoid, sizes
from models.rankers.lines import BoostedTrees
from models.rankers.preprocessing import Preprocessing
from models.rankers.spec import Ranker

TREES = "trees.txt"
FIT_THREADS = 2
"""At most; fewer where OMP_NUM_THREADS says so. Trees do not depend on it (`deterministic`)."""
CALIBRATING_STEPS = 30
SHUFFLE = 0
"""Seed of the order inside groups."""


@dataclass(frozen=True, eq=False)
class BoostedTreesRanker:
    """A fitted ranker; the methods are those of `FittedRanker`.

    Where labels were shown, LightGBM learns what each position adds, which no served score has.

    Attributes:
        heads: Actions with their weights in the score.
        trees: The booster, as text.
        calibration: Slope and intercept of each head's probability, float32 [2, heads].
        noted: Figures of the fit.
    """

    line: BoostedTrees
    heads: Mapping[str, float]
    preprocessing: Preprocessing
    trees: str
    booster: Any
    calibration: Floats
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
        """Grow trees until the validation is no better; the same seed gives the same ones."""
        line = cast(BoostedTrees, line)
        refuse_nothing(train, heads)
        made = Preprocessing.fit(train.inputs, min_count=line.min_count)
        weights = [*heads.values()]
        levels = np.unique(gains(train.targets, weights))
        parameters = {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "label_gain": (levels - levels[0]).tolist(),
            "num_leaves": line.leaves,
            "learning_rate": line.learning_rate,
            "min_data_in_leaf": line.min_rows,
            "num_threads": min(FIT_THREADS, int(os.environ.get("OMP_NUM_THREADS") or FIT_THREADS)),
            "deterministic": True,
            "force_row_wise": True,
            "seed": seed,
            "verbosity": -1,
        }
        of_train = _dataset(line, made, train, levels, weights)
        given = [validation] if len(validation) else []
        held = [_dataset(line, made, labels, levels, weights, of_train) for labels in given]
        history: dict[str, dict[str, list[float]]] = {}
        grown = lightgbm.train(
            parameters,
            of_train,
            line.trees,
            valid_sets=[_dataset(line, made, validation, levels, weights, of_train)]
            if held
            else [],
            valid_names=["validation"] if held else [],
            callbacks=[
                lightgbm.record_evaluation(history),
                *([lightgbm.early_stopping(line.patience, verbose=False)] * len(held)),
            ],
        )
        text = grown.model_to_string(num_iteration=grown.best_iteration if held else -1)
        ranker = cls(line, heads, made, text, _booster(text), np.zeros((2, 0), np.float32), {})
        calibration = np.stack(
            [_calibrated(ranker, head, [*given, train]) for head in range(len(heads))],
            axis=1,
        )
        noted: dict[str, Any] = {"trees": ranker.booster.num_trees()}
        if held:
            noted["validation_ndcg_10"] = float(max(history["validation"]["ndcg@10"]))
        return cls(line, heads, made, text, ranker.booster, calibration.astype(np.float32), noted)

    def scores(self, inputs: Inputs) -> Floats:
        """As `FittedRanker.scores`: what the trees say; its size means nothing."""
        if not len(inputs):
            self.preprocessing.check(inputs)
            return np.zeros(0, np.float32)
        matrix, _ = _matrix(self.line, self.preprocessing, inputs)
        found = self.booster.predict(matrix, num_threads=1, validate_features=False)
        return np.asarray(found, np.float32)

    def probabilities(self, inputs: Inputs) -> Floats:
        """As `FittedRanker.probabilities`: of each head, by its regression on the score."""
        return self.judged(inputs)[1]

    def judged(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """As `FittedRanker.judged`."""
        slope, intercept = self.calibration
        scores = self.scores(inputs)
        return scores, sigmoid(scores[:, None] * slope + intercept)

    def importance(self) -> Mapping[str, float]:
        """Return what splits by each input gained, as shares of all."""
        gained = self.booster.feature_importance("gain")
        found: dict[str, float] = {}
        for name, gain in zip(_names(self.line, self.preprocessing), gained, strict=True):
            found[name] = found.get(name, 0.0) + float(gain)
        whole = max(sum(found.values()), 1e-12)
        return {name: gain / whole for name, gain in sorted(found.items(), key=lambda p: -p[1])}

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
        """Trees, and the best NDCG@10 of the validation."""
        return self.noted

    def save(self, folder: Path) -> None:
        """As `FittedRanker.save`."""
        saved.write(folder, self.preprocessing, {"calibration": self.calibration}, self.noted)
        (folder / TREES).write_text(self.trees)

    @classmethod
    def load(cls, line: Ranker, heads: Mapping[str, float], folder: Path) -> Self:
        """As `FittedRanker.load`."""
        preprocessing, arrays, noted = saved.read(folder)
        text = (folder / TREES).read_text()
        own = cast(BoostedTrees, line)
        return cls(own, heads, preprocessing, text, _booster(text), **arrays, noted=noted)


def _booster(text: str) -> Any:
    return lightgbm.Booster(model_str=text)


def _names(line: BoostedTrees, made: Preprocessing) -> list[str]:
    """Return the input of each column of the trees' matrix, the categories last."""
    numbers = [number.name for side in made.sides for number in side.numbers]
    dims = {vector.name: vector.dim for vector in made.members.vectors}
    matched = [f"{m} * {i}" for m, i in made.matched for _ in range(dims[m] if line.entries else 1)]
    return [*numbers, *matched, *(category.name for category in made.categories)]


def _matrix(line: BoostedTrees, made: Preprocessing, inputs: Inputs) -> tuple[Floats, list[int]]:
    """Return float32 [n, columns], and which columns are categories."""
    encoded = made.encode(inputs)
    tables = (inputs.members, inputs.items, inputs.pairs)
    numbers, codes = [], []
    for side, columns, (table, rows) in zip(made.sides, tables, encoded.sides, strict=True):
        numbers.append(side.raw(columns, len(table.dense))[rows])
        codes.append(table.codes[rows])
    known = np.concatenate(codes, axis=1) - made.offsets[:-1]
    of_codes = np.where(known > 0, known, np.nan).astype(np.float32)
    matched = _matched(line, encoded.products(), [m.stop - m.start for m, _ in encoded.matched])
    matrix = np.concatenate([*numbers, matched, of_codes], axis=1)
    first = matrix.shape[1] - of_codes.shape[1]
    return matrix, list(range(first, matrix.shape[1]))


def _matched(line: BoostedTrees, products: Floats, dims: Sequence[int]) -> Floats:
    """Return the entries of member ∘ item, or their sum for each space."""
    if line.entries or not dims:
        return products
    return np.asarray(np.add.reduceat(products, np.cumsum([0, *dims[:-1]]), axis=1), np.float32)


def _dataset(
    line: BoostedTrees,
    made: Preprocessing,
    labelled: Labelled,
    levels: Floats,
    weights: Sequence[float],
    reference: Any = None,
) -> Any:
    # Pairs that score alike stand in their order when LightGBM measures a group, and a label's own
    # item comes first: a tree that tells nothing apart would look perfect.
    labelled = labelled.take(shuffled(labelled.groups, np.random.default_rng(SHUFFLE)))
    matrix, categories = _matrix(line, made, labelled.inputs)
    # The level of what a pair is worth; of one that training never had, the next lower.
    worth = gains(labelled.targets, weights)
    level = np.maximum(np.searchsorted(levels, worth, side="right") - 1, 0)
    positions = shown_at(labelled)
    return lightgbm.Dataset(
        matrix,
        level,
        reference=reference,
        weight=labelled.weights,
        group=sizes(labelled.groups),
        position=positions + 1 if reference is None and (positions >= 0).any() else None,
        categorical_feature=categories,
        params={"verbosity": -1},
    )


def _calibrated(
    ranker: BoostedTreesRanker, head: int, choices: Sequence[Labelled]
) -> NDArray[np.float64]:
    """Return slope and intercept of a logistic regression of a head's action on the score.

    Of the first of these labels that have both; a chance that nothing tells of is the frequency.
    """
    chosen = choices[-1]
    for labels in choices:
        happened = labels.targets[:, head] > 0
        if happened.any() and not happened.all():
            chosen = labels
            break
    x, y = ranker.scores(chosen.inputs).astype(np.float64), chosen.targets[:, head]
    weights = chosen.weights.astype(np.float64)
    # Half a pair of each kind, so that no chance is 0 or 1.
    rate = (weights @ y + 0.5) / (weights.sum() + 1.0)
    start = np.array([0.0, np.log(rate / (1 - rate))])
    centre, spread = x.mean(), max(float(x.std()), 1e-12)
    z = np.stack([(x - centre) / spread, np.ones(len(x))], axis=1)
    ridge, found = np.diag([1e-2, 1e-2]), start
    for _ in range(CALIBRATING_STEPS):  # Newton's
        chance = 0.5 + 0.5 * np.tanh(0.5 * (z @ found))
        gradient = z.T @ (weights * (chance - y)) + ridge @ (found - start)
        curvature = (z * (weights * chance * (1 - chance))[:, None]).T @ z + ridge
        found = found - np.clip(np.linalg.solve(curvature, gradient), -2.0, 2.0)
    slope = found[0] / spread
    return np.array([slope, found[1] - slope * centre])
