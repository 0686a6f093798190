"""The best r of the decay: a grid over r, scored by a small ranker on the validation period."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from models.items.similarity import comparable
from models.lines import similarity_of
from models.sequences import ItemTable
from models.training.examples import dataset
from transformations.config import Config
from transformations.errors import InputError
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples
from transformations.timestamps import EPOCH

GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
# Labels that the small ranker is fitted to, and scored on: more of them change the AUC by less than
# the choice of r does.
LABELS = 50_000
# How much better three decays must be than one: less is within the noise of 50,000 labels.
LEAST_GAIN = 0.001
SWEEPS = 3
CHUNK = 4_096


@dataclass(frozen=True)
class Scored:
    """One setting of the grid.

    Attributes:
        decay: r of each action.
        auc_random: AUC of a positive action's item against a random one of the same day.
        auc_negative: AUC of a positive action's item against a dismissed one.
    """

    decay: tuple[float, ...]
    auc_random: float
    auc_negative: float


@dataclass(frozen=True)
class DecayStudy:
    """The grid's scores.

    Attributes:
        common: One r for all actions, in the order of the grid.
        single: Action → its r varied, the others at their best.
        best: The best r of each action, or one for all if that is as good.
    """

    common: list[Scored]
    single: dict[str, list[Scored]]
    best: float | tuple[float, ...]


@dataclass(frozen=True)
class Pairs:
    """n labels with the decayed vectors' similarities.

    Attributes:
        similarities: Of the label's item with the decayed vector, float32 [actions, grid, n].
        popularity: Log of how often the item was a positive label before, float32 [n].
        positive: bool [n].
        random: bool [n].
        fits: Whether the label is before the validation period, bool [n].
    """

    similarities: NDArray[np.float32]
    popularity: NDArray[np.float32]
    positive: NDArray[np.bool_]
    random: NDArray[np.bool_]
    fits: NDArray[np.bool_]


def tune_decay(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    until: datetime,
    validation: timedelta = timedelta(days=14),
    grid: Sequence[float] = GRID,
    progress: Callable[[], object] | None = None,
) -> DecayStudy:
    """Score decays by a small ranker, as the downstream one would use them.

    A logistic regression on each action's similarity (what the match view gives a ranker) and the
    item's log popularity is fitted to labels before the validation period and scored on those in
    it. A window is what the daily snapshot would have held at the label's time. First all actions
    have the same r. From the best one, each action's r is varied with the others fixed, until
    nothing improves (at most SWEEPS times).

    Args:
        validation: The last period before `until`.
        progress: Called after each setting.

    Raises:
        InputError: either period lacks positives, or negatives to tell them from.
    """
    settings = ExampleSettings(inputs="snapshot")
    report = build_training_examples(config, con, settings, until)
    items = ItemTable.read(config, con, until)
    pairs = _pairs(report.file, items, config, (until - validation, until), grid)
    scored: dict[tuple[int, ...], Scored] = {}

    def score(indices: tuple[int, ...]) -> Scored:
        if indices not in scored:
            scored[indices] = _score(pairs, indices, grid)
            if progress is not None:
                progress()
        return scored[indices]

    actions = list(config.actions)
    alike = [tuple([index] * len(actions)) for index in range(len(grid))]
    best = first = max(alike, key=lambda indices: score(indices).auc_random)
    for _ in range(SWEEPS):
        before = best
        for number in range(len(actions)):
            best = max(
                (_changed(best, number, index) for index in range(len(grid))),
                key=lambda indices: score(indices).auc_random,
            )
        if best == before:
            break
    gain = score(best).auc_random - score(first).auc_random
    return DecayStudy(
        common=[score(indices) for indices in alike],
        single={
            action: [score(_changed(best, number, index)) for index in range(len(grid))]
            for number, action in enumerate(actions)
        },
        best=score(best).decay if gain >= LEAST_GAIN else grid[first[0]],
    )


def _changed(indices: tuple[int, ...], number: int, index: int) -> tuple[int, ...]:
    return (*indices[:number], index, *indices[number + 1 :])


def _score(pairs: Pairs, indices: tuple[int, ...], grid: Sequence[float]) -> Scored:
    matches = [pairs.similarities[action, index] for action, index in enumerate(indices)]
    features = np.column_stack([*matches, pairs.popularity])
    return Scored(
        decay=tuple(grid[index] for index in indices),
        auc_random=_auc(features, pairs, pairs.random),
        auc_negative=_auc(features, pairs, ~pairs.positive & ~pairs.random),
    )


def _auc(features: NDArray[np.float32], pairs: Pairs, against: NDArray[np.bool_]) -> float:
    """Fit positives against `against` before the validation period; return the AUC in it."""
    fits = pairs.fits & (pairs.positive | against)
    judged = ~pairs.fits & (pairs.positive | against)
    ranker: Pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    ranker.fit(features[fits], pairs.positive[fits])
    scores = ranker.decision_function(features[judged])
    return float(roc_auc_score(pairs.positive[judged], scores))


def _pairs(
    file: Any,
    items: ItemTable,
    config: Config,
    validation: tuple[datetime, datetime],
    grid: Sequence[float],
) -> Pairs:
    popularity = np.zeros(len(items.vectors), np.float32)
    chunks = []
    for fits, between in ((True, (EPOCH, validation[0])), (False, validation)):
        taken = 0
        for batch in dataset(
            file, items, config, batch_size=CHUNK, seed=0, between=between
        ).as_numpy_iterator():
            if fits:
                np.add.at(popularity, batch["label_rows"][batch["positive"]], 1.0)
            if taken < LABELS:
                chunks.append((fits, batch, similarities(batch, items.vectors, config, grid)))
            taken += len(batch["label_rows"])
    return _joined(chunks, popularity, config, validation)


def _joined(
    chunks: list[tuple[bool, dict[str, Any], NDArray[np.float32]]],
    popularity: NDArray[np.float32],
    config: Config,
    validation: tuple[datetime, datetime],
) -> Pairs:
    def column(name: str) -> NDArray[Any]:
        return np.concatenate([batch[name] for _, batch, _ in chunks])

    for side, words in ((True, "before"), (False, "from")):
        kinds = {
            (bool(p), bool(r))
            for f, batch, _ in chunks
            if f == side
            for p, r in zip(batch["positive"], batch["random"], strict=True)
        }
        if len(kinds) < 3:
            raise InputError(
                f"expected positive, negative and random labels {words} {validation[0]:%Y-%m-%d} "
                f"(before {validation[1]:%Y-%m-%d}) to choose a decay by, found {len(kinds)} of "
                f"these kinds; give another --until ({', '.join(config.actions)} are the actions)"
            )
    return Pairs(
        similarities=np.concatenate([similar for _, _, similar in chunks], axis=2),
        popularity=np.log1p(popularity[column("label_rows")]),
        positive=column("positive"),
        random=column("random"),
        fits=np.concatenate([np.full(len(b["positive"]), f) for f, b, _ in chunks]),
    )


def similarities(
    batch: Mapping[str, Any],
    table: NDArray[np.float32],
    config: Config,
    grid: Sequence[float],
) -> NDArray[np.float32]:
    """Return each label item's similarity with each action's decayed vector; 0 without one.

    The vectors are those of models.layers.geometric_decay, compared as their item space does.

    Returns:
        float32 [actions, grid, batch].
    """
    similarity = similarity_of(config)
    vectors = table[batch["rows"]]
    wanted = comparable(table[batch["label_rows"]], similarity)
    result = np.zeros((len(config.actions), len(grid), len(wanted)), np.float32)
    for number in range(len(config.actions)):
        of_kind = (batch["actions"] == number + 1).astype(np.float32)
        later = of_kind.sum(axis=1, keepdims=True) - of_kind.cumsum(axis=1)
        for index, r in enumerate(grid):
            weights = of_kind * np.float32(r) ** later
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
            decayed = np.matmul(weights[:, None, :], vectors)[:, 0]
            result[number, index] = (comparable(decayed, similarity) * wanted).sum(axis=1)
    return result
