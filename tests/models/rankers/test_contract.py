"""The contract of rankers: every kind of line is enrolled."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.rankers.inputs import Columns, Inputs, Labelled
from models.rankers.lines import BoostedTrees
from models.rankers.spec import Ranker
from tests.models.rankers.worlds import GROUP, HEADS, LINES, changed, market, nothing
from transformations.errors import InputError


@pytest.fixture(params=LINES, ids=[str(line) for line in LINES])
def line(request: pytest.FixtureRequest) -> Ranker:
    chosen: Ranker = request.param
    return chosen


@cache
def fitted(line: Ranker) -> Any:
    train, validation = market(0), market(1, groups=60)
    return line.fitted_class().fit(line, HEADS, train, validation, seed=7)


def below(cls: type[Ranker]) -> set[type[Ranker]]:
    return {cls, *(one for child in cls.__subclasses__() for one in below(child))}


def test_every_kind_is_enrolled() -> None:
    kinds = {one for one in below(Ranker) if hasattr(one, "code")}
    assert {one for one in kinds if one.__module__ == "models.rankers.lines"} == {
        type(line) for line in LINES
    }


def test_shapes_types_and_ranges(line: Ranker) -> None:
    inputs = market(2, groups=5).inputs
    probabilities, scores = fitted(line).probabilities(inputs), fitted(line).scores(inputs)
    assert (probabilities.shape, probabilities.dtype) == ((len(inputs), 2), np.float32)
    assert (scores.shape, scores.dtype) == ((len(inputs),), np.float32)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert np.isfinite(scores).all()
    none = inputs.take(np.zeros(0, np.int64))
    assert fitted(line).probabilities(none).shape == (0, 2)
    assert fitted(line).scores(none).shape == (0,)


def test_it_learns_what_members_like(line: Ranker) -> None:
    """In new groups of 8 the liked item comes first three times as often as by chance."""
    new = market(3, groups=100)
    scores = fitted(line).scores(new.inputs).reshape(-1, GROUP)
    liked = new.targets[:, 0].reshape(-1, GROUP).argmax(axis=1)
    assert (scores.argmax(axis=1) == liked).mean() > 3 / GROUP
    probabilities = fitted(line).probabilities(new.inputs)
    happened = new.targets > 0
    for head in range(2):
        assert probabilities[happened[:, head], head].mean() > (
            probabilities[~happened[:, head], head].mean()
        )


def test_trees_that_tell_nothing_do_not_look_perfect() -> None:
    """A label's own item comes first among drawn ones, and LightGBM leaves ties in their order."""
    made = BoostedTrees(version=1, trees=5, leaves=2, min_rows=200)
    train, validation = (chance_first(market(seed)) for seed in (0, 1))
    found = made.fitted_class().fit(made, HEADS, train, validation, seed=7)
    by_chance = np.mean(1 / np.log2(np.arange(GROUP) + 2))  # .49
    assert found.figures["validation_ndcg_10"] < by_chance + 0.1


def chance_first(labelled: Labelled) -> Labelled:
    """Return groups whose first pair is what came of them, whatever it is like."""
    targets = np.zeros_like(labelled.targets)
    targets[::GROUP, 0] = 1.0
    order = np.random.default_rng(0).permuted(np.arange(len(labelled)).reshape(-1, GROUP), axis=1)
    return replace(labelled.take(order.ravel()), targets=targets)


def test_probabilities_are_as_high_as_actions_are_frequent(line: Ranker) -> None:
    new = market(4, groups=100)
    means = fitted(line).probabilities(new.inputs).mean(axis=0)
    np.testing.assert_allclose(means, new.targets.mean(axis=0), atol=0.08)


def test_the_same_seed_gives_the_same_scores(line: Ranker) -> None:
    inputs = market(2, groups=5).inputs
    train, validation = market(0), market(1, groups=60)
    again = line.fitted_class().fit(line, HEADS, train, validation, seed=7)
    np.testing.assert_array_equal(again.scores(inputs), fitted(line).scores(inputs))


def test_what_is_saved_reads_back_whole(line: Ranker, tmp_path: Path) -> None:
    inputs = market(2, groups=5).inputs
    fitted(line).save(tmp_path)
    again = line.fitted_class().load(line, HEADS, tmp_path)
    np.testing.assert_array_equal(again.scores(inputs), fitted(line).scores(inputs))
    np.testing.assert_array_equal(again.probabilities(inputs), fitted(line).probabilities(inputs))
    for told in ("figures", "columns", "spaces"):
        assert getattr(again, told) == getattr(fitted(line), told)
    assert again.importance() == fitted(line).importance()
    assert json.loads(json.dumps(fitted(line).figures)) == fitted(line).figures


def test_neither_the_order_nor_the_number_of_pairs_changes_a_score(line: Ranker) -> None:
    inputs = market(2, groups=5).inputs
    together = fitted(line).scores(inputs)
    order = np.random.default_rng(0).permutation(len(inputs))
    np.testing.assert_allclose(fitted(line).scores(inputs.take(order)), together[order], atol=1e-6)
    alone = [fitted(line).scores(inputs.take(np.array([row])))[0] for row in range(len(inputs))]
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_threads_may_share_it(line: Ranker) -> None:
    inputs, of = market(2, groups=5).inputs, fitted(line)
    expected = of.scores(inputs)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: of.scores(inputs), range(40)):
            np.testing.assert_array_equal(scores, expected)


def test_a_new_category_is_the_unknown_one(line: Ranker) -> None:
    inputs = market(2, groups=5).inputs

    def scored(value: Any) -> np.ndarray:
        column = np.full(len(inputs), value, dtype=object)
        other = changed(inputs, "items", categories={"item.category": column})
        return fitted(line).scores(other)

    np.testing.assert_array_equal(scored("never seen"), scored(None))
    np.testing.assert_array_equal(scored(float("nan")), scored(None))


def test_an_unknown_column_is_left_out_and_one_that_is_gone_is_named(line: Ranker) -> None:
    inputs = market(2, groups=5).inputs
    more = {**inputs.pairs.numbers, "pair.new": np.zeros(len(inputs), np.float32)}
    np.testing.assert_array_equal(
        fitted(line).scores(changed(inputs, "pairs", numbers=more)), fitted(line).scores(inputs)
    )
    for method in ("scores", "probabilities"):
        with pytest.raises(InputError, match=r"expected the numbers item\.\w+.*fitted with, got"):
            getattr(fitted(line), method)(changed(inputs, "items", numbers={}))


def test_scores_are_finite_where_all_is_missing_or_absurd(line: Ranker) -> None:
    inputs = market(2, groups=5).inputs

    def filled(columns: Columns, value: float) -> Columns:
        return Columns(
            {n: np.full_like(v, value) for n, v in columns.numbers.items()},
            {n: np.full_like(v, None) for n, v in columns.categories.items()},
            {n: np.full_like(v, value) for n, v in columns.vectors.items()},
        )

    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0):
        sides = {side: filled(getattr(inputs, side), value) for side in SIDES}
        absurd = Inputs(**{**vars(inputs), **sides})
        assert np.isfinite(fitted(line).scores(absurd)).all()
        assert np.isfinite(fitted(line).probabilities(absurd)).all()


SIDES = ("members", "items", "pairs")


def test_it_needs_what_it_was_fitted_with(line: Ranker) -> None:
    of, inputs = fitted(line), market(2, groups=5).inputs
    for kind, names in of.columns.items():
        assert set(names) <= set(inputs.names(kind))
    assert of.spaces == inputs.spaces
    importance = of.importance()
    assert [*importance.values()] == sorted(importance.values(), reverse=True)


def test_nothing_to_learn_from_is_refused(line: Ranker) -> None:
    labels = market(0, groups=5)
    silent = Labelled(**{**vars(labels), "targets": np.zeros_like(labels.targets)})
    for little in (nothing(labels), silent):
        with pytest.raises(InputError, match="expected pairs"):
            line.fitted_class().fit(line, HEADS, little, nothing(labels), seed=0)


def test_pairs_that_do_not_stand_group_by_group_are_refused(line: Ranker) -> None:
    labels = market(0, groups=5)
    mixed = labels.take(np.random.default_rng(0).permutation(len(labels)))
    with pytest.raises(InputError, match="groups of labels in ascending order"):
        line.fitted_class().fit(line, HEADS, mixed, nothing(labels), seed=0)


def test_it_fits_without_validation_and_where_pairs_were_shown(line: Ranker) -> None:
    """Of no validation there may be no columns either. Served, no position is asked for."""
    labels = market(0, groups=60, shown=True)
    empty = Inputs(Columns(), Columns(), Columns(), *[np.zeros(0, np.int64)] * 2)
    without = Labelled(**{**vars(nothing(labels)), "inputs": empty})
    for validation in (without, market(1, groups=20, shown=True)):
        made = line.fitted_class().fit(line, HEADS, labels, validation, seed=0)
        assert np.isfinite(made.scores(labels.inputs)).all()


def test_a_tiny_table_fits(line: Ranker) -> None:
    labels = market(0, groups=3)
    made = line.fitted_class().fit(line, HEADS, labels, nothing(labels), seed=0)
    assert np.isfinite(made.probabilities(labels.inputs)).all()
