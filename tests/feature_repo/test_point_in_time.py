"""What a training join returns for a label: what could be read online at its time."""

import shutil
from datetime import datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.spec import GeometricDecay
from serving import publish
from tests.worlds.applied import World, utc, vector
from tests.worlds.lines import AGGREGATORS

DECAY = next(line for line in AGGREGATORS if isinstance(line, GeometricDecay))
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp("world"), aggregators=[DECAY])
    publish.apply(world.config, publish.open_store(world.config), world.aggregators)
    return world


@pytest.fixture(scope="module")
def store(world):
    return publish.open_store(world.config)


@pytest.fixture
def empty(world) -> World:
    return clear(world)


def clear(world: World) -> World:
    shutil.rmtree(world.config.layout.all_embeddings, ignore_errors=True)
    shutil.rmtree(world.config.data / "items", ignore_errors=True)
    return world


def join(store, labels: list[tuple[int, int, datetime]], cutoff: bool = True, **options):
    """The training set of (member, item, time) labels, one dict per label in the given order."""
    frame = pd.DataFrame(labels, columns=["member_id", "item_id", "event_timestamp"])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    frame["label"] = range(len(frame))
    joined = store.get_historical_features(
        entity_df=frame,
        features=store.get_feature_service(DECAY.service),
        filter_by_created_timestamp=cutoff,
        **options,
    ).to_df()
    return joined.sort_values("label").to_dict("records")


def actions(count: int) -> list:
    return [(1, "APPLY", utc(1, 0, minute)) for minute in range(count)]


def test_a_label_at_two_does_not_see_the_midnight_snapshot_published_at_six(empty, store):
    empty.items("part-0", {1: utc(1)})
    empty.snapshot(utc(3), {10: actions(1)}, created=utc(3, 6))
    empty.snapshot(utc(4), {10: actions(2)}, created=utc(4, 6))
    timestamps = [utc(3, 5, 59), utc(3, 6), utc(4, 2), utc(4, 5, 59), utc(4, 6), utc(9)]
    rows = join(store, [(10, 1, timestamp) for timestamp in timestamps])
    assert [row["n_actions"] for row in rows] == [0, 1, 1, 1, 2, 2]
    expected = empty.member_vector(DECAY, "apply_embedding", 10, utc(3))
    assert list(rows[2]["apply_embedding"]) == pytest.approx(expected)
    # The trap: without the cutoff the label at 02:00 is given what was not there until 06:00.
    without = join(store, [(10, 1, timestamp) for timestamp in timestamps], cutoff=False)
    assert [row["n_actions"] for row in without] == [1, 1, 2, 2, 2, 2]


def test_a_live_run_counts_from_when_it_was_published(empty, store):
    empty.items("part-0", {1: utc(1)})
    # Written at 01:00 with the latest time it might be published at; published at 02:30.
    empty.snapshot(utc(4), {10: actions(2)}, created=utc(4, 7))
    labels = [(10, 1, utc(4, 2, 29)), (10, 1, utc(4, 2, 30))]
    assert [row["n_actions"] for row in join(store, labels)] == [0, 0]
    publish.restamp(empty.config, utc(4), utc(4, 2, 30), empty.aggregators)
    assert [row["n_actions"] for row in join(store, labels)] == [0, 2]


def test_who_or_what_is_not_there(empty, store):
    empty.items("part-0", {1: utc(1), 2: utc(6)})
    empty.snapshot(utc(3), {10: actions(1), 11: []}, created=utc(3, 6))
    unknown, item_unknown, item_later, lapsed = join(
        store, [(99, 1, utc(5)), (10, 77, utc(5)), (10, 2, utc(5)), (11, 1, utc(5))]
    )
    assert unknown["apply_embedding"] is None
    assert pd.isna(unknown["last_action_at"])
    assert (unknown["n_actions"], unknown["n_apply"]) == (0, 0)
    for row in (unknown, item_unknown, item_later, lapsed):
        assert {row[name] for name in row if name.startswith(("cosine", "dot"))} == {0.0}
    assert item_unknown["embedding"] is None
    assert item_later["embedding"] is None
    assert list(lapsed["apply_embedding"]) == [0.0] * 4
    assert lapsed["n_actions"] == 0


def test_the_match_is_of_the_vectors_at_that_time(empty, store):
    empty.items("part-0", {1: utc(1)})
    empty.snapshot(utc(3), {10: actions(1)})
    (row,) = join(store, [(10, 1, utc(4))])
    member = empty.member_vector(DECAY, "apply_embedding", 10, utc(3))
    dot = sum(a * b for a, b in zip(member, vector(1), strict=True))
    assert row["dot_apply"] == pytest.approx(dot, abs=1e-6)
    assert list(row["embedding"]) == pytest.approx(vector(1))


def test_full_feature_names(empty, store):
    empty.items("part-0", {1: utc(1)})
    empty.snapshot(utc(3), {10: actions(2)})
    (row,) = join(store, [(10, 1, utc(4))], full_feature_names=True)
    assert row["activity_match_decay_v1__n_actions"] == 2
    assert row["activity_match_decay_v1__cosine_apply"] != 0.0
    assert row["member_activity_decay_v1__stored_n_actions"] == 2


MEMBERS, DAYS = 3, 5
snapshots = st.dictionaries(
    keys=st.integers(1, DAYS),
    values=st.tuples(
        st.dictionaries(st.integers(1, MEMBERS), st.integers(0, 3), min_size=1),
        st.integers(0, 40 * 60),
    ),
    max_size=DAYS,
)
labels = st.lists(
    st.tuples(
        st.integers(1, MEMBERS + 1),
        st.just(1),
        st.integers(0, (DAYS + 2) * 24 * 60).map(lambda minutes: utc(1) + minutes * MINUTE),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(written=snapshots, asked=labels, data=st.data())
def test_every_label_gets_the_newest_snapshot_that_was_readable(world, store, written, asked, data):
    clear(world)
    world.items("part-0", {1: utc(1)})
    # Feast cannot read a folder without a file; one member is there that nobody asks for.
    days = {1: ({}, 0)} | written
    edges = []
    for day, (members, delay) in days.items():
        created = utc(day) + delay * MINUTE
        edges.append(created)
        rows = {member: actions(count) for member, count in members.items()}
        world.snapshot(utc(day), rows | {0: []}, created=created, with_stats=False)
    # Moments at which a snapshot becomes readable, exactly: the edge must count as readable.
    asked += [(data.draw(st.integers(1, MEMBERS)), 1, edge) for edge in edges]
    for (member, _, timestamp), row in zip(asked, join(store, asked), strict=True):
        readable = [
            (utc(day), members[member])
            for day, (members, delay) in days.items()
            if member in members and utc(day) + delay * MINUTE <= timestamp
        ]
        if not readable:
            assert row["apply_embedding"] is None
            assert row["n_actions"] == 0
            continue
        as_of, count = max(readable)
        assert row["n_actions"] == row["n_apply"] == count
        expected = (
            world.member_vector(DECAY, "apply_embedding", member, as_of) if count else [0.0] * 4
        )
        assert list(row["apply_embedding"]) == pytest.approx(expected)
