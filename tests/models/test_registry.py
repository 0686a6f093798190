"""A real MLflow on SQLite: what is registered, what serves, and the way back."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from models import registry
from models.layers.build import build
from models.packaging import load, package
from models.spec import GeometricDecay, Packaged
from tests.models.test_packaging import arrays
from tests.worlds.tiny_models import Learned, tiny_config
from transformations.config import ROOT, Config
from transformations.errors import InputError

UNTIL = datetime(2026, 2, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    config: Config
    folders: list[Path]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with three versions of one aggregator; to make its database takes seconds."""
    folder = tmp_path_factory.mktemp("registry")
    config = tiny_config(folder)
    for version in (1, 2, 3):
        line = Learned(version=version)
        model = build(line, config)
        model.set_weights([weights + version for weights in model.get_weights()])
        registry.register(
            package(
                line,
                config,
                model,
                trained_until=UNTIL,
                metrics={"val_loss": 0.1 * version},
                notes={"figures": {"positives": 7, "lengths": {"mean": 3.5}}, "history": HISTORY},
            ),
            config,
        )
    return folder


HISTORY = {"select": [{"loss": 2.0, "val_loss": 1.9}, {"loss": 1.5, "val_loss": 1.7}]}


@pytest.fixture
def config(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The prepared registry, as a copy; its artifacts stay where they are."""
    monkeypatch.delenv(registry.URI, raising=False)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tiny_config(tmp_path)


def test_every_training_is_a_version_with_what_it_is(config: Config) -> None:
    versions = registry.versions(config)
    assert [version.version for version in versions] == [3, 2, 1]
    newest = versions[0]
    assert newest.view == "member_activity_learned_v3"
    assert newest.uri == "models:/learned/3"
    assert newest.trained_until == UNTIL.isoformat()
    assert newest.metrics == {"val_loss": pytest.approx(0.3)}
    manifest = json.loads((Learned(version=3).artifact(config) / "manifest.json").read_text())
    assert newest.weights_sha256 == manifest["weights_sha256"]


def test_the_list_is_mlflows_own(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """`versions` reads MLflow's SQLite file: whatever it relies on there is held by this."""
    with registry._client(config) as client:
        client.delete_model_version("learned", "2")
        client.create_registered_model("theirs")
        client.create_model_version("theirs", "file:///nowhere")
    ours = registry.versions(config)
    assert [version.version for version in ours] == [3, 1]
    monkeypatch.setenv(registry.URI, f"sqlite:///{config.layout.mlflow / registry.DATABASE}")
    assert registry.versions(config) == ours


def test_tags_say_what_the_ledger_says(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    third, second, _ = registry.versions(config)
    facts = {
        third.weights_sha256: {"releases": "3, 4", "serves": "online, batch"},
        second.weights_sha256: {"releases": "2", "serves": ""},
        "of no version": {"releases": "9", "serves": ""},
    }
    assert registry.tag(config, registry.versions(config), facts) == 2
    said = [(one.releases, one.serves) for one in registry.versions(config)]
    assert said == [("3, 4", "online, batch"), ("2", ""), ("", "")]
    monkeypatch.setenv(registry.URI, f"sqlite:///{config.layout.mlflow / registry.DATABASE}")
    assert [(one.releases, one.serves) for one in registry.versions(config)] == said  # MLflow's own
    monkeypatch.setattr(registry, "_client", None)  # nothing new: it is not asked
    monkeypatch.delenv(registry.URI)
    assert registry.tag(config, registry.versions(config), facts) == 0


def test_the_same_weights_are_registered_once(config: Config) -> None:
    before = registry.versions(config)
    again = registry.register(Learned(version=2).artifact(config), config)
    assert again.version == 2
    assert registry.versions(config) == before


def test_settings_curves_and_figures_are_logged(config: Config) -> None:
    with registry._client(config) as client:
        (experiment,) = (e for e in client.search_experiments() if e.name == "learned")
        runs = client.search_runs([experiment.experiment_id], "")
        run = next(r for r in runs if r.info.run_name == "member_activity_learned_v1")
        curve = client.get_metric_history(run.info.run_id, "select/val_loss")
        assert [(point.step, point.value) for point in curve] == [(1, 1.9), (2, 1.7)]
    assert run.data.params["parameters.scale"] == "1.0"
    assert run.data.metrics["data/lengths.mean"] == 3.5
    assert run.data.metrics["val_loss"] == pytest.approx(0.1)
    assert run.info.status == "FINISHED"


def test_a_registered_version_is_a_line_of_the_catalogue(config: Config) -> None:
    line = Packaged("models:/learned/2")
    assert (line.view, line.service) == ("member_activity_learned_v2", "ranker_learned_v2")
    with pytest.raises(InputError, match="is not copied from the model registry"):
        line.vectors(config)  # a declaration of it never reaches for the network
    package(line, config)
    assert line.vectors(config) == {"activity_embedding": 2}
    given = arrays(config)
    ours, theirs = load(Learned(version=2), config), load(line, config)
    assert theirs.model_version == ours.model_version
    for field, vectors in ours.embed(**given).items():
        np.testing.assert_array_equal(theirs.embed(**given)[field], vectors)
    shutil.rmtree(config.layout.mlflow)  # it was fetched: the registry may be away
    assert load(line, config).model_version == ours.model_version


def test_a_registered_version_may_have_a_name_of_its_own(config: Config) -> None:
    line = Packaged("models:/learned/1", name="mine", version=7)
    assert line.view == "member_activity_mine_v7"
    package(line, config)
    assert load(line, config).model_version.startswith("mine_v7/")


def test_an_unknown_version_is_refused_and_nothing_is_left(config: Config) -> None:
    line = Packaged("models:/learned/9")
    with pytest.raises(InputError, match="got 9; there are: 1, 2, 3"):
        package(line, config)
    assert not (config.data / "registered").exists()


@pytest.mark.parametrize("path", ["models:/learned@mine", "models:/learned", "models:x/1"])
def test_only_a_number_stands_for_a_version(path: str) -> None:
    with pytest.raises(InputError, match="expected a registered version such as models:/NAME/3"):
        Packaged(path)


def test_a_folder_needs_a_name_and_a_version() -> None:
    with pytest.raises(InputError, match="expected an aggregator's name"):
        Packaged("somewhere")


def test_formulas_can_be_registered_too(config: Config) -> None:
    folder = package(GeometricDecay(version=1, decay=0.8), config)
    assert registry.register(folder, config).uri == "models:/decay/1"


QUIET = """
import sys
from pathlib import Path
from models import registry
from tests.worlds.tiny_models import tiny_config
assert "mlflow" not in sys.modules
print([v.uri for v in registry.versions(tiny_config(Path(sys.argv[1])))])
assert "mlflow" not in sys.modules
with registry._client(tiny_config(Path(sys.argv[1]))) as client:
    client.search_registered_models()
"""


def test_it_keeps_quiet(config: Config) -> None:
    command = [sys.executable, "-c", QUIET, str(config.data.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['models:/learned/3', 'models:/learned/2', 'models:/learned/1']\n"
    assert done.stderr == ""
