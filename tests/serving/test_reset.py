"""The online half of `activity reset`: all of one workspace goes, and nothing beside it."""

from collections.abc import Iterator

import pytest

from operations.workspace import workspace_of
from serving import publish
from serving.publish.history import history_rows
from serving.publish.marks import ONLINE, marks_of
from serving.publish.reset import remove_online, what_online
from serving.stream.states.open import open_states
from tests.worlds.kinds import each_kind
from tests.worlds.shared import TODAY, Shared, of_project
from transformations.errors import InputError

# Of three aggregators: two members in five views, two items; and in the registry two entities,
# seven sources and views (no item has statistics), three matches and services.
VIEWS = {
    "item_embedding_tfidf_svd_v1": 2,
    "item_stats_v1": 0,
    "member_activity_average_v1": 2,
    "member_activity_decay_v1": 2,
    "member_activity_learned_decay_v1": 2,
    "member_activity_sequence": 2,
    "member_activity_stats_v1": 2,
}
ALL = VIEWS | {"stream states": 1, "registry objects": 22, "version history rows": 10}
NOTHING = {"stream states": 0, "registry objects": 0, "version history rows": 0}
# A Redis key ends with the project's name, so that this one's keys end with the other's name too.
BESIDE = "x_shared"


@pytest.fixture(params=each_kind())
def shared(request, tmp_path) -> Iterator[Shared]:
    shared = Shared(request.param, request, tmp_path)
    yield shared
    shared.close()


@pytest.fixture
def sqlite(request, tmp_path) -> Iterator[Shared]:
    shared = Shared("sqlite", request, tmp_path)
    yield shared
    shared.close()


def with_states(world, store) -> None:
    states = open_states(world.config, store)
    states.set_base("a snapshot")
    states.close()


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def test_all_of_one_workspace_goes_and_another_ones_project_stays(shared):
    world, other = shared.workspace("a"), shared.workspace("b", project=BESIDE)
    store, beside = shared.published(world), shared.published(other)
    with_states(world, store)
    with_states(other, beside)
    kept = of_project(shared.rows(), BESIDE)
    before = shared.rows()
    assert what_online(world.config, store) == ALL
    assert shared.rows() == before
    assert remove_online(world.config, store) == ALL
    after = shared.rows()
    assert of_project(after, BESIDE) == kept
    assert of_project(after, "shared") == of_project(kept, "shared")
    publish.read_back(other.config, beside, TODAY)
    assert nonzero(what_online(other.config, beside)) == nonzero(ALL)


def test_nothing_is_left_to_remove_and_a_run_begins_again(shared):
    world = shared.workspace("a")
    store = shared.published(world)
    remove_online(world.config, store)
    assert nonzero(remove_online(world.config, shared.open(world))) == {}
    assert {mark.read() for mark in marks_of(store).values()} == {None}
    again = shared.published(world)
    assert nonzero(what_online(world.config, again)) == {
        name: count for name, count in nonzero(ALL).items() if name != "stream states"
    }


def test_the_project_is_free_for_another_workspace_afterwards(shared):
    world, other = shared.workspace("a"), shared.workspace("b")
    remove_online(world.config, shared.published(world))
    assert set(marks_of(shared.published(other))) == {"registry", ONLINE}


@pytest.mark.parametrize("at", ["rows", "states", "registry", "mark"])
def test_killed_anywhere_it_can_be_run_again(shared, monkeypatch, at):
    world = shared.workspace("a")
    store = shared.published(world)
    with_states(world, store)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "rows":
            patch.setattr("serving.publish.reset.delete_online", killed)
        if at == "states":
            patch.setattr("serving.publish.reset._clear_states", killed)
        if at == "registry":
            patch.setattr(type(store.registry), "delete_project", killed)
        if at == "mark":
            patch.setattr(type(marks_of(store)[ONLINE]), "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_online(world.config, store)
    store = shared.open(world)
    assert marks_of(store)[ONLINE].read() == workspace_of(world.config)
    remove_online(world.config, store)
    assert nonzero(what_online(world.config, store)) == {}
    assert history_rows(store) == 0
    assert {mark.read() for mark in marks_of(store).values()} == {None}


def test_another_workspaces_project_is_not_removed(shared):
    world, other = shared.workspace("a"), shared.workspace("b")
    shared.published(world)
    before = shared.rows()
    store = shared.open(other)
    for command in (what_online, remove_online):
        with pytest.raises(InputError, match=r"another workspace's: expected the mark of .*b/data"):
            command(other.config, store)
    assert shared.rows() == before


def test_what_a_foreign_feast_apply_took_is_left_to_it(shared):
    """Its own `feast apply` marks the registry; the rows online stay the first one's."""
    world, other = shared.workspace("a"), shared.workspace("b")
    store = shared.published(world)
    marks_of(store)["registry"].write(workspace_of(other.config))
    with pytest.raises(InputError, match="in the registry"):
        publish.apply(world.config, store)
    theirs = shared.open(other)
    assert set(remove_online(other.config, theirs)) == {"registry objects", "version history rows"}
    assert publish.apply(world.config, shared.open(world)) > 0
    publish.read_back(world.config, shared.open(world), TODAY)


def test_a_registry_that_was_lost_leaves_nothing_online(shared):
    """Its views are then the declared ones."""
    world = shared.workspace("a")
    store = shared.published(world)
    store.registry.delete_project("shared")
    store.registry.refresh()
    assert VIEWS.items() <= remove_online(world.config, store).items()


def test_an_online_store_of_another_kind_is_emptied_by_feast(sqlite, monkeypatch):
    shared = sqlite
    world = shared.workspace("a")
    store = shared.published(world)
    for module in ("marks", "online_rows", "reset"):
        monkeypatch.setattr(f"serving.publish.{module}.online_kind", lambda _: None)
    assert what_online(world.config, store) == NOTHING | {
        "registry objects": 22,
        "version history rows": 10,
    }
    remove_online(world.config, store)
    names = [name for name in shared.rows() if name.startswith("shared_")]
    assert names == []
