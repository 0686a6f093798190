"""What one line of the catalogue says, without TensorFlow."""

import ast
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from models import catalog
from models.catalog import AGGREGATORS
from models.items.spec import Trained
from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay, Packaged
from transformations.config import ROOT, Config
from transformations.errors import InputError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"data_dir": str(tmp_path), "items": {"text": ["title"]}})


def test_the_shipped_lines_are_there() -> None:
    """A line more turns no test red."""
    shipped = {
        Average(version=1),
        GeometricDecay(version=1, decay=0.8, stream=True),
        Trained(version=1).aggregator(version=2, stream=True),
    }
    assert shipped <= set(AGGREGATORS)


def test_views_and_services_have_distinct_names() -> None:
    for names in ({a.view for a in AGGREGATORS}, {a.service for a in AGGREGATORS}):
        assert len(names) == len(AGGREGATORS)


@pytest.mark.parametrize("line", AGGREGATORS, ids=lambda line: line.view)
def test_what_feast_is_told_of_each_line(line: Aggregator, config: Config) -> None:
    assert line.view == f"member_activity_{line.name}_v{line.version}"
    assert line.service == f"ranker_{line.name}_v{line.version}"
    vectors = line.vectors(config)
    assert vectors
    # Feast's DuckDB store drops columns that end in _y.
    assert all(field.isidentifier() and not field.endswith("_y") for field in vectors)
    assert not {"member_id", "n_actions", "last_action_at"} & vectors.keys()


def test_each_line_is_one_line() -> None:
    """The catalogue's file is the only list: an import, and a call per entry."""
    tree = ast.parse(Path(catalog.__file__).read_text())
    assignments = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert len(assignments) == 4
    for assignment in assignments:
        assert isinstance(assignment.value, ast.Tuple)
        for entry in assignment.value.elts:
            assert isinstance(entry, ast.Call)
            assert entry.lineno == entry.end_lineno


def test_vectors_follow_the_configured_actions(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "data_dir": str(tmp_path),
            "items": {"text": ["title"]},
            "actions": {"Like": "positive", "HIDE": "negative"},
            "dim": 8,
        }
    )
    assert list(Average(version=1).vectors(config).items()) == [
        ("like_embedding", 8),
        ("hide_embedding", 8),
    ]


def test_two_settings_of_one_kind_live_side_by_side(config: Config) -> None:
    fast = GeometricDecay(name="decay_fast", version=1, decay=0.5)
    assert fast.view == "member_activity_decay_fast_v1"
    assert fast.parameters() == {"decay": 0.5}
    assert fast.artifact(config) == config.layout.artifacts / "decay_fast" / "v1"


def test_settings_that_came_later_are_no_part_of_what_was_there(config: Config) -> None:
    """Packages of before keep their identity."""
    assert GeometricDecay(version=1, decay=0.8).parameters() == {"decay": 0.8}
    assert not {"ranks", "projected"} & LearnedDecay(version=1).parameters().keys()
    line = GeometricDecay(version=2, decay=0.8, ranks="positive", pooled=True)
    assert line.parameters() == {"decay": 0.8, "ranks": "positive", "pooled": True}
    assert list(line.vectors(config)) == ["activity_embedding"]


def test_ranks_that_nobody_knows_are_refused() -> None:
    with pytest.raises(InputError, match="ranks: expected 'action' or 'positive', got 'all'"):
        GeometricDecay(version=1, decay=0.8, ranks="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_decay_out_of_bounds_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match=f"expected 0 < r < 1, got {decay}"):
        GeometricDecay(version=1, decay=decay)


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_below_one_is_refused(version: int) -> None:
    with pytest.raises(InputError, match=f"expected a version of 1 or more, got {version}"):
        Average(version=version)


@pytest.mark.parametrize("name", ["", "Decay", "2nd", "a b", "a-b"])
def test_a_name_that_no_view_could_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected an aggregator's name"):
        Average(name=name, version=1)


def test_a_line_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Average(version=1).version = 2  # type: ignore[misc]


def test_a_package_that_is_not_there_is_named(config: Config, tmp_path: Path) -> None:
    line = Packaged(name="taste", version=1, path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"found no manifest.json there"):
        line.vectors(config)


def test_a_relative_package_lies_in_the_repository(config: Config) -> None:
    line = Packaged(name="taste", version=1, path="shared_models/taste")
    assert line.artifact(config) == ROOT / "shared_models" / "taste"
