"""A workspace's lines: what its catalogue file says now."""

from pathlib import Path

import pytest

from models import catalog
from models.lines import by_space, catalogue_lines
from models.spec import Average
from transformations.config import Config, load_config
from transformations.errors import InputError
from transformations.names import Space


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "activity.yaml").write_text("items: {text: [title]}\n")
    (tmp_path / "feature_store.yaml").touch()
    (tmp_path / "catalog.py").write_text(Path(catalog.__file__).read_text())
    return load_config(tmp_path)


def test_the_file_is_read_each_time(config: Config) -> None:
    assert catalogue_lines(config) == catalog.AGGREGATORS
    config.catalogue.write_text("AGGREGATORS = ()\n")
    assert catalogue_lines(config) == ()


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
        catalogue_lines(config)
    assert str(config.catalogue) in str(error.value)


def test_lines_come_together_by_the_space_that_they_read(config: Config) -> None:
    second, own = Space("tfidf_svd", 1, fit=2), config.space
    first, fitted, third = (Average(version=number) for number in (1, 2, 3))
    found = [
        (bound.space, [line.version for line in lines])
        for bound, lines in by_space(config, [first, fitted.of_fit(2, second), third])
    ]
    assert found == [(own, [1, 3]), (second, [2])]
    assert [(bound.space, lines) for bound, lines in by_space(config, [])] == [(own, [])]
