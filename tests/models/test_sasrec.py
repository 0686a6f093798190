"""The causal transformer over item ids: what it is taught, and that it learns an order."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation import sasrec
from models.evaluation.references import PositiveEvents
from models.evaluation.sasrec import SasRec, SasRecSettings, fit_sasrec, windows
from models.items.learning import through
from models.layers.build import layer_class
from models.spec import Transformer
from models.training import objectives

SMALL = SasRecSettings(
    length=5, units=16, heads=2, layers=1, dropout=0.0, batch_size=32, epochs=25,
    learning_rate=0.01, negatives=8,
)  # fmt: skip


def events_of(rows: list[tuple[int, int, int]]) -> PositiveEvents:
    """Events from rows of (member, item, time)."""
    rows = sorted(rows, key=lambda row: row[2])
    members, items, times = np.array(rows, np.int64).reshape(-1, 3).T
    return PositiveEvents(members, items, times)


EVENT = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 12))


@settings(max_examples=80, deadline=None)
@given(st.lists(EVENT, max_size=30), st.integers(1, 4))
def test_each_action_is_a_target_once_after_what_was_before_it(
    rows: list[tuple[int, int, int]], length: int
) -> None:
    log = events_of(rows)
    inputs, targets = windows(log, length)
    assert inputs.shape == targets.shape == (len(inputs), length)
    got = sorted(
        (int(row[column]), int(target[column]))
        for row, target in zip(inputs, targets, strict=True)
        for column in np.flatnonzero(target)
    )
    expected = []
    for member in set(log.members.tolist()):
        own = [(item, time) for m, item, time in zip(*_columns(log), strict=True) if m == member]
        for (item, time), (following, later) in pairwise(own):
            if later > time:
                expected.append((item + 1, following + 1))
    assert got == sorted(expected)
    # PAD is on the left only.
    assert all((np.diff((row > 0).astype(int)) >= 0).all() for row in inputs)


def _columns(log: PositiveEvents) -> tuple[list[int], list[int], list[int]]:
    return log.members.tolist(), log.items.tolist(), log.times.tolist()


def test_a_state_sees_nothing_later_and_no_padding() -> None:
    model = SasRec(10, SMALL)
    rows = np.array([[0, 3, 4, 5, 6]], np.int32)
    changed = np.array([[0, 3, 4, 9, 10]], np.int32)
    one, other = np.asarray(model(rows)), np.asarray(model(changed))
    np.testing.assert_allclose(one[:, :3], other[:, :3], atol=1e-6)
    assert np.abs(one[:, 3:] - other[:, 3:]).max() > 1e-3
    # More padding in front changes nothing of what a shorter history gives.
    short = model.scores(np.array([[-1, -1, -1, 2, 3]]))
    longer = model.scores(np.array([[-1, -1, -1, -1, -1, -1, 2, 3]]))
    np.testing.assert_allclose(short, longer, atol=1e-6)
    assert short.shape == (1, 10)


def test_the_catalogues_layer_is_the_same_network() -> None:
    """With its weights, and its embeddings as item vectors, it makes the state after the newest."""
    own = SasRecSettings(**(vars(SMALL) | {"layers": 2}))
    model = SasRec(10, own)
    rows = np.array([[2, 3, 4, 5, 6], [0, 0, 7, 1, 9], [0, 0, 0, 0, 10]], np.int32)
    states = np.asarray(model(rows))[:, -1]
    line = Transformer(
        version=1, units=own.units, heads=own.heads, layers=2, positions=own.length, dropout=0.0
    )
    layer = layer_class(line)({"vector": own.units}, n_actions=1, **line.parameters())
    layer.build((None, own.length, own.units), (None, own.length), (None, own.length))
    # The reads of its one action are nothing; positions count from the newest.
    layer.to_units.kernel.assign(np.eye(own.units + 2, own.units))
    layer.positions.embeddings.assign(np.asarray(model.positions.embeddings)[::-1])
    for block, of_model in zip(layer.blocks, model.blocks, strict=True):
        block.set_weights(of_model.get_weights())
    layer.norm.set_weights(model.norm.get_weights())
    layer.to_items.kernel.assign(np.eye(own.units))
    items = np.asarray(model.items.embeddings)[rows]
    (vectors,) = layer(
        items, (rows > 0).astype(np.int32), np.zeros(rows.shape, np.float32)
    ).values()
    np.testing.assert_allclose(np.asarray(vectors), states, atol=1e-5)


def test_one_rule_says_when_all_items_are_compared() -> None:
    rules = {each.compares_with_all for each in (sasrec, through, objectives)}
    assert len(rules) == 1


def test_it_learns_what_follows() -> None:
    """After item i comes i + 1, in a circle of twelve; item 12 never happens."""
    rng = np.random.default_rng(0)
    rows = [
        (member, int(start + step) % 12, 10 * member + step)
        for member, start in enumerate(rng.integers(0, 12, 120))
        for step in range(6)
    ]
    log = events_of(rows)
    for negatives in (8, 4):  # all items, and a sample of them
        own = SasRecSettings(**(vars(SMALL) | {"negatives": negatives}))
        model = fit_sasrec(log, 13, own)
        assert model.known.tolist() == [True] * 12 + [False]
        scores = model.scores(np.array([[-1, -1, -1, 3, 4], [-1, -1, -1, -1, 11]]))[:, :12]
        assert scores.argmax(axis=1).tolist() == [5, 0]
    again = fit_sasrec(log, 13, own)
    np.testing.assert_array_equal(
        np.asarray(model.items.embeddings), np.asarray(again.items.embeddings)
    )


def test_without_a_pair_of_actions_there_is_nothing_to_learn() -> None:
    model = fit_sasrec(events_of([(1, 0, 5), (2, 1, 6)]), 3, SMALL)
    assert model.known.tolist() == [True, True, False]
    assert np.isfinite(model.scores(np.array([[-1, -1, -1, -1, 0]]))).all()
