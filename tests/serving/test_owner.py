"""A Feast project has one workspace; another one is refused before anything is written."""

import shutil
from collections.abc import Iterator

import pytest
from feast import Entity, FeatureStore, Project
from feast.value_type import ValueType

from feature_repo.project import WORKSPACE_NAME_TAG, WORKSPACE_TAG
from operations.workspace import workspace_id, workspace_of
from serving import publish
from serving.publish import marks
from serving.publish.marks import ONLINE, REGISTRY, marks_of
from tests.worlds.kinds import each_kind
from tests.worlds.shared import Shared
from transformations.errors import InputError


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


def without_marks(store: FeatureStore) -> None:
    """As an older version left it."""
    store.registry.apply_project(Project(name=store.project))
    marks_of(store)[ONLINE].remove()


def test_the_first_apply_marks_registry_and_online_store(shared):
    world = shared.workspace("a")
    store = shared.applied(world)
    assert {where: mark.read() for where, mark in marks_of(store).items()} == {
        REGISTRY: workspace_of(world.config),
        ONLINE: workspace_of(world.config),
    }
    assert store.get_project("shared").tags == {
        WORKSPACE_TAG: workspace_id(world.config),
        WORKSPACE_NAME_TAG: str(world.config.data),
    }


def test_another_workspace_is_refused_before_anything_is_written(shared):
    first, second = shared.workspace("a"), shared.workspace("b")
    shared.published(first)
    before = shared.rows()
    with pytest.raises(InputError) as refused:
        shared.applied(second)
    assert shared.rows() == before
    said = str(refused.value)
    assert f"the Feast project 'shared' is another workspace's: expected the mark of {second.config.data} (id {workspace_id(second.config)}), got that of {first.config.data} (id {workspace_id(first.config)}) in the registry" in said  # fmt: skip # noqa: E501
    assert "in the online store" in said
    assert f"write another `project:` into {second.folder}/feature_store.yaml" in said
    assert f"run `activity reset` in {first.config.data} first" in said


def test_another_project_on_the_same_servers_is_fine(shared):
    first, second = shared.workspace("a"), shared.workspace("b", project="second")
    shared.published(first)
    shared.published(second)
    shared.published(first)


def test_the_same_workspace_again_changes_no_mark(shared):
    world = shared.workspace("a")
    marked = {where: mark.read() for where, mark in marks_of(shared.published(world)).items()}
    again = {where: mark.read() for where, mark in marks_of(shared.published(world)).items()}
    assert again == marked


def test_a_deleted_data_folder_is_another_workspace(shared):
    world = shared.workspace("a")
    shared.published(world)
    old = workspace_id(world.config)
    shutil.rmtree(world.config.data)
    before = shared.rows()
    with pytest.raises(InputError, match=rf"got that of .* \(id {old}\).*`activity reset` in"):
        shared.applied(world)
    assert shared.rows() == before


@pytest.mark.parametrize("where", [REGISTRY, ONLINE])
def test_one_mark_of_another_workspace_is_enough(shared, where):
    first, second = shared.workspace("a"), shared.workspace("b")
    store = shared.applied(first)
    if where == ONLINE:
        store.registry.delete_project("shared")
    else:
        marks_of(store)[ONLINE].remove()
    with pytest.raises(InputError, match=f"in the {where}"):
        shared.applied(second)


def test_a_mark_that_was_lost_is_set_again(shared):
    world = shared.workspace("a")
    marks_of(shared.applied(world))[ONLINE].remove()
    assert marks_of(shared.applied(world))[ONLINE].read() == workspace_of(world.config)


def test_an_older_versions_project_that_fits_is_taken_over(shared):
    without_marks(shared.published(shared.workspace("a")))
    second = shared.workspace("b")
    assert marks_of(shared.published(second))[REGISTRY].read() == workspace_of(second.config)


def test_an_older_versions_project_of_another_kind_is_refused(shared):
    without_marks(shared.published(shared.workspace("a")))
    before = shared.rows()
    with pytest.raises(
        InputError,
        match=r"no owner's mark .* the entity member: expected member_id of type STRING, got "
        "member_id of type INT64",
    ):
        shared.applied(shared.workspace("b", id_type="string"))
    wider = shared.workspace("c")
    wider.config = wider.config.model_copy(update={"dim": 8})
    with pytest.raises(InputError, match="_svd_v1: expected vectors of 8, got 4 numbers"):
        shared.applied(wider)
    assert shared.rows() == before


def test_a_project_made_by_hand_is_refused(shared):
    world = shared.workspace("a")
    store = shared.open(world)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
    store.registry.apply_entity(driver, "shared")
    with pytest.raises(
        InputError, match="driver: expected no such entity, got driver_id of type INT64"
    ):
        shared.applied(world)


def test_the_faster_of_two_workspaces_keeps_the_project(shared, monkeypatch):
    first, second = shared.workspace("a"), shared.workspace("b")
    store = shared.open(second)
    registry = type(marks_of(store)[REGISTRY])
    write = registry.write

    def late(mark, workspace):
        monkeypatch.setattr(registry, "write", write)
        marks_of(store)[ONLINE].write(workspace_of(first.config))
        write(mark, workspace)

    monkeypatch.setattr(registry, "write", late)
    with pytest.raises(InputError, match=r"got that of .*a/data .* in the online store"):
        publish.apply(second.config, store)
    assert store.list_feature_views() == []


def test_a_registry_in_a_file_is_marked_too(sqlite):
    shared = sqlite
    shared.applied(shared.workspace("a", files=True))
    with pytest.raises(InputError, match=r"in the registry and .* in the online store"):
        shared.applied(shared.workspace("b", files=True))


def test_another_kind_of_online_store_has_the_registrys_mark_only(sqlite, monkeypatch):
    monkeypatch.setattr(marks, "online_kind", lambda _: None)
    shared = sqlite
    assert list(marks_of(shared.applied(shared.workspace("a")))) == [REGISTRY]
    with pytest.raises(InputError, match="in the registry"):
        shared.applied(shared.workspace("b"))
