"""Every kind of state store by one contract: values are replaced by version, lost ones noticed."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.stream.states import open as opened
from serving.stream.states.protocol import NONE, StateLostError, pack, unpack
from stores.kinds import KINDS
from tests.worlds.events import Event
from tests.worlds.live import Live, midnight
from tests.worlds.states import STATES, kinds
from tests.worlds.stream import folded
from transformations.errors import InputError
from transformations.ids import LONGEST
from transformations.stream import NO_TIME, States
from transformations.timestamps import microseconds

# A FeatureStore has no close: the connections of one that is dropped are closed with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Drop them here, and not while a test of another file runs."""
    yield
    gc.collect()


@pytest.fixture(params=kinds())
def live(request: Any, tmp_path: Path) -> Iterator[Live]:
    """An empty online store of one kind; nothing is published."""
    live = Live(tmp_path, STATES[request.param].online(tmp_path, request))
    live.write_settings()
    yield live
    live.close()


def test_every_kind_is_tested() -> None:
    assert list(STATES) == list(opened.STATES)
    assert set(STATES) <= {kind.name for kind in KINDS}


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_of_two_writers_at_once_each_member_has_one(live: Live, id_type: str) -> None:
    """Eight writers replace the same members, each in its own order, until all have counted."""
    config = live.config.model_copy(update={"member_id_type": id_type, "item_id_type": id_type})
    store = live.store()
    members: list[Any] = [n if id_type == "int64" else f"é{n}" for n in range(20)]
    if id_type == "string":
        members[0] = "\N{MATHEMATICAL FRAKTUR CAPITAL U}" * LONGEST  # the most bytes of an id
    first = opened.open_states(config, store)
    first.set_base("a snapshot")

    def count(writer: int) -> None:
        states = opened.open_states(config, store)
        rng = np.random.default_rng(writer)
        left = list(members)
        while left:
            asked = [left[index] for index in rng.permutation(len(left))]
            _, versions = unpack(config.rules, states.read(asked))
            nobody = States.empty(config.rules, len(asked))
            values = [
                pack(nobody.of_members(np.array([index])), int(version) + 1)[0]
                for index, version in enumerate(versions)
            ]
            written = states.write(asked, versions, values, np.full(len(asked), NONE))
            left = [member for member, done in zip(asked, written, strict=True) if not done]
        states.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    found, versions = unpack(config.rules, first.read(members))
    assert versions.tolist() == [8] * 20
    assert (found.last == NO_TIME).all()
    first.close()


def test_states_that_were_lost_are_noticed_unless_they_are_being_built(live: Live) -> None:
    config = live.config
    states = opened.open_states(config, live.store())
    assert states.base() is None
    value = pack(States.empty(config.rules, 1), 1)
    none = np.array([NONE])
    assert states.write([1], none, value, none, True).tolist() == [True]
    states.set_base("a snapshot")
    states.set_base("another")
    assert states.base() == "another"
    assert states.read([1, 2]) == [*value, None]
    states.clear()
    assert states.base() is None
    with pytest.raises(StateLostError, match="activity stream --rebuild"):
        states.read([1])
    with pytest.raises(StateLostError):
        states.write([1], none, value, none)
    assert states.read([1], True) == [None]
    states.close()


def test_members_whose_held_actions_are_due(live: Live) -> None:
    config = live.config
    states = opened.open_states(config, live.store())
    states.set_base("a snapshot")
    at = midnight()
    held = [Event(5, 1, "APPLY", at), Event(7, 1, "SAVE", at)]
    state = folded(config, States.empty(config.rules, 2), held, [5, 7], at).states
    due = np.array([microseconds(at), microseconds(at) + 9])
    states.write([5, 7], np.array([NONE, NONE]), pack(state, 1), due)
    assert states.due(microseconds(at), 10) == []
    assert states.due(microseconds(at) + 1, 10) == [5]
    assert states.due(microseconds(at) + 10, 10) == [5, 7]
    assert states.due(microseconds(at) + 10, 1) == [5]
    states.close()


def test_a_store_of_no_such_kind_is_refused() -> None:
    class Elsewhere:
        pass

    store: Any = SimpleNamespace(_get_provider=lambda: SimpleNamespace(online_store=Elsewhere()))
    with pytest.raises(
        InputError, match=r"one of the kinds sqlite, redis, postgres, got Elsewhere"
    ):
        opened.open_states(Any, store)  # type: ignore[arg-type]
