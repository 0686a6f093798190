"""A workspace's lines: what its catalogue file says now."""

from pathlib import Path

import pytest

from models import catalog
from models.lines import chosen, lines_of
from models.spec import Average
from transformations.config import Config, load_config
from transformations.errors import InputError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "activity.yaml").write_text("items: {text: [title]}\n")
    (tmp_path / "feature_store.yaml").touch()
    (tmp_path / "catalog.py").write_text(Path(catalog.__file__).read_text())
    return load_config(tmp_path)


def test_the_file_is_read_each_time(config: Config) -> None:
    assert lines_of(config) == catalog.AGGREGATORS
    config.catalogue.write_text("AGGREGATORS = ()\n")
    assert lines_of(config) == ()
    assert chosen(config, [Average(version=7)]) == [Average(version=7)]
    assert chosen(config, None) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected AGGREGATORS"),
        ("AGGREGATORS = [1]", r"got \[1\]"),
        ("import nowhere", "cannot be run: ModuleNotFoundError"),
        ("from models.spec import Average\nAGGREGATORS = (Average(version=0),)", "version of 1"),
    ],
)
def test_a_file_that_is_no_catalogue_is_named(config: Config, text: str, message: str) -> None:
    config.catalogue.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        lines_of(config)
    assert str(config.catalogue) in str(error.value)
