"""A data folder's id is made once, whoever makes it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from operations.workspace import Workspace, workspace_id, workspace_of
from tests.worlds.events import configure
from transformations.errors import InputError


@pytest.fixture
def config(tmp_path):
    return configure(tmp_path)


def test_an_id_is_made_once(config):
    first = workspace_of(config)
    assert first == Workspace(workspace_id(config), str(config.data))
    assert len(bytes.fromhex(first.id)) == 16
    assert [file.name for file in config.layout.state.iterdir()] == ["workspace.json"]


def test_another_data_folder_is_another_workspace(config, tmp_path):
    other = config.model_copy(update={"data_dir": str(tmp_path / "other")})
    assert workspace_id(other) != workspace_id(config)


def test_of_many_who_make_it_at_once_all_get_one_id(config):
    with ThreadPoolExecutor(16) as pool:
        ids = set(pool.map(workspace_id, [config] * 64))
    assert len(ids) == 1
    assert [file.name for file in config.layout.state.iterdir()] == ["workspace.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', "null"])
def test_a_file_without_an_id_is_refused_and_kept(config, text):
    workspace_id(config)
    config.layout.workspace.write_text(text)
    with pytest.raises(InputError, match=r'expected \{"id": …, "name": …\}, got'):
        workspace_id(config)
    assert config.layout.workspace.read_text() == text
