"""Items as words, factors of members and items, keywords: what they see, and what they never do."""

from collections import Counter
from dataclasses import replace
from typing import Any

import networkx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.items.factors import Factors
from models.items.keywords import Keywords, text_rank
from models.items.protocol import Corpus, Document
from models.items.similarity import unit
from models.items.skip_gram import SkipGram, sentences_of
from models.items.spec import Factors as FactorsLine
from models.items.spec import Keywords as KeywordsLine
from models.items.spec import SkipGram as SkipGramLine
from tests.models.items.test_co_actions import nearest_of_own_topic, with_more
from tests.models.items.worlds import (
    ACTIONS,
    PER_TOPIC,
    START,
    TOPICS,
    WORDS,
    Event,
    behaviour_from,
    market,
)
from transformations.errors import InputError, TooFewError
from transformations.timestamps import DAY_US

IDS = pa.array([f"i{n}" for n in range(6)])
MINUTE = 60_000_000
HISTORIES = SkipGramLine(version=1, sentences="histories", epochs=30, subsample=0.0)
DIM = 6

EVENTS = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.sampled_from([minutes * MINUTE for minutes in (0, 10, 29, 40, 59, 100, 130)]),
        st.integers(0, 5),
        st.sampled_from(ACTIONS),
    ),
    max_size=25,
    unique=True,
)


def brute_sentences(events: list[Event], gap: float, only_positive: bool) -> Counter[Any]:
    """The n-th action of each timestamp of a session, oldest first."""
    found: Counter[Any] = Counter()
    for member in {event[0] for event in events}:
        row = sorted((t, i, ACTIONS.index(a)) for m, t, i, a in events if m == member)
        sessions: list[list[tuple[int, int, int]]] = []
        for n, action in enumerate(row):
            if n == 0 or action[0] - row[n - 1][0] >= gap * MINUTE:
                sessions.append([])
            sessions[-1].append(action)
        for session in sessions:
            kept = [(t, i) for t, i, a in session if a < 2 or not only_positive]
            columns: dict[int, list[int]] = {}
            for t, i in kept:
                columns.setdefault(t, []).append(i)
            for n in range(max(map(len, columns.values()), default=0)):
                sentence = tuple(own[n] for own in columns.values() if n < len(own))
                if len(sentence) > 1:
                    found[sentence] += 1
    return found


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, gap=st.sampled_from([15.0, 30.0, np.inf]), only_positive=st.booleans())
def test_sentences_are_sessions_in_which_no_timestamp_stands_twice(
    events: list[Event], gap: float, only_positive: bool
) -> None:
    sentences = sentences_of(behaviour_from(events, IDS), gap, only_positive)
    got = Counter(tuple(sentence.tolist()) for sentence in sentences)
    assert got == brute_sentences(events, gap, only_positive)


def test_a_set_without_sessions_is_told_what_to_do() -> None:
    """Actions of the market are hours apart."""
    with pytest.raises(TooFewError, match=r"got 0 in 0; a set without.*sentences='histories'"):
        SkipGram.fit(SkipGramLine(version=1, session_gap=1.0), market(), DIM)


FITS: list[tuple[Any, Any]] = [
    (SkipGram, HISTORIES),
    (Factors, FactorsLine(version=1)),
    (Factors, FactorsLine(version=1, algorithm="bpr", iterations=100)),
]
each_fit = pytest.mark.parametrize(("kind", "line"), FITS, ids=["skip_gram", "als", "bpr"])


@each_fit
def test_items_of_the_same_members_are_near(kind: Any, line: Any) -> None:
    corpus = market(members=300)
    vectors = kind.fit(line, corpus, DIM).encode(corpus)
    has_actions = np.arange(len(corpus)) % PER_TOPIC < PER_TOPIC - 3
    lengths = np.linalg.norm(vectors[has_actions], axis=1)
    if line.similarity == "cosine":
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
    else:  # what was fitted for the dot product keeps its lengths
        assert np.ptp(lengths) > 0.1
    assert nearest_of_own_topic(unit(vectors), has_actions) > 0.6


@each_fit
def test_a_planted_later_event_changes_no_byte_of_a_fit(kind: Any, line: Any) -> None:
    corpus = market()
    until = START + 50 * DAY_US
    later: list[Event] = [(3, 50 * DAY_US, 7, "APPLY"), (999, 60 * DAY_US, 59, "SAVE")]

    def fitted(given: Corpus) -> bytes:
        assert given.behaviour is not None
        known = replace(given, behaviour=given.behaviour.before(until))
        return bytes(kind.fit(line, known, DIM).to_bytes())

    assert fitted(with_more(corpus, later)) == fitted(corpus)


@each_fit
def test_the_fits_items_stay_and_a_new_one_stands_among_its_neighbours(
    kind: Any, line: Any
) -> None:
    corpus = market(members=300)
    encoder = kind.fit(line, corpus, DIM)
    new = PER_TOPIC - 1
    events: list[Event] = [
        (2_000 + m, (n + 1) * DAY_US, item, "SAVE")
        for m in range(5)
        for n, item in enumerate((m, new, m + 1))
    ]
    before, after = encoder.encode(corpus), encoder.encode(with_more(corpus, events))
    stay = np.arange(len(corpus)) != new
    np.testing.assert_array_equal(after[stay], before[stay])
    neighbours = before[:6].mean(axis=0)
    length = np.linalg.norm(after[new])
    assert after[new] @ neighbours / np.linalg.norm(neighbours) / length > 0.7
    if line.similarity == "cosine":
        assert length == pytest.approx(1)
    else:  # a mean is no longer than the longest
        assert 0 < length < np.linalg.norm(before[:6], axis=1).max()


def test_confidence_names_actions() -> None:
    corpus = market()
    plain = Factors.fit(FactorsLine(version=1), corpus, DIM)
    sure = Factors.fit(FactorsLine(version=1, confidence=(("APPLY", 20.0),)), corpus, DIM)
    assert not np.allclose(plain.encode(corpus), sure.encode(corpus), atol=0.01)
    with pytest.raises(InputError, match="among APPLY, SAVE, DISMISS, got VIEW"):
        Factors.fit(FactorsLine(version=1, confidence=(("VIEW", 2.0),)), corpus, DIM)


def test_confidence_is_multiplied_by_a_number_that_actions_carry() -> None:
    """Against a line whose actions count that much; one without a number counts as it does."""
    corpus = market()
    assert corpus.behaviour is not None
    line = FactorsLine(version=1, confidence=(("APPLY", 2.0),), confidence_by="rating")
    of_action = np.where(corpus.behaviour.codes == 1, 5.0, np.nan)
    numbered = replace(corpus, behaviour=replace(corpus.behaviour, numbers=of_action))
    as_much = Factors.fit(FactorsLine(version=1, confidence=(("APPLY", 10.0),)), corpus, DIM)
    got = Factors.fit(line, numbered, DIM).encode(corpus)
    np.testing.assert_array_equal(got, as_much.encode(corpus))
    # What counts 0 is as if it were not there: here all saves and half of the applications.
    less = np.where(np.arange(len(of_action)) % 2 > 0, 5.0, 0.0)
    less[corpus.behaviour.codes != 1] = -1.0
    some = replace(corpus.behaviour, numbers=less)
    there = replace(some.take((less > 0) | (some.signs < 0)), numbers=None)
    np.testing.assert_array_equal(
        Factors.fit(line, replace(corpus, behaviour=some), DIM).basis.projection,
        Factors.fit(
            FactorsLine(version=1, confidence=(("APPLY", 10.0),)),
            replace(corpus, behaviour=there),
            DIM,
        ).basis.projection,
    )


def test_a_setting_that_bpr_does_not_read_is_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"confidence": (("APPLY", 2.0),)},
        {"confidence_by": "rating"},
    ]
    for setting in wrong:
        with pytest.raises(InputError, match=r"expected none with algorithm='bpr'"):
            FactorsLine(version=1, algorithm="bpr", **setting)


def test_a_later_setting_is_no_difference_to_a_fit_without_it() -> None:
    assert "confidence_by" not in FactorsLine(version=1).parameters()
    line = FactorsLine(version=1, confidence_by="rating")
    assert line.parameters()["confidence_by"] == "rating"


# Keywords.


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    reach=st.integers(1, 4),
    damping=st.floats(0.1, 0.95),
)
@example(text=[0, 1, 2], reach=1, damping=0.9453125)  # more than 200 steps
def test_text_rank_is_networkxs_pagerank(text: list[int], reach: int, damping: float) -> None:
    _, places = np.unique(text, return_inverse=True)
    graph = networkx.Graph()
    graph.add_nodes_from(range(int(places.max()) + 1))
    for n, one in enumerate(places.tolist()):
        for other in places[n + 1 : n + 1 + reach].tolist():
            if one != other:
                count = graph.get_edge_data(one, other, {"weight": 0})["weight"]
                graph.add_edge(one, other, weight=count + 1)
    expected = networkx.pagerank(graph, alpha=damping, tol=1e-10, max_iter=1_000)
    got = text_rank(places, reach, damping)
    np.testing.assert_allclose(got, [expected[n] for n in range(len(got))], atol=1e-6)


KEYWORDS = KeywordsLine(version=1, epochs=40, keywords=3)


def test_keywords_are_few_and_weigh_what_is_rare_more() -> None:
    documents = [
        Document(f"the {WORDS[n % TOPICS]} the {WORDS[n % TOPICS]} the", []) for n in range(40)
    ]
    encoder = Keywords.fit(KEYWORDS, Corpus(documents), 4)
    found = encoder.keywords(documents[0])
    assert len(found) == 3
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert {"red", "fish"} <= found.keys()
    assert encoder.keywords(Document("zebra", None)) == {}


def test_items_with_like_keywords_are_near_and_alike() -> None:
    corpus = market()
    encoder = Keywords.fit(KEYWORDS, corpus, DIM)
    vectors = encoder.encode(corpus)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert nearest_of_own_topic(vectors, np.ones(len(corpus), bool)) > 0.9
    one, same, other = (corpus.documents[n] for n in (0, 1, PER_TOPIC))
    assert encoder.similarity(one, one) == pytest.approx(1, abs=1e-5)
    assert encoder.similarity(one, same) > encoder.similarity(one, other)
    assert encoder.similarity(one, other) == pytest.approx(encoder.similarity(other, one))
    assert encoder.similarity(one, Document(None, None)) == 0.0
