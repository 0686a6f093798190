"""WideAndDeep: the factorization machine, the loss, the batches; NumPy against Keras."""

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backend import tf
from models.rankers.deep.learning import Examples, listwise, positive_weights
from models.rankers.deep.network import Network, Sizes
from models.rankers.inputs import Columns, Inputs, Labelled
from models.rankers.labels import POSITIONS, shown_at
from models.rankers.lines import WideAndDeep
from models.rankers.preprocessing import Encoded, Preprocessing
from models.rankers.wide_and_deep import WideAndDeepRanker, wide_of
from tests.models.rankers.worlds import GROUP, HEADS, market, nothing
from transformations.errors import InputError


def network_of(line: WideAndDeep, made: Preprocessing, heads: int = 2) -> Network:
    columns, fields = wide_of(line, made)
    sizes = Sizes(len(made.columns), tuple(made.offsets.tolist()), heads, columns, fields)
    return Network(line, sizes)


def drawn(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Give a network weights of a size that matters; return them."""
    rng = np.random.default_rng(seed)
    arrays = network.arrays()
    network.put({n: rng.normal(size=a.shape).astype(np.float32) * 0.3 for n, a in arrays.items()})
    return network.arrays()


def laid_out(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    dense = [table.dense[rows] for table, rows in encoded.sides]
    codes = [table.codes[rows] for table, rows in encoded.sides]
    return (
        np.concatenate([*dense, encoded.products()], axis=1),
        np.concatenate(codes, axis=1),
    )


LINES = (
    WideAndDeep(version=1, embedding_dim=3, deep=(8, 4)),
    WideAndDeep(version=1, embedding_dim=3, deep=()),
    WideAndDeep(version=1, embedding_dim=2, deep=(5,), wide=("item.category", "pair.")),
    WideAndDeep(version=1, embedding_dim=2, deep=(5,), wide=("item.category",)),
    WideAndDeep(version=1, embedding_dim=2, deep=(5,), wide=("pair.",)),
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.deep} {line.wide}")
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1_000))
def test_numpy_serves_what_keras_trained(line: WideAndDeep, seed: int) -> None:
    inputs = market(seed, groups=4).inputs
    made = Preprocessing.fit(inputs, min_count=1)
    network = network_of(line, made)
    weights = drawn(network, seed)
    bias = np.zeros(2, np.float32)
    ranker = WideAndDeepRanker(line, HEADS, made, weights, bias, {})
    encoded = made.encode(inputs)
    dense, codes = laid_out(encoded)
    expected = network.call(dense, codes, np.full(len(dense), -1)).numpy()
    np.testing.assert_allclose(ranker.forward.logits(encoded), expected, rtol=1e-5, atol=1e-5)
    chances = tf.sigmoid(expected).numpy()
    np.testing.assert_allclose(ranker.probabilities(inputs), chances, atol=1e-5)
    np.testing.assert_allclose(ranker.scores(inputs), chances[:, 0] - chances[:, 1], atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_000))
def test_the_machine_is_the_sum_over_all_pairs_of_its_inputs(seed: int) -> None:
    """0.5((Σvx)² - Σ(vx)²) against Σ over i < j of <v_i, v_j> x_i x_j."""
    inputs = market(seed, groups=1).inputs
    made = Preprocessing.fit(inputs, min_count=1)
    network = network_of(LINES[1], made, heads=1)
    weights = drawn(network, seed)
    weights["factor_heads"] = np.ones_like(weights["factor_heads"])
    network.put(weights)
    dense, codes = laid_out(made.encode(inputs))
    got = network.wide(dense, codes).numpy()[:, 0]
    for row in range(len(dense)):
        x = [*dense[row], *np.ones(codes.shape[1])]
        v = [*weights["factors"], *weights["factor_table"][codes[row]]]
        linear = dense[row] @ weights["linear"][:, 0] + weights["linear_table"][codes[row], 0].sum()
        every = sum(v[i] @ v[j] * x[i] * x[j] for i, j in combinations(range(len(x)), 2))
        np.testing.assert_allclose(got[row], linear + every, rtol=1e-3, atol=1e-3)


def test_unknown_categories_begin_as_nothing() -> None:
    made = Preprocessing.fit(market(0, groups=4).inputs, min_count=1)
    arrays = network_of(LINES[0], made).arrays()
    unknown = made.offsets[:-1]
    for table in ("factor_table", "embeddings"):
        assert not arrays[table][unknown].any()
        assert arrays[table].any(axis=1).sum() == made.offsets[-1] - len(unknown)


def test_a_wide_part_that_names_nothing_is_refused() -> None:
    line = WideAndDeep(version=1, wide=("colour",))
    with pytest.raises(InputError, match=r"wide_and_deep_v1: wide: .*got colour; there are member"):
        line.fitted_class().fit(line, HEADS, market(), nothing(market()), seed=0)


def by_hand(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, groups: np.ndarray, heads: Any
) -> float:
    chances = 1 / (1 + np.exp(-logits))
    of = np.array(heads)
    scores = np.log(chances @ np.maximum(of, 0)) + chances @ np.minimum(of, 0)
    total, counted = 0.0, 0.0
    for group in np.unique(groups):
        here = groups == group
        worth = np.maximum(targets[here] @ of, 0)
        if worth.sum():
            share = np.exp(scores[here]) / np.exp(scores[here]).sum()
            of_pairs = weights[here] * worth / worth.sum()
            total -= of_pairs @ np.log(share)
            counted += of_pairs.sum()
    return total / counted if counted else 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.sampled_from([(1.0,), (1.0, -1.0), (3.0, 0.5), (2.0, 1.0, -0.5)]),
)
def test_listwise_is_the_cross_entropy_of_each_group(
    seed: int, many: list[int], heads: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(many)), many).astype(np.int32)
    n = len(groups)
    logits = rng.normal(size=(n, len(heads))).astype(np.float32) * 3
    targets = (rng.random((n, len(heads))) < 0.3).astype(np.float32)
    weights = rng.random(n).astype(np.float32) + 0.1
    got = listwise(logits, targets, weights, groups, np.array(heads, np.float32)).numpy()
    expected = by_hand(logits, targets, weights, groups, heads)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 12), st.booleans())
def test_a_batch_has_whole_groups_and_each_pair_once(
    many: list[int], size: int, shuffled: bool
) -> None:
    n = sum(many)
    examples = Examples(np.array(many), (), (), ())
    rng = np.random.default_rng(0) if shuffled else None
    group_of = np.repeat(np.arange(len(many)), many)
    seen, groups_seen = [], []
    batches = list(examples.batches(size, rng))
    for pairs, groups in batches:
        numbers = group_of[pairs]
        assert (groups == np.r_[0, np.cumsum(np.diff(numbers) != 0)]).all()
        for group in np.unique(numbers):
            assert (numbers == group).sum() == many[group]
        seen += pairs.tolist()
        groups_seen.append(len(np.unique(numbers)))
        # The fewest groups that have `size` pairs: without the last one there are fewer.
        assert (groups < groups.max()).sum() < size
    assert all(len(pairs) >= size for pairs, _ in batches[:-1])
    assert sorted(seen) == list(range(n))
    assert sum(groups_seen) == len(many)
    if not shuffled:
        assert seen == list(range(n))


def test_a_batch_is_gathered_as_pairs_are_laid_out() -> None:
    labels = market(0, groups=5, shown=True)
    made = Preprocessing.fit(labels.inputs, min_count=1)
    encoded = made.encode(labels.inputs)
    pairs = np.array([3, 17, 4], np.int32)
    dense, codes, targets, weights, positions = Examples.of(encoded, labels).gathered(pairs)
    for got, expected in zip((dense, codes), laid_out(encoded), strict=True):
        np.testing.assert_array_equal(got.numpy(), expected[pairs])
    np.testing.assert_array_equal(targets.numpy(), labels.targets[pairs])
    np.testing.assert_array_equal(weights.numpy(), labels.weights[pairs])
    np.testing.assert_array_equal(positions.numpy(), [3, 1, 4])


SMALL = WideAndDeep(
    version=1, deep=(8,), embedding_dim=4, epochs=12, batch_size=128, learning_rate=0.02
)


def test_training_stops_when_the_validation_gets_no_better() -> None:
    """Labels by chance: more epochs only learn the training pairs by heart."""
    train, validation = market(0, groups=60, chance=0.5), market(1, groups=60, chance=0.5)
    line = replace(SMALL, epochs=40, patience=1, dropout=0.0)
    figures = line.fitted_class().fit(line, HEADS, train, validation, seed=0).figures
    assert figures["epochs"] == figures["best_epoch"] + 1 < 40
    losses = figures["validation_loss"]
    assert losses[figures["best_epoch"] - 1] == min(losses)
    longer = line.fitted_class().fit(line, HEADS, train, nothing(validation), seed=0).figures
    assert (longer["epochs"], longer["best_epoch"], longer["validation_loss"]) == (40, 40, [])


def test_the_position_explains_what_the_item_does_not() -> None:
    """Applied to because it stood first: the position's bias learns that, no score does."""
    rng = np.random.default_rng(0)
    labels = market(0, groups=400, shown=True)
    targets = np.zeros_like(labels.targets)
    targets[labels.positions == 0, 0] = rng.random(400) < 0.8
    targets[labels.positions == 5, 0] = rng.random(400) < 0.2
    labels = Labelled(**{**vars(labels), "targets": targets})
    line = replace(SMALL, weight_decay=0.1)
    made = line.fitted_class().fit(
        line, {"APPLY": 1.0, "DISMISS": -1.0}, labels, nothing(labels), 0
    )
    bias = made.weights["position_bias"][:, 0]
    assert bias[0] > bias[5] > bias[[1, 2, 3, 4, 6, 7]].max()
    assert not bias[GROUP:POSITIONS].any()
    scores = made.scores(labels.inputs).reshape(-1, GROUP)
    first = (scores.argmax(axis=1) == 0).mean()
    assert first < 0.3, "the pairs' order says nothing when served"


def test_a_position_in_a_group_with_drawn_pairs_says_nothing() -> None:
    labels = market(0, groups=2, shown=True)
    positions = labels.positions.copy()
    positions[3] = -1
    positions[GROUP] = 1_000
    mixed = Labelled(**{**vars(labels), "positions": positions})
    assert (shown_at(mixed)[:GROUP] == -1).all()
    assert shown_at(mixed)[GROUP:].tolist() == [POSITIONS - 1, 1, 2, 3, 4, 5, 6, 7]


def test_balanced_pairs_count_alike_and_the_probabilities_stay_right() -> None:
    train, later = market(0, groups=300), market(2, groups=100)
    assert positive_weights(replace(SMALL, balanced=True), train)[0] == GROUP - 1
    line = replace(SMALL, balanced=True, listwise=0.0, epochs=6)
    made = line.fitted_class().fit(line, HEADS, train, nothing(train), seed=0)
    means = made.probabilities(later.inputs).mean(axis=0)
    np.testing.assert_allclose(means, later.targets.mean(axis=0), atol=0.06)


def blocks(seed: int = 0) -> tuple[Labelled, np.ndarray, np.ndarray]:
    """Two halves of 24 members who like two halves of 20 items: 6 of 10 seen, the rest held."""
    rng = np.random.default_rng(seed)
    members, items = 24, 20
    likes = (np.arange(members)[:, None] % 2) == (np.arange(items)[None, :] % 2)
    seen = likes & (rng.random(likes.shape) < 0.6)
    liked = np.argwhere(seen)
    pairs, targets, groups = [], [], []
    for number, (member, item) in enumerate(np.tile(liked, (3, 1))):
        others = rng.choice(np.flatnonzero(~seen[member]), 4, replace=False)
        pairs += [(member, item), *((member, other) for other in others)]
        targets += [1, 0, 0, 0, 0]
        groups += [number] * 5
    of_member, of_item = np.array(pairs).T
    n = len(pairs)
    inputs = Inputs(
        Columns(categories={"member.id": np.arange(members).astype(object)}),
        Columns(categories={"item.id": np.arange(items).astype(object)}),
        Columns(),
        of_member,
        of_item,
    )
    labelled = Labelled(
        inputs,
        np.array(targets, np.float32)[:, None],
        np.ones(n, np.float32),
        np.array(groups),
        np.full(n, -1),
    )
    return labelled, likes, seen


def auc_of_held(scores: np.ndarray, likes: np.ndarray, seen: np.ndarray) -> float:
    """How often a liked item that was not seen stands before one that is not liked."""
    found = [
        (scores[member, likes[member] & ~seen[member]][:, None] > scores[member, ~likes[member]])
        for member in range(len(likes))
    ]
    return float(np.mean(np.concatenate([one.ravel() for one in found])))


IDS_ALONE = {"reads": ("ids",), "embedding_dim": 4, "min_count": 1, "batch_size": 128}
FACTORIZATION = WideAndDeep(
    name="mf", version=1, deep=(), weight_decay=5.0, learning_rate=0.03, epochs=15, **IDS_ALONE
)
NEURAL = WideAndDeep(
    name="ncf", version=1, deep=(16,), weight_decay=5.0, learning_rate=0.03, epochs=15, **IDS_ALONE
)


@pytest.mark.parametrize("line", [FACTORIZATION, NEURAL], ids=str)
def test_on_ids_alone_it_ranks_as_matrix_factorization_does(line: WideAndDeep) -> None:
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    labelled, likes, seen = blocks()
    ranker = line.fitted_class().fit(line, {"APPLY": 1.0}, labelled, nothing(labelled), seed=0)
    members, items = likes.shape
    every = replace(
        labelled.inputs,
        member_rows=np.repeat(np.arange(members), items),
        item_rows=np.tile(np.arange(items), members),
    )
    got = auc_of_held(ranker.scores(every).reshape(members, items), likes, seen)
    with threadpool_limits(1):
        als = AlternatingLeastSquares(factors=2, num_threads=1, random_state=0)
        als.fit(csr_matrix(seen.astype(np.float32)), show_progress=False)
    theirs = auc_of_held(als.user_factors @ als.item_factors.T, likes, seen)
    assert theirs > 0.99
    assert got > theirs - 0.03
    # The wide part alone is biases and one dot product of member and item.
    if not line.deep:
        weights, offset = ranker.weights, ranker.preprocessing.offsets
        rows = [
            [offset[side] + 1 + category.known.index(str(index)) for index in range(size)]
            for side, (category, size) in enumerate(
                zip(ranker.preprocessing.categories, likes.shape, strict=True)
            )
        ]
        mine, theirs_of = (weights["factor_table"][row] for row in rows)
        biases = [weights["linear_table"][row, 0] for row in rows]
        logits = (mine * weights["factor_heads"][:, 0]) @ theirs_of.T + weights["bias"]
        logits += biases[0][:, None] + biases[1][None, :]
        np.testing.assert_allclose(
            ranker.probabilities(every)[:, 0], 1 / (1 + np.exp(-logits.ravel())), atol=1e-5
        )


def test_groups_of_different_sizes_train() -> None:
    labels = market(0, groups=30)
    chosen = np.flatnonzero(np.random.default_rng(0).random(len(labels)) < 0.6)
    ragged = labels.take(chosen)
    many = np.diff(np.r_[np.flatnonzero(np.diff(ragged.groups, prepend=-1)), len(ragged)])
    assert len({*many.tolist()}) > 1
    assert all(one != other for one, other in pairwise(np.unique(many)))
    line = replace(SMALL, epochs=2)
    made = line.fitted_class().fit(line, HEADS, ragged, nothing(labels), seed=0)
    assert np.isfinite(made.scores(ragged.inputs)).all()
