"""The model registry: MLflow keeps each training's settings, figures, curves and SavedModel.

By default in a SQLite file below the data folder; $MLFLOW_TRACKING_URI names another place. Each
registered version is a packaged aggregator with its manifest, which is all that is read here: what
somebody else packaged registers just as well. The alias `champion` marks the version that serves.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.spec import MANIFEST
from transformations.config import Config
from transformations.errors import InputError
from transformations.files import replacing_folder

CHAMPION = "champion"
# Tag of a registered model: the versions that were champion, oldest first, the present one last.
CHAMPIONS = "champions"
FOLDER = "aggregator"
URI = "MLFLOW_TRACKING_URI"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        name: The registered model: the aggregator's name.
        version: The registry's number, counted up by every training that is registered.
        view: The Feast view of the catalogue's line that it was trained as.
        champion: Whether it is what serves.
    """

    name: str
    version: int
    view: str
    champion: bool
    trained_until: str
    weights_sha256: str
    metrics: Mapping[str, float]

    @property
    def uri(self) -> str:
        """What `Packaged` takes to put this version into the catalogue."""
        return f"models:/{self.name}/{self.version}"


def register(folder: Path, config: Config) -> Registered:
    """Log a packaged aggregator and register it; the same weights are registered once.

    The first version of a name becomes its champion.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    name = manifest["name"]
    with _client(config) as client:
        for known in _versions(client, name):
            if known.weights_sha256 == manifest["weights_sha256"]:
                return known
        run = client.create_run(_experiment(client, name, config), run_name=_view(manifest))
        _log(client, run.info.run_id, manifest)
        client.log_artifacts(run.info.run_id, str(folder), FOLDER)
        client.set_terminated(run.info.run_id)
        if not _exists(client, name):
            client.create_registered_model(name)
        version = client.create_model_version(
            name,
            f"{run.info.artifact_uri}/{FOLDER}",
            run.info.run_id,
            tags={
                "view": _view(manifest),
                "trained_until": manifest["trained_until"] or "",
                "weights_sha256": manifest["weights_sha256"],
                "metrics": json.dumps(manifest["metrics"]),
            },
        )
        if not _champions(client, name):
            _crown(client, name, [int(version.version)])
        return next(v for v in _versions(client, name) if v.version == int(version.version))


def promote(config: Config, name: str, version: int) -> None:
    """Let the alias `champion` of `name` mark this version.

    Raises:
        InputError: there is no such version.
    """
    with _client(config) as client:
        _expect(client, name, version)
        before = _champions(client, name)
        if before[-1:] != [version]:
            _crown(client, name, [*before, version])


def rollback(config: Config, name: str) -> int:
    """Let `champion` mark the version that was it before; return its number.

    Raises:
        InputError: there was none before.
    """
    with _client(config) as client:
        there = {known.version for known in _versions(client, name)}
        champions = [v for v in _champions(client, name) if v in there]
        if len(champions) < 2:
            raise InputError(
                f"{name}: expected an earlier champion to go back to, found none; choose one: "
                f"activity promote {name} VERSION (`activity models` lists them)"
            )
        _crown(client, name, champions[:-1])
        return champions[-2]


def versions(config: Config) -> list[Registered]:
    """Return every registered version, by name, the newest first."""
    with _client(config) as client:
        names = sorted(model.name for model in client.search_registered_models())
        return [version for name in names for version in _versions(client, name)]


def fetch(config: Config, name: str, version: int, folder: Path) -> None:
    """Copy a registered SavedModel with its manifest to `folder`, whole or not at all.

    Raises:
        InputError: there is no such version, or `folder` is there.
    """
    with _client(config) as client, tempfile.TemporaryDirectory() as scratch:
        import mlflow

        _expect(client, name, version)
        source = client.get_model_version_download_uri(name, str(version))
        came = mlflow.artifacts.download_artifacts(
            source, dst_path=scratch, tracking_uri=client.tracking_uri
        )
        with replacing_folder(folder) as temporary:
            shutil.copytree(came, temporary, dirs_exist_ok=True)


@contextmanager
def _client(config: Config) -> Iterator[Any]:
    """Yield an MLflow client; what MLflow's own code is warned of is not for our users."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient  # 3 seconds, so only where it is asked

        folder = config.data / "mlflow"
        uri = os.environ.get(URI)
        if uri is None:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder / 'mlflow.db'}"
        yield MlflowClient(uri)


def _experiment(client: Any, name: str, config: Config) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # A server decides by itself where artifacts go.
    own = None if URI in os.environ else (config.data / "mlflow" / "artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=own))


def _log(client: Any, run_id: str, manifest: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    settings = {
        key: manifest.get(key) for key in ("layer", "parameters", "recipe", "trained_until", "dim")
    }
    params = [Param(key, str(value)[:500]) for key, value in _flat(settings)]
    last = [Metric(key, value, 0, 0) for key, value in manifest["metrics"].items()]
    curves = [
        Metric(f"{phase}/{key}", value, 0, epoch)
        for phase, passes in manifest.get("history", {}).items()
        for epoch, logs in enumerate(passes, start=1)
        for key, value in logs.items()
    ]
    figures = [
        Metric(f"data/{_plain(key)}", float(value), 0, 0)
        for key, value in _flat(manifest.get("figures", {}))
        if isinstance(value, int | float)
    ]
    client.log_batch(run_id, metrics=[*last, *curves, *figures], params=params)
    client.log_dict(run_id, manifest.get("figures", {}), "figures.json")


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings one by one, named recipe.examples.stride."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _plain(name: str) -> str:
    """Leave out of a metric's name what MLflow refuses."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)


def _view(manifest: Mapping[str, Any]) -> str:
    return f"member_activity_{manifest['name']}_v{manifest['version']}"


def _exists(client: Any, name: str) -> bool:
    return any(model.name == name for model in client.search_registered_models())


def _versions(client: Any, name: str) -> list[Registered]:
    champion = _champions(client, name)[-1:]
    found = client.search_model_versions(f"name = '{name}'")
    known = [
        Registered(
            name=name,
            version=int(version.version),
            view=version.tags["view"],
            champion=[int(version.version)] == champion,
            trained_until=version.tags["trained_until"],
            weights_sha256=version.tags["weights_sha256"],
            metrics=json.loads(version.tags["metrics"]),
        )
        for version in found
        if "weights_sha256" in version.tags  # not one of somebody else's models
    ]
    return sorted(known, key=lambda version: -version.version)


def _champions(client: Any, name: str) -> list[int]:
    for model in client.search_registered_models():
        if model.name == name:
            return [int(v) for v in model.tags.get(CHAMPIONS, "").split(",") if v]
    return []


def _crown(client: Any, name: str, champions: list[int]) -> None:
    client.set_registered_model_alias(name, CHAMPION, str(champions[-1]))
    client.set_registered_model_tag(name, CHAMPIONS, ",".join(map(str, champions)))


def _expect(client: Any, name: str, version: int) -> None:
    there = [known.version for known in _versions(client, name)]
    if version not in there:
        known = ", ".join(map(str, reversed(there))) or "none; activity train makes one"
        raise InputError(
            f"expected a registered version of {name}, came {version}; there are: {known}"
        )
