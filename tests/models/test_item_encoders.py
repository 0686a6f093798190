"""The contract of item encoders: every kind of line is enrolled."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from models.items.protocol import Behaviour, Corpus, Document
from models.items.spec import Given, ItemEncoder, TfidfSvd, fitted_class, kind_of
from tests.worlds.encoders import DIM, LINES, corpus
from transformations.errors import InputError, TooFewError

line_ids = [str(line) for line in LINES]


@pytest.fixture(params=LINES, ids=line_ids)
def line(request: pytest.FixtureRequest) -> ItemEncoder:
    chosen: ItemEncoder = request.param
    return chosen


def test_every_kind_that_is_fitted_is_enrolled() -> None:
    def below(cls: type[ItemEncoder]) -> set[type[ItemEncoder]]:
        return {cls, *(one for child in cls.__subclasses__() for one in below(child))}

    kinds = {one for one in below(ItemEncoder) if one.encoder is not None}
    assert {one for one in kinds if one.__module__ == "models.items.spec"} == {
        type(line) for line in LINES
    }


def test_vectors_are_finite_float32_of_the_dimension(line: ItemEncoder) -> None:
    given = corpus()
    encoder = fitted_class(line.kind).fit(line, given, DIM)
    vectors = encoder.encode(given)
    assert (encoder.dim, vectors.shape, vectors.dtype) == (DIM, (len(given), DIM), np.float32)
    assert np.isfinite(vectors).all()
    assert vectors.any()
    assert encoder.encode(Corpus([])).shape == (0, DIM)
    assert not encoder.encode(Corpus([Document(None, None)])).any()


def test_a_vector_does_not_depend_on_the_other_items_of_the_call(line: ItemEncoder) -> None:
    given = corpus()
    encoder = fitted_class(line.kind).fit(line, given, DIM)
    together = encoder.encode(given)
    for index in range(len(given)):
        alone = encoder.encode(part(given, [index]))
        np.testing.assert_allclose(alone[0], together[index], atol=1e-6)


def part(given: Corpus, chosen: Sequence[int]) -> Corpus:
    assert given.ids is not None
    assert given.available_at is not None
    return Corpus(
        [given.documents[index] for index in chosen],
        given.ids.take(pa.array(chosen)),
        given.available_at[list(chosen)],
        given.behaviour,
    )


def test_the_same_corpus_gives_the_same_bytes_which_read_back_whole(line: ItemEncoder) -> None:
    given, made_by = corpus(), fitted_class(line.kind)
    encoder = made_by.fit(line, given, DIM)
    again = made_by.from_bytes(encoder.to_bytes())
    np.testing.assert_array_equal(again.encode(given), encoder.encode(given))
    assert (again.dim, again.describe()) == (encoder.dim, encoder.describe())
    assert again.to_bytes() == encoder.to_bytes() == made_by.fit(line, given, DIM).to_bytes()


def test_what_it_says_of_itself_is_json_and_leaves_the_manifests_keys_alone(
    line: ItemEncoder,
) -> None:
    described = fitted_class(line.kind).fit(line, corpus(), DIM).describe()
    assert json.loads(json.dumps(described)) == described
    taken = {"name", "version", "fit", "kind", "settings", "dim", "text", "categories"}
    taken |= {"fit_before", "items", "actions", "sha256", "libraries"}
    assert not taken & described.keys()


def test_too_little_is_refused_with_a_word(line: ItemEncoder) -> None:
    given = corpus()
    nothing = Corpus([], given.ids[:0], given.available_at[:0], given.behaviour.before(0))
    three = replace(part(given, [0, 1, 2]), behaviour=given.behaviour.before(0))
    for little in (nothing, three):
        with pytest.raises(TooFewError):
            fitted_class(line.kind).fit(line, little, DIM)


def test_a_text_alone_gets_a_vector_where_there_is_text(line: ItemEncoder) -> None:
    """As of a search, or of an item that was posted a minute ago."""
    encoder = fitted_class(line.kind).fit(line, corpus(), DIM)
    assert encoder.encode(Corpus([Document("data engineer", [])])).any()


def test_names_and_versions() -> None:
    assert str(TfidfSvd(version=3)) == "tfidf_svd_v3"
    assert str(TfidfSvd(version=1).in_fit(2)) == "tfidf_svd_v1_f2"
    assert Given(name="minilm", version=1, column="v").parameters() == {
        "column": "v",
        "similarity": "cosine",
    }
    for wrong in ({"version": 0}, {"version": 1, "name": "No-Name"}):
        with pytest.raises(InputError, match="expected"):
            TfidfSvd(**wrong)
    with pytest.raises(InputError, match=r"of the kind .*tfidf_svd.*, got 'magic'"):
        kind_of("magic")


def test_behaviour_before_a_moment() -> None:
    behaviour = corpus().behaviour
    assert behaviour is not None
    moment = int(np.median(behaviour.timestamps))
    earlier = behaviour.before(moment)
    assert isinstance(earlier, Behaviour)
    assert (earlier.timestamps < moment).all()
    assert len(earlier) == int((behaviour.timestamps < moment).sum())
