"""Packages of rankers, whole or absent and verified when they are loaded; and catalogue lines."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.lines import ranker_lines
from models.rankers.lines import BoostedTrees, Linear, WideAndDeep
from models.rankers.package import is_packaged, load, package, read_manifest
from models.rankers.spec import Ranker
from tests.models.rankers.worlds import HEADS, LINES, market, nothing
from transformations.config import ROOT, Config, load_config
from transformations.errors import InputError

LINE = LINES[0]
NOTES = {
    "fits": {"decay_v1": "decay_v1_f2", "tfidf_svd_v1": "tfidf_svd_v1_f2"},
    "candidates": ["popular_v1"],
    "trained_until": "2026-11-01T00:00:00+00:00",
    "metrics": {"ndcg_10": 0.5},
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "activity.yaml").write_text("items: {text: [title]}\ndata_dir: data\n")
    (tmp_path / "feature_store.yaml").touch()
    (tmp_path / "catalog.py").write_text("AGGREGATORS = ()\n")
    return load_config(tmp_path)


@cache
def fitted(line: Ranker, seed: int = 0) -> Any:
    labels = market(seed, groups=40)
    return line.fitted_class().fit(line, HEADS, labels, nothing(labels), seed=0)


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_package_scores_as_what_was_fitted(line: Ranker, config: Config) -> None:
    assert not is_packaged(line, config)
    folder = package(line, HEADS, config, fitted(line), NOTES)
    assert folder == config.layout.artifacts / "rankers" / line.name / "v1"
    loaded = load(config, line)
    inputs = market(2, groups=5).inputs
    np.testing.assert_array_equal(loaded.fitted.scores(inputs), fitted(line).scores(inputs))
    assert (loaded.line, loaded.heads) == (line, HEADS)
    manifest = loaded.manifest
    assert {key: manifest[key] for key in NOTES} == NOTES
    assert manifest["kind"] == line.kind
    assert manifest["spaces"] == {"member.decay_v1": "item.tfidf_svd_v1"}
    assert manifest["columns"]["vectors"] == ["member.decay_v1", "item.tfidf_svd_v1"]
    assert loaded.model_version == f"{line}/{manifest['weights_sha256'][:12]}"
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]


def test_a_later_fit_has_a_folder_of_its_own(config: Config) -> None:
    second = LINE.of_fit(2)
    folder = package(second, HEADS, config, fitted(LINE), {})
    assert folder.name == "v1_f2"
    assert load(config, second).manifest["fit"] == 2
    with pytest.raises(InputError, match=r"linear_v1: expected a packaged ranker at .*train it"):
        load(config, LINE)


def test_the_same_package_stays_and_another_is_refused(config: Config) -> None:
    folder = package(LINE, HEADS, config, fitted(LINE), NOTES)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert package(LINE, HEADS, config, fitted(LINE), {}) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"is packaged at .* make a new fit"):
        package(LINE, HEADS, config, fitted(LINE, seed=1), NOTES)
    with pytest.raises(InputError, match=r"is packaged at .* make a new fit"):
        package(LINE, {"APPLY": 2.0, "DISMISS": -1.0}, config, fitted(LINE), NOTES)


def test_a_fit_that_fails_to_write_leaves_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Any, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("gone")

    monkeypatch.setattr(type(fitted(LINE)), "save", dies)
    with pytest.raises(OSError, match="gone"):
        package(LINE, HEADS, config, fitted(LINE), NOTES)
    assert not list(LINE.folder(config).parent.iterdir())


def test_notes_leave_the_manifests_own_keys_alone(config: Config) -> None:
    with pytest.raises(InputError, match="notes: expected none of the manifest's own keys"):
        package(LINE, HEADS, config, fitted(LINE), {"files": {}})


@pytest.mark.parametrize("damage", ["changed", "gone", "more"])
def test_a_damaged_package_is_refused(config: Config, damage: str) -> None:
    folder = package(LINE, HEADS, config, fitted(LINE), NOTES)
    weights = folder / "weights.npz"
    if damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    elif damage == "gone":
        weights.unlink()
    else:
        (folder / "more.txt").touch()
    with pytest.raises(InputError, match=r"does not hold the files that were packaged \(SHA-256\)"):
        load(config, LINE)


def test_a_manifest_that_was_changed_is_refused(config: Config) -> None:
    file = package(LINE, HEADS, config, fitted(LINE), NOTES) / "manifest.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "heads": {"APPLY": 1.0, "DISMISS": 5.0}}))
    with pytest.raises(InputError, match="expected the identity"):
        load(config, LINE)
    file.write_text(json.dumps({key: whole[key] for key in whole if key != "heads"}))
    with pytest.raises(InputError, match="expected the keys heads, which are missing"):
        read_manifest(config, LINE)
    file.write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        load(config, LINE)


def test_a_line_with_other_settings_is_told_both_values(config: Config) -> None:
    package(LINE, HEADS, config, fitted(LINE), NOTES)
    other = Linear(version=1, l2=0.5)
    with pytest.raises(InputError, match=r'packaged .*"l2": 0.0001.*, expected .*"l2": 0.5'):
        load(config, other)


def test_serving_a_wide_and_deep_ranker_loads_no_tensorflow(config: Config, tmp_path: Path) -> None:
    line = LINES[4]
    assert isinstance(line, WideAndDeep)
    package(line, HEADS, config, fitted(line), NOTES)
    code = (
        "import sys\n"
        "from models.rankers.package import load\n"
        "from tests.models.rankers.worlds import LINES, market\n"
        "from transformations.config import load_config\n"
        f"loaded = load(load_config({str(tmp_path)!r}), LINES[4])\n"
        "assert loaded.fitted.scores(market(2, groups=5).inputs).shape == (40,)\n"
        "print([m for m in ('tensorflow', 'keras', 'lightgbm', 'sklearn') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def catalogue(config: Config, text: str) -> Config:
    config.catalogue.write_text(
        "from models.rankers.lines import BoostedTrees, Linear, WideAndDeep\n"
        "from models.spec import Average\n"
        f"AGGREGATORS = (Average(version=1),)\n{text}\n"
    )
    return config


def test_rankers_are_lines_of_the_catalogue(config: Config) -> None:
    assert ranker_lines(config) == ()
    told = 'RANKERS = (Linear(version=1, aggregators=("average_v1",)), WideAndDeep(version=2))'
    first, second = ranker_lines(catalogue(config, told))
    assert (str(first), str(second)) == ("linear_v1", "wide_and_deep_v2")
    assert second == WideAndDeep(version=2)


def test_the_lines_of_the_page_are_lines(config: Config) -> None:
    page = (ROOT / "docs" / "recommend.md").read_text()
    (shown,) = re.findall(r"<!-- test: rankers -->\n```python\n(.*?)```", page, re.DOTALL)
    lines = ranker_lines(catalogue(config, shown.replace("decay_v1", "average_v1")))
    assert [str(line) for line in lines] == [
        *("linear_v1", "boosted_trees_v1", "wide_and_deep_v1"),
        *("mf_v1", "ncf_v1"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RANKERS = [1]", r"expected RANKERS, a tuple of lines .* got \[1\]"),
        ("RANKERS = (Linear(version=1), Linear(version=1))", "got linear_v1 twice"),
        (
            'RANKERS = (Linear(version=1, aggregators=("decay_v1",)),)',
            r"linear_v1: aggregators: expected some of average_v1.*got 'decay_v1'",
        ),
        ("RANKERS = (BoostedTrees(version=1, leaves=1),)", "leaves: expected at least 2, got 1"),
        ('RANKERS = (Linear(version=1, weights=(("SING", 1.0),)),)', "weights: expected some of"),
        ('RANKERS = (WideAndDeep(version=1, reads=("moon",)),)', "reads: expected some of"),
    ],
)
def test_a_wrong_line_is_told(config: Config, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        ranker_lines(catalogue(config, text))
    assert str(config.catalogue) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Linear, {"l2": -1.0}),
        (Linear, {"impute": "median"}),
        (Linear, {"min_count": 0}),
        (BoostedTrees, {"trees": 0}),
        (BoostedTrees, {"learning_rate": 0.0}),
        (WideAndDeep, {"deep": (8, 0)}),
        (WideAndDeep, {"dropout": 1.0}),
        (WideAndDeep, {"hashed_ids": 0}),
        (WideAndDeep, {"listwise": -1.0}),
        (WideAndDeep, {"name": "No-Name"}),
    ],
)
def test_settings_are_checked(kind: type[Ranker], settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        kind(version=1, **settings)  # type: ignore[call-arg]


def test_parameters_are_all_that_a_fit_depends_on() -> None:
    line = WideAndDeep(version=3, name="other", deep=(8,), aggregators=("decay_v1",))
    found = line.parameters()
    assert found["deep"] == [8]
    assert found["aggregators"] == ["decay_v1"]
    assert not {"name", "version", "fit"} & found.keys()
    assert replace(line, version=4).parameters() == found
