"""Co-actions, and what is joined with them: what is learned, folded in, and never seen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from benchmarks.new_items import without_ridge
from models.items.co_actions import Basis, CoActions
from models.items.joint import Joint
from models.items.learning import svd
from models.items.learning.pairs import Pairs, Weighing
from models.items.learning.text_ridge import TextRidge
from models.items.protocol import Behaviour, Corpus, Document
from models.items.similarity import unit
from models.items.spec import CoActions as Line
from models.items.spec import Joint as JointLine
from models.items.spec import Trained as TrainedLine
from models.items.trained import Trained
from tests.models.items.worlds import PER_TOPIC, START, TOPICS, behaviour_from, market
from transformations.errors import TooFewError
from transformations.timestamps import DAY_US

LINE = Line(version=1)
DIM = 6


def topics(corpus: Corpus) -> np.ndarray:
    return np.arange(len(corpus)) // PER_TOPIC


def nearest_of_own_topic(vectors: np.ndarray, which: np.ndarray) -> float:
    """Share of these items whose nearest other item is of their topic."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    topic = np.arange(len(vectors)) // PER_TOPIC
    return float((topic[scores.argmax(axis=1)] == topic)[which].mean())


def with_more(corpus: Corpus, events: list[tuple[int, int, int, str]]) -> Corpus:
    """The corpus with more events, (member, microseconds since START, item, action)."""
    behaviour = corpus.behaviour
    assert behaviour is not None
    named = [
        (int(m), int(t) - START, int(i), behaviour.actions[c - 1])
        for m, t, i, c in zip(
            behaviour.members, behaviour.timestamps, behaviour.items, behaviour.codes, strict=True
        )
    ]
    return replace(corpus, behaviour=behaviour_from([*named, *events], behaviour.item_ids))


def test_items_of_the_same_members_are_near() -> None:
    corpus = market()
    encoder = CoActions.fit(LINE, corpus, DIM)
    vectors = encoder.encode(corpus)
    lengths = np.linalg.norm(vectors, axis=1)
    has_pairs = np.arange(len(corpus)) % PER_TOPIC < PER_TOPIC - 3
    np.testing.assert_allclose(lengths[has_pairs], 1, atol=1e-5)
    assert lengths[~has_pairs].max() < 1
    assert nearest_of_own_topic(unit(vectors), np.ones(len(corpus), bool)) > 0.9


def test_the_fits_own_rows_are_those_of_the_svd() -> None:
    """Folding in what the fit saw gives U S^(1/2)."""
    corpus = market()
    behaviour = corpus.behaviour
    assert behaviour is not None
    weighing = Weighing.of(LINE)
    basis = Basis.fit(behaviour, weighing, DIM)
    rows = np.zeros((len(corpus), len(basis.contexts)))
    for chosen, block in Pairs(behaviour, basis.contexts, weighing).rows(np.arange(len(corpus))):
        rows[chosen] = block.toarray()
    left, values, _ = np.linalg.svd(rows)
    expected = unit(left[:, :DIM] * np.sqrt(values[:DIM]))
    vectors, counts = basis.fold_in(behaviour, behaviour.item_ids)
    has_pairs = rows.any(axis=1)
    signs = np.sign((expected[has_pairs] * vectors[has_pairs]).sum(axis=0))
    np.testing.assert_allclose(vectors[has_pairs], expected[has_pairs] * signs, atol=1e-3)
    assert counts.sum() == (behaviour.signs > 0).sum()


def test_an_item_that_got_actions_since_is_folded_in_and_others_hardly_move() -> None:
    corpus = market()
    encoder = CoActions.fit(LINE, corpus, DIM)
    new = PER_TOPIC - 1  # of the first topic, without an action
    events = [
        (1_000 + m, (m * 3 + n) * DAY_US // 100, item, "APPLY")
        for m in range(4)
        for n, item in enumerate((0, new, 1))
    ]
    later = with_more(corpus, events)
    before, after = encoder.encode(corpus), encoder.encode(later)
    assert not np.allclose(before[new], after[new], atol=0.05)
    scores = after @ after[new]
    scores[new] = -1
    assert topics(corpus)[scores.argmax()] == 0
    far = slice(PER_TOPIC, None)
    assert (unit(after[far]) * unit(before[far])).sum(axis=1).min() > 0.95


def test_an_item_without_actions_has_a_vector_from_its_text() -> None:
    corpus = market(members=200)
    encoder = CoActions.fit(LINE, corpus, DIM)
    behaviour = corpus.behaviour
    assert behaviour is not None
    without = ~np.isin(np.arange(len(corpus)), behaviour.items)
    assert without.sum() == 3 * TOPICS
    assert nearest_of_own_topic(unit(encoder.encode(corpus)), without) > 0.9
    ridge = encoder.describe()["ridge"]
    assert ridge["items"] == len(corpus) - without.sum()
    assert ridge["cosine"] > 0.5
    assert 0 < ridge["overlap_at_10"] <= 1
    assert not encoder.encode(Corpus([Document("zebra", None)])).any()


def test_without_texts_an_item_without_actions_has_zeros() -> None:
    corpus = market()
    silent = replace(corpus, documents=[Document(None, None)] * len(corpus))
    encoder = CoActions.fit(LINE, silent, DIM)
    vectors = encoder.encode(silent)
    assert encoder.describe()["ridge"] is None
    assert (~vectors.any(axis=1)).sum() == 3 * TOPICS


def test_the_ridge_can_be_left_out_to_measure_what_it_is_worth() -> None:
    corpus = market()
    with_ridge = CoActions.fit(LINE, corpus, DIM).encode(corpus)
    with without_ridge():
        encoder = CoActions.fit(LINE, corpus, DIM)
    vectors = encoder.encode(corpus)
    acted_on = vectors.any(axis=1)
    assert encoder.describe()["ridge"] is None
    assert (~acted_on).sum() == 3 * TOPICS
    assert with_ridge.any(axis=1).all()
    np.testing.assert_array_equal(vectors[acted_on], with_ridge[acted_on])


def test_joint_leans_on_text_where_actions_are_few() -> None:
    corpus = market(members=200)
    encoder = Joint.fit(JointLine(version=1), corpus, DIM)
    vectors = encoder.encode(corpus)
    assert nearest_of_own_topic(vectors, np.ones(len(corpus), bool)) > 0.9
    alone = encoder.encode(Corpus(corpus.documents))
    behaviour = corpus.behaviour
    assert behaviour is not None
    counts = np.bincount(behaviour.items[behaviour.signs > 0], minlength=len(corpus))
    likeness = (vectors * alone).sum(axis=1)
    np.testing.assert_allclose(likeness[counts == 0], 1, atol=1e-5)
    assert likeness[counts > 10].mean() < 0.99
    assert encoder.describe()["text_alone"]["items"] == (counts > 0).sum()


def test_joint_without_texts_says_what_needs_none() -> None:
    corpus = market()
    silent = replace(corpus, documents=[Document(None, None)] * len(corpus))
    with pytest.raises(TooFewError, match=r"no two of 60 items share.*CoActions needs none"):
        Joint.fit(JointLine(version=1), silent, DIM)


# Nothing from the future, and nothing within one timestamp.

FITS: list[tuple[Any, Any]] = [
    (CoActions, LINE),
    (Joint, JointLine(version=1)),
    (Trained, TrainedLine(version=1, epochs=1)),
]
each_fit = pytest.mark.parametrize(("kind", "line"), FITS, ids=[str(line) for _, line in FITS])


@each_fit
def test_a_planted_later_event_changes_no_byte_of_a_fit(kind: Any, line: Any) -> None:
    corpus = market()
    until = START + 50 * DAY_US
    planted = with_more(
        corpus,
        [
            (3, 50 * DAY_US, 7, "APPLY"),
            (3, 50 * DAY_US + 5, 20, "SAVE"),
            (999, 60 * DAY_US, 59, "SAVE"),
        ],
    )

    def fitted(given: Corpus) -> bytes:
        assert given.behaviour is not None
        return bytes(
            kind.fit(line, replace(given, behaviour=given.behaviour.before(until)), DIM).to_bytes()
        )

    assert fitted(planted) == fitted(corpus)


@each_fit
def test_the_order_of_the_behaviours_items_changes_no_byte_of_a_fit(kind: Any, line: Any) -> None:
    """It follows from what was read with them, also what is not seen."""
    corpus = market()
    behaviour = corpus.behaviour
    assert behaviour is not None
    order = np.random.default_rng(0).permutation(len(corpus))
    place = np.argsort(order)
    other = replace(
        behaviour,
        items=place[behaviour.items].astype(np.int32),
        item_ids=behaviour.item_ids.take(pa.array(order)),
    )
    again = kind.fit(line, replace(corpus, behaviour=other), DIM)
    assert again.to_bytes() == kind.fit(line, corpus, DIM).to_bytes()


def test_a_basket_teaches_nothing() -> None:
    """All actions of each member have one timestamp: no order, no pair."""
    corpus = market()
    behaviour = corpus.behaviour
    assert behaviour is not None
    at_once = replace(behaviour, timestamps=np.full(len(behaviour), START))
    with pytest.raises(TooFewError, match=r"one after the other.* give 0 such items"):
        CoActions.fit(LINE, replace(corpus, behaviour=at_once), DIM)


# The parts.


def blocks_of(matrix: np.ndarray, size: int) -> list[sparse.csr_array]:
    return [
        sparse.csr_array(matrix[start : start + size].astype(np.float32))
        for start in range(0, len(matrix), size)
    ]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 30),
    dim=st.integers(1, 8),
    seed=st.integers(0, 99),
)
@example(rows=7, columns=8, dim=7, seed=19)  # the last is 0.0022 of the first
def test_the_svd_is_numpys(rows: int, columns: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < 0.4)
    values, vectors = svd.largest(blocks_of(matrix, 7), columns, dim)
    expected = np.linalg.svd(matrix, compute_uv=False)
    # What is smaller counts as a lower rank, give or take the rounding of float32.
    found = int((expected**2 > 1.1 * svd.RANK * expected[0] ** 2).sum())
    assert len(values) >= min(found, dim)
    np.testing.assert_allclose(values, expected[: len(values)], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.norm(matrix @ vectors, axis=0), values, rtol=1e-3, atol=1e-5
    )


def test_the_svd_of_a_larger_matrix_is_numpys() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(900, 40)), rng.normal(size=(40, 700))
    matrix = (left * np.geomspace(1, 0.2, 40)) @ right * (rng.random((900, 700)) < 0.3)
    values, _ = svd.largest(blocks_of(matrix, 200), 700, 16)
    expected = np.linalg.svd(matrix.astype(np.float32), compute_uv=False)[:16]
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_ridge_finds_a_linear_map_and_leaves_zeros() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8)).astype(np.float32)
    vectors = unit(features @ rng.normal(size=(8, 4)))
    features[:3] = 0.0
    ridge = TextRidge.fit(features, vectors)
    assert ridge is not None
    assert ridge.figures["cosine"] > 0.95
    assert ridge.figures["items"] == 297
    predicted = ridge.predict(features)
    assert not predicted[:3].any()
    assert (unit(predicted) * vectors).sum(axis=1)[3:].mean() > 0.95
    assert TextRidge.fit(features[:9], vectors[:9]) is None


def test_behaviour_of_no_action_folds_nothing_in() -> None:
    corpus = market()
    encoder = CoActions.fit(LINE, corpus, DIM)
    behaviour = corpus.behaviour
    assert isinstance(behaviour, Behaviour)
    nothing = replace(corpus, behaviour=behaviour.before(0))
    vectors, counts = encoder.basis.fold_in(behaviour.before(0), behaviour.item_ids)
    assert not vectors.any()
    assert not counts.any()
    np.testing.assert_allclose(
        encoder.encode(nothing), encoder.encode(Corpus(corpus.documents)), atol=1e-6
    )
