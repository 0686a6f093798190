"""The vector at request time is the batch's; it is compiled once and renewed without a pause."""

import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from models.spec import Aggregator, GeometricDecay
from serving.request.models import SIZES
from serving.request.sequences import Event
from serving.request.vectors import Embedded, RequestTime
from tests.worlds.applied import utc, vector
from tests.worlds.events import ACTIONS, MICROSECOND
from tests.worlds.events import Event as Row
from tests.worlds.request import DAY, LINES, NOW, PLAIN, SNAPSHOT, RequestWorld, package_line
from tests.worlds.tiny_models import write_items
from transformations.errors import InputError, RunFailedError
from transformations.names import SEQUENCE_VIEW

SECOND = timedelta(seconds=1)
HALF = GeometricDecay(version=2, decay=0.5)
TOLERANCE = 1e-5
# An example holds many members, and a batch of all of them takes a second: no shrinking.
few = settings(max_examples=4, deadline=None, phases=[Phase.generate])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestWorld]:
    with RequestWorld(tmp_path_factory.mktemp("whole")) as world:
        yield world


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestWorld]:
    with RequestWorld(tmp_path_factory.mktemp("text"), "string") as world:
        yield world


def event(row: Row) -> Event:
    return Event(*row[:4])


def agree(
    got: Embedded,
    members: Sequence[Any],
    expected: dict[Any, Any],
    lines: Sequence[Aggregator] = LINES,
) -> None:
    """The request's vectors and counts are those of the batch's rows; none means all PAD."""
    for index, member in enumerate(members):
        rows = expected.get(member)
        if rows is None:
            assert got.columns["n_actions"][index] == 0
            continue
        # Whatever is made of a sequence alone, as statistics are, is the batch's with it.
        sequence = got.sequences.slice(index, 1).to_pylist()[0]
        for name in ("item_ids", "actions"):
            assert sequence[name] == rows[SEQUENCE_VIEW][name]
        for line in lines:
            row = rows[line.view]
            for field, vectors in got.vectors[line.view].items():
                np.testing.assert_allclose(vectors[index], row[field], atol=TOLERANCE)
            assert got.model_versions[line.view] == row["model_version"]
        for name in (name for name in got.columns if name.startswith("n_")):
            assert got.columns[name][index] == row[name]
        if row["n_actions"]:
            last = got.columns["last_action_at"][index].item().replace(tzinfo=UTC)
            assert last.replace(microsecond=0) == row["last_action_at"].replace(microsecond=0)


def logs(offsets: Sequence[timedelta], around: Sequence[datetime]) -> st.SearchStrategy[Any]:
    """Draw (member's index, item, action, timestamp), around the edges of windows."""
    timestamp = st.builds(
        lambda edge, steps, offset: edge + steps * SECOND + offset,
        st.sampled_from(around),
        st.integers(-3, 3) | st.integers(-40 * 86_400, 86_400),
        st.sampled_from(offsets),
    )
    action = st.tuples(st.integers(0, 15), st.integers(1, 7), st.sampled_from(ACTIONS), timestamp)
    return st.lists(action, max_size=200)


def rows(world: RequestWorld, members: Sequence[Any], drawn: Sequence[Any]) -> list[Row]:
    return [Row(members[index], world.name(i), action, at) for index, i, action, at in drawn]


EDGES = (SNAPSHOT, NOW, SNAPSHOT - 28 * DAY, NOW - 28 * DAY)


@pytest.mark.parametrize("ids", ["whole", "text"])
@few
@given(data=st.data())
def test_a_request_is_the_batch_for_the_same_events(
    request: pytest.FixtureRequest, ids: str, data: st.DataObject
) -> None:
    """Whole seconds: late events, duplicates, events at and after as_of, expired ones, ties."""
    world = request.getfixturevalue(ids)
    members = world.members(16)
    known = rows(world, members, data.draw(logs([timedelta(0)], EDGES)))
    new = rows(world, members, data.draw(logs([timedelta(0)], EDGES)))
    again = data.draw(st.lists(st.sampled_from(known), max_size=5)) if known else []
    world.publish(known)
    got = world.requests.embed(members, [event(row) for row in new + again], NOW)
    # What the store's snapshot could not see yet, the batch must not be told of either.
    seen = [row for row in known if row.event_timestamp < SNAPSHOT]
    agree(got, members, world.batch([*seen, *new, *again]))
    assert got.held_back == len({row for row in new + again if row.event_timestamp >= NOW})


@few
@given(data=st.data())
def test_parts_of_a_second_change_no_order(whole: RequestWorld, data: st.DataObject) -> None:
    """Microseconds: the store cuts them off, and yet the vectors are the batch's."""
    members = whole.members(16)
    parts = [timedelta(0), MICROSECOND, 500_000 * MICROSECOND, 999_999 * MICROSECOND]
    known = rows(whole, members, data.draw(logs(parts, EDGES)))
    later = [SNAPSHOT + 4 * SECOND, NOW - 4 * SECOND]
    new = [
        row
        for row in rows(whole, members, data.draw(logs(parts, later)))
        if row.event_timestamp >= SNAPSHOT
    ]
    whole.publish(known)
    seen = [row for row in known if row.event_timestamp < SNAPSHOT]
    again = [event(row) for row in seen]
    got = whole.requests.embed(members, [*again, *map(event, new)], NOW)
    batch = whole.batch([*seen, *new])
    # An action is up to a second older than it was: as the catalogue's learned line begins, that
    # is nothing; where a vector grows with the ages, it is a second's worth.
    agree(got, members, batch, LINES[:-1])
    aged = LINES[-1].view
    for index, member in enumerate(members):
        if member in batch:
            (vectors,) = got.vectors[aged].values()
            expected = batch[member][aged]["activity_embedding"]
            np.testing.assert_allclose(vectors[index], expected, atol=50 / 86_400)


def act(member: Any, item: Any = 1, action: str = "APPLY", at: datetime = SNAPSHOT - DAY) -> Row:
    return Row(member, item, action, at)


def test_by_hand(whole: RequestWorld) -> None:
    """Two stored actions, a new one, an expired one, and one in the future."""
    ann, bob = whole.members(2)
    old = SNAPSHOT - 28 * DAY  # in the snapshot's window, not in that of now
    whole.publish([act(ann, 1, at=old), act(ann, 2), act(bob, 3, "SAVE")])
    new = [act(ann, 4, at=NOW - SECOND), act(ann, 3, at=NOW), act(ann, 2)]
    got = whole.requests.embed([ann, bob], [event(row) for row in new], NOW)
    average = got.vectors["member_activity_average_v1"]
    expected = (np.array(vector(2)) + vector(4)) / 2
    np.testing.assert_allclose(average["apply_embedding"][0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(average["save_embedding"], [[0] * 4, vector(3)], atol=TOLERANCE)
    assert got.columns["n_actions"].tolist() == [2, 1]
    assert got.columns["n_save"].tolist() == [0, 1]
    assert got.held_back == 1
    assert got.columns["last_action_at"].tolist()[0] == (NOW - SECOND).replace(tzinfo=None)
    assert got.sequence_at.tolist() == [SNAPSHOT.replace(tzinfo=None)] * 2


def test_an_items_vector_is_that_of_as_of(whole: RequestWorld) -> None:
    (member,) = whole.members(1)
    whole.publish([act(member, 5)])
    for as_of, word in ((SNAPSHOT, 5), (utc(4, 11), 5), (utc(4, 12), "new")):
        got = whole.requests.embed([member], as_of=as_of).vectors["member_activity_average_v1"]
        np.testing.assert_allclose(got["apply_embedding"], [vector(word)], atol=TOLERANCE)


def test_who_is_unknown_has_the_vector_of_nothing(whole: RequestWorld) -> None:
    here, nobody, gone = whole.members(3)
    whole.publish([act(here, 2), act(gone, 2, at=SNAPSHOT - 28 * DAY - SECOND)])
    got = whole.requests.embed([nobody, here, nobody, gone])
    assert got.columns["n_actions"].tolist() == [0, 0, 0, 0]  # as of now, long after NOW
    got = whole.requests.embed([nobody, here, nobody, gone], as_of=NOW)
    assert got.columns["n_actions"].tolist() == [0, 1, 0, 0]
    assert np.isnat(got.sequence_at).tolist() == [True, False, True, False]
    assert np.isnat(got.columns["last_action_at"]).tolist() == [True, False, True, False]
    for fields in got.vectors.values():
        for vectors in fields.values():
            np.testing.assert_array_equal(vectors[0], vectors[2])
            np.testing.assert_allclose(vectors[0], vectors[3], atol=TOLERANCE)
    (learned,) = got.vectors[LINES[-1].view].values()
    assert not np.allclose(learned[0], learned[1])


def test_what_cannot_be_answered_is_named(whole: RequestWorld) -> None:
    member, other = whole.members(2)
    whole.publish([act(member)])
    embed = whole.requests.embed
    with pytest.raises(InputError, match="expected at least one member"):
        embed([])
    with pytest.raises(InputError, match=f"requested members, got one of {other}"):
        embed([member], [event(act(other))])
    with pytest.raises(InputError, match="among APPLY, SAVE, DISMISS, got 'LIKE'"):
        embed([member], [event(act(member, action="LIKE"))])
    with pytest.raises(InputError, match="item_id: expected int64 ids, got '07'"):
        embed([member], [event(act(member, "07"))])
    with pytest.raises(InputError, match=r"as_of of 2026-03-04T00:00:00\.000000 UTC or later"):
        embed([member], as_of=SNAPSHOT - SECOND)
    with pytest.raises(InputError, match="member_id: expected int64 ids, got 'member'"):
        embed(["member"])


def test_nothing_is_traced_after_the_first_request_could_come(whole: RequestWorld) -> None:
    """One graph per size, made when it was opened, whatever sizes are asked for."""
    requests = whole.open()
    assert requests.traces == len(SIZES)
    for members in (1, 2, 8, 9, 64, 65, 130):
        got = requests.embed(whole.members(members))
        shapes = {v.shape for fields in got.vectors.values() for v in fields.values()}
        assert shapes == {(members, 4)}
    assert requests.traces == len(SIZES)
    requests.close()


def test_threads_get_what_one_gets(whole: RequestWorld) -> None:
    members = whole.members(40)
    whole.publish([act(m, 1 + m % 6, ACTIONS[m % 3], utc(3, m % 24)) for m in members])
    alone = {m: whole.requests.embed([m], as_of=NOW) for m in members}

    def ask(member: Any) -> bool:
        got = whole.requests.embed([member, members[0]], [event(act(member, 2, at=utc(4)))], NOW)
        plain = whole.requests.embed([member], as_of=NOW)
        return got.columns["n_actions"][0] == 2 and all(
            np.allclose(vectors, plain.vectors[view][field])
            for view, fields in alone[member].vectors.items()
            for field, vectors in fields.items()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, members * 3))


def test_redis_answers_the_same(whole: RequestWorld, tmp_path: Path, redis_server: str) -> None:
    rows_ = [act(m, 1 + m % 4, ACTIONS[m % 3], utc(3, 0, m % 60)) for m in range(1, 6)]
    rows_ += [act(1, 4, "SAVE", utc(3, 0, 1, 7))]
    asked = ([1, 2, 3, 4, 5, 6], [event(act(2, 1, at=utc(4, 1)))], NOW)
    with RequestWorld(tmp_path, redis=redis_server, lines=PLAIN[1:]) as other:
        other.publish(rows_)
        got = other.requests.embed(*asked)
    whole.publish(rows_)
    expected = whole.requests.embed(*asked)
    for view, fields in got.vectors.items():
        for name, vectors in fields.items():
            np.testing.assert_allclose(expected.vectors[view][name], vectors, atol=1e-6)
    assert got.columns["n_actions"].tolist() == [2, 2, 1, 1, 1, 0]


# What is new is served without a restart.


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[RequestWorld]:
    """A separate small world, with two lines and a member who applied to item 1."""
    with RequestWorld(tmp_path, lines=PLAIN[:1]) as world:
        world.publish([act(7)])
        yield world


def apply_vector(requests: RequestTime, view: str = "member_activity_average_v1") -> list[float]:
    found: list[float] = requests.embed([7], as_of=NOW).vectors[view]["apply_embedding"][0].tolist()
    return found


def test_new_item_parts_and_new_lines_are_taken_between_two_requests(busy: RequestWorld) -> None:
    assert not busy.requests.refresh()
    write_items(busy.config, [(1, vector("newer"), utc(5))], "part-b")
    assert apply_vector(busy.requests) == vector(1)
    assert busy.requests.refresh()
    assert apply_vector(busy.requests) == vector("newer")
    assert busy.requests.traces == len(SIZES)  # new items need no new graph

    busy.lines = (*PLAIN[:1], HALF)
    assert not busy.requests.refresh()  # not packaged yet
    package_line(busy.world, HALF)
    assert busy.requests.refresh()
    assert apply_vector(busy.requests, HALF.view) == vector("newer")
    assert not busy.requests.refresh()

    shutil.rmtree(HALF.artifact(busy.config))  # gone, to be made again: served on meanwhile
    assert not busy.requests.refresh()
    assert apply_vector(busy.requests, HALF.view) == vector("newer")
    busy.lines = PLAIN[:1]  # the line itself is gone
    assert busy.requests.refresh()
    assert list(busy.requests.embed([7]).vectors) == [PLAIN[0].view]


def test_what_fails_to_load_leaves_what_was(busy: RequestWorld) -> None:
    busy.lines = (HALF,)
    with pytest.raises(InputError, match="expected at least one packaged aggregator"):
        busy.open()
    package_line(busy.world, HALF)
    (HALF.artifact(busy.config) / "saved_model.pb").write_bytes(b"damaged")
    busy.lines = (*PLAIN[:1], HALF)
    with pytest.raises(RunFailedError, match="does not hold the files that were packaged"):
        busy.requests.refresh()
    assert apply_vector(busy.requests) == vector(1)


def test_requests_go_on_while_models_and_items_change(busy: RequestWorld) -> None:
    """Each answer is whole, of the old or of the new; none is missing while they change."""
    package_line(busy.world, HALF)
    stop, answers, errors = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                got = busy.requests.embed([7], as_of=NOW)
            except Exception as error:
                errors.append(error)
                return
            first = got.vectors[PLAIN[0].view]["apply_embedding"][0].tolist()
            answers.append((len(got.vectors), len(got.model_versions), first == vector(1)))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        busy.lines = (*PLAIN[:1], HALF)
        write_items(busy.config, [(1, vector("newer"), utc(5))], "part-b")
        assert busy.requests.refresh()
        seen = len(answers)
        apply_vector(busy.requests)
        stop.set()
        wait(asking)
    assert errors == []
    assert set(answers) <= {(1, 1, True), (2, 2, False)}
    assert (1, 1, True) in answers[:seen]
