"""The vector at request time is the batch's; it is compiled once and renewed without a pause."""

import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from models.spec import Aggregator, GeometricDecay
from serving import request_time
from serving.compiled import SIZES, current_catalogue
from serving.request_time import Embedded, RequestTime
from serving.stored import Event
from stores.read import ReadError
from tests.request_worlds import DAY, LINES, NOW, PLAIN, SNAPSHOT, Fresh, package_line
from tests.strategies import ACTIONS, MICROSECOND
from tests.strategies import Event as Row
from tests.tiny_models import write_items
from tests.worlds import utc, vector
from transformations.errors import InputError

SECOND = timedelta(seconds=1)
TOLERANCE = 1e-5
# An example holds many members, and a batch of all of them takes a second: no shrinking.
few = settings(max_examples=5, deadline=None, phases=[Phase.generate])


@pytest.fixture(scope="module", params=["int64", "string"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("fresh"), request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("whole"))


def event(row: Row) -> Event:
    return Event(*row[:4])


def agree(
    came: Embedded,
    members: Sequence[Any],
    expected: dict[Any, Any],
    lines: Sequence[Aggregator] = LINES,
) -> None:
    """The request's vectors and counts are those of the batch's rows; none means all PAD."""
    for place, member in enumerate(members):
        rows = expected.get(member)
        if rows is None:
            assert came.counts["n_actions"][place] == 0
            continue
        for line in lines:
            row = rows[line.view]
            for field, vectors in came.vectors[line.view].items():
                np.testing.assert_allclose(vectors[place], row[field], atol=TOLERANCE)
            assert came.model_versions[line.view] == row["model_version"]
        for name, counts in came.counts.items():
            assert counts[place] == row[name]
        last = came.last_action_at[place].item().replace(tzinfo=UTC)
        assert last.replace(microsecond=0) == row["last_action_at"].replace(microsecond=0)


def logs(offsets: Sequence[timedelta], around: Sequence[datetime]) -> st.SearchStrategy[Any]:
    """Draw (member's place, item, action, moment), the moments around the edges of windows."""
    moment = st.builds(
        lambda edge, steps, offset: edge + steps * SECOND + offset,
        st.sampled_from(around),
        st.integers(-3, 3) | st.integers(-40 * 86_400, 86_400),
        st.sampled_from(offsets),
    )
    action = st.tuples(st.integers(0, 15), st.integers(1, 7), st.sampled_from(ACTIONS), moment)
    return st.lists(action, max_size=200)


def rows(fresh: Fresh, members: Sequence[Any], drawn: Sequence[Any]) -> list[Row]:
    return [Row(members[place], fresh.name(i), action, at) for place, i, action, at in drawn]


EDGES = (SNAPSHOT, NOW, SNAPSHOT - 28 * DAY, NOW - 28 * DAY)


@few
@given(data=st.data())
def test_a_request_is_the_batch_for_the_same_events(fresh: Fresh, data: st.DataObject) -> None:
    """Whole seconds: late events, duplicates, events at and after as_of, expired ones, ties."""
    members = fresh.members(16)
    known = rows(fresh, members, data.draw(logs([timedelta(0)], EDGES)))
    new = rows(fresh, members, data.draw(logs([timedelta(0)], EDGES)))
    again = data.draw(st.lists(st.sampled_from(known), max_size=5)) if known else []
    fresh.publish(known)
    came = fresh.requests.embed(members, [event(row) for row in new + again], NOW)
    # What the store's snapshot could not see yet, the batch must not be told of either.
    seen = [row for row in known if row.event_timestamp < SNAPSHOT]
    agree(came, members, fresh.batch([*seen, *new, *again]))
    assert came.held_back == len({row for row in new + again if row.event_timestamp >= NOW})


@few
@given(data=st.data())
def test_parts_of_a_second_change_no_order(whole: Fresh, data: st.DataObject) -> None:
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
    came = whole.requests.embed(members, [*again, *map(event, new)], NOW)
    batch = whole.batch([*seen, *new])
    agree(came, members, batch, PLAIN)
    # Where ages count, an action is up to a second older than it was.
    aged = LINES[-1].view
    for place, member in enumerate(members):
        if member in batch:
            (vectors,) = came.vectors[aged].values()
            expected = batch[member][aged]["activity_embedding"]
            np.testing.assert_allclose(vectors[place], expected, atol=50 / 86_400)
