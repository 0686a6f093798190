"""Members go from every kind of online store, state store and bus; all others' rows stay."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import publish
from serving.publish.forget import forget_online, keys_of
from serving.stream.bus.messages import encode, member_in
from serving.stream.bus.redis import RedisBus
from serving.stream.states.open import open_states
from serving.stream.states.protocol import HEAD
from tests.worlds.kinds import each_kind
from tests.worlds.live import Live
from tests.worlds.shared import TODAY, Shared, of_project
from tests.worlds.states import STATES, kinds
from transformations.forget import Forgotten

VIEWS = {
    "member_activity_average_v1": 1,
    "member_activity_decay_v1": 1,
    "member_activity_learned_decay_v1": 1,
    "member_activity_sequence": 1,
    "member_activity_stats_v1": 1,
}


@pytest.fixture(params=each_kind())
def shared(request: Any, tmp_path: Path) -> Iterator[Shared]:
    shared = Shared(request.param, request, tmp_path)
    yield shared
    shared.close()


def test_a_members_rows_go_and_all_others_stay(shared: Shared) -> None:
    id_type = "int64" if shared.kind.name == "redis" else "string"
    world = shared.workspace("a", id_type=id_type)
    other = shared.workspace("b", project="x_shared", id_type=id_type)
    store, beside = shared.published(world), shared.published(other)
    before = of_project(shared.rows(), "x_shared")
    one, two = (1, 10) if id_type == "int64" else ("1", "10")
    done = Forgotten()
    forget_online(world.config, store, [one, 77 if id_type == "int64" else "77"], done)
    assert done.rows == {f"{view}, online": rows for view, rows in VIEWS.items()}
    assert done.left == []
    assert of_project(shared.rows(), "x_shared") == before
    publish.read_back(other.config, beside, TODAY)
    key, kept = keys_of(world.config, store, [one, two])
    found = {name: rows for name, rows in shared.rows().items() if "x_shared" not in name}
    assert not any(repr(key)[2:-1] in f"{name}{rows}" for name, rows in found.items())
    assert any(repr(kept)[2:-1] in f"{name}{rows}" for name, rows in found.items())
    again = Forgotten()
    forget_online(world.config, store, [one], again)
    assert again.rows == {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", kinds())
def test_a_members_state_and_held_actions_go(request: Any, tmp_path: Path, kind: str) -> None:
    live = Live(tmp_path, STATES[kind].online(tmp_path, request))
    live.write_settings()
    states = open_states(live.config, live.store())
    assert states.forget([1]) == 0
    states.set_base("a snapshot")
    values = [HEAD.pack(5, 0, 0, 0)] * 3
    states.write([1, 2, 3], np.zeros(3, np.int64), values, np.array([7, 7, 0]))
    assert states.forget([1, 9]) == 1
    assert states.read([1, 2, 3]) == [None, *values[1:]]
    assert states.due(8, 10) == [2]
    states.close()
    live.close()


@pytest.mark.redis
def test_messages_and_dead_letters_go_from_a_redis_stream(redis_server: str) -> None:
    bus = RedisBus(f"redis://{redis_server}/0", "activity", "group", "consumer")
    now = datetime.now(UTC)
    sent = [("k", encode(member, 1, "APPLY", now)) for member in (42, 7) for _ in range(600)]
    bus.send(sent)
    messages = bus.read(700, 0.0)
    bus.refuse([(message, "why") for message in messages])
    assert bus.forget(lambda value: member_in(value) == 42) == {
        "activity": 600,
        "activity.dead": 600,
    }
    assert bus.forget(lambda value: member_in(value) == 42) == {"activity": 0, "activity.dead": 0}
    assert bus.forget(lambda value: member_in(value) == 7) == {
        "activity": 600,
        "activity.dead": 100,
    }
    bus.close()
