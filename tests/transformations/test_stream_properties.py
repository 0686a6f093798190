"""The stream's fold against the batch: the same events, in any order, parts and repetitions."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embed import embed_snapshot, together
from models.layers.build import build
from models.packaging import load, package
from models.sequences import ItemTable, pad
from models.spec import Average, GeometricDecay
from tests.worlds.events import (
    AS_OF,
    DAY,
    INTEGERS,
    STRINGS,
    Event,
    configure,
    event_logs,
    expected_sequences,
    write_activity,
)
from tests.worlds.stream import folded, rows
from tests.worlds.tiny_models import Learned, tiny_config, write_items
from transformations import tables
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import partition
from transformations.stream import States, differ, from_sequences, to_sequences
from transformations.timestamps import microseconds, timestamp_of

WINDOW = timedelta(days=3)
LENGTH = 4
BEFORE = AS_OF - DAY


def members_of(id_type: str) -> list[Any]:
    return (INTEGERS if id_type == "int64" else STRINGS)[-4:]


@st.composite
def deliveries(draw: st.DrawFn, id_type: str) -> tuple[list[Event], list[list[Event]], list[Any]]:
    """A log; the same log as micro-batches, shuffled and partly repeated; their timestamps."""
    log = draw(event_logs(id_type, [AS_OF, BEFORE], WINDOW))
    log = [event._replace(ingested_at=None) for event in log]
    again = draw(st.lists(st.sampled_from(log), max_size=10)) if log else []
    order = draw(st.permutations([*log, *again]))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=5)))
    bounds = [0, *cuts, len(order)]
    parts = [order[a:b] for a, b in pairwise(bounds)]
    minutes = sorted(draw(st.lists(st.integers(0, 1440), min_size=len(parts), max_size=len(parts))))
    return log, parts, [BEFORE + timedelta(minutes=minute) for minute in minutes]


def streamed(config: Config, members: list[Any], parts: Any, timestamps: Any) -> States:
    """Fold the parts, each as of its timestamp; then once more as of the batch's."""
    states = States.empty(config.rules, len(members))
    for part, timestamp in zip(parts, timestamps, strict=True):
        states = folded(config, states, part, members, timestamp).states
    return folded(config, states, [], members, AS_OF).states


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_delivery_ends_in_the_batchs_sequences(id_type: str, data: st.DataObject) -> None:
    log, parts, timestamps = data.draw(deliveries(id_type))
    members = members_of(id_type)
    with TemporaryDirectory() as folder:
        config = configure(Path(folder), id_type=id_type, window=WINDOW, length=LENGTH)
        write_activity(config, log)
        with connect(config) as con:
            tables.build_sequences(config, con, AS_OF, BEFORE, AS_OF)
        file = partition(config.layout.sequences, AS_OF)
        batch = {row.pop("member_id"): row for row in pq.ParquetFile(file).read().to_pylist()}
    for row in batch.values():
        del row["event_timestamp"], row["created_timestamp"]
    states = streamed(config, members, parts, timestamps)
    stream = rows(config, states, members, AS_OF)
    alive = {member for member, row in batch.items() if row["n_actions"]}
    assert {m: row for m, row in stream.items() if row["n_actions"]} == {
        member: batch[member] for member in alive
    }
    # A member that was seen in the window and has left it is a lapsed one to both.
    for member in stream.keys() & batch.keys() - alive:
        assert stream[member] == batch[member]


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_snapshot_and_what_came_since(id_type: str, data: st.DataObject) -> None:
    """A state made from the last snapshot, and any suffix of the stream that holds the rest."""
    log = [e._replace(ingested_at=None) for e in data.draw(event_logs(id_type, [AS_OF], WINDOW))]
    members = members_of(id_type)
    order = data.draw(st.permutations(log))
    cut = data.draw(st.integers(0, len(order)))
    replayed = data.draw(st.integers(0, cut))
    config = configure(Path("unused"), id_type=id_type, window=WINDOW, length=LENGTH)
    ids = pa.array(members)
    before = folded(config, States.empty(config.rules, 4), order[:cut], members, BEFORE).states
    snapshot = to_sequences(config.rules, ids, before, microseconds(BEFORE), BEFORE)
    # What was not before the snapshot is not in its rows: the replay must begin early enough.
    unseen = [event for event in order[:cut] if event.event_timestamp >= BEFORE]
    since = data.draw(st.permutations([*unseen, *order[replayed:]]))
    states = folded(config, from_sequences(config.rules, snapshot), since, members, AS_OF).states
    expected = expected_sequences(log, AS_OF, BEFORE, WINDOW, LENGTH)
    assert {m: r for m, r in rows(config, states, members, AS_OF).items() if r["n_actions"]} == {
        member: row for member, row in expected.items() if row["n_actions"]
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_replaying_any_suffix_changes_nothing(data: st.DataObject) -> None:
    _, parts, timestamps = data.draw(deliveries("int64"))
    config = configure(Path("unused"), window=WINDOW, length=LENGTH)
    members = members_of("int64")
    states = streamed(config, members, parts, timestamps)
    start = data.draw(st.integers(0, len(parts)))
    again = [event for part in parts[start:] for event in part]
    replayed = folded(config, states, again, members, AS_OF)
    assert not differ(states, replayed.states).any()
    assert (replayed.applied, replayed.held) == (0, 0)
    np.testing.assert_array_equal(replayed.states.last, states.last)


AGGREGATORS = (Average(version=1), GeometricDecay(version=1, decay=0.8), Learned(version=1))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Any, ItemTable, Any]:
    config = tiny_config(tmp_path_factory.mktemp("packaged"), window=WINDOW, length=LENGTH)
    rng = np.random.default_rng(1)
    long_ago = AS_OF - 100 * DAY
    # One item has no vector.
    write_items(config, [(i, rng.normal(size=2).tolist(), long_ago) for i in INTEGERS[:-1]])
    for aggregator in AGGREGATORS:
        package(aggregator, config, trained=build(aggregator, config))
    models = [load(aggregator, config) for aggregator in AGGREGATORS]
    with connect(config) as con:
        items = ItemTable.read(config, con, AS_OF)
    return config, models, items, together(models, items, config.rules)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_vectors_are_those_of_the_batch(packaged: Any, data: st.DataObject) -> None:
    config, models, items, run = packaged
    log, parts, timestamps = data.draw(deliveries("int64"))
    members = members_of("int64")
    states = streamed(config, members, parts, timestamps)
    batch = to_sequences(config.rules, pa.array(members), states, microseconds(AS_OF), AS_OF)
    vectors = run(pad(batch, items, config.rules, AS_OF))
    with TemporaryDirectory() as folder:
        # The same artifacts and items, a separate data folder for the tables.
        for name in ("artifacts", "items"):
            (Path(folder) / name).symlink_to(config.data / name)
        own = config.model_copy(update={"data_dir": folder})
        write_activity(own, log)
        with connect(own) as con:
            tables.build_sequences(own, con, AS_OF, BEFORE, AS_OF)
            embed_snapshot(own, con, AS_OF, AS_OF, AGGREGATORS)
        for model, found in zip(models, vectors, strict=True):
            file = partition(own.layout.embeddings(model.aggregator.view), AS_OF)
            for row in pq.ParquetFile(file).read().to_pylist():
                index = members.index(row["member_id"])
                for name, values in found.items():
                    np.testing.assert_allclose(values[index], row[name], atol=1e-5)


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_member_holds_a_few_actions_and_which_are_refused_is_said(
    id_type: str, data: st.DataObject
) -> None:
    """Against the rule by hand: what was held stays, then the earliest; nothing is lost unsaid."""
    members = members_of(id_type)
    config = configure(Path("unused"), id_type=id_type, window=WINDOW, length=LENGTH)
    states, held, most = States.empty(config.rules, len(members)), {}, 2
    for _ in range(data.draw(st.integers(1, 3))):
        log = data.draw(event_logs(id_type, [AS_OF, BEFORE], WINDOW))
        part = [event for event in log if event.member_id in members]
        with patch("transformations.stream.MOST_HELD", most):
            result = folded(config, states, part, members, BEFORE)
        refused = [part[index][:4] for index in result.refused.tolist()]
        expected = []
        ahead = {event[:4] for event in part if event.event_timestamp >= BEFORE}
        for event in sorted(ahead - held.keys(), key=lambda one: (one[3], one[1], one[2])):
            if sum(one[0] == event[0] for one in held) < most:
                held[event] = True
            else:
                expected.append(event)
        assert sorted(refused) == sorted(expected)
        outcomes = (result.applied, result.duplicates, result.expired, result.clipped, result.held)
        assert sum(outcomes) + len(refused) == len(part)
        states = result.states
        kept = states.held
        stamps = map(timestamp_of, kept.timestamp.tolist())
        names = [list(config.actions)[code - 1] for code in kept.code.tolist()]
        who = [members[index] for index in kept.member.tolist()]
        assert set(zip(who, kept.item.tolist(), names, stamps, strict=True)) == held.keys()
