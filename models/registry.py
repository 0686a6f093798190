"""The model registry: MLflow keeps each training's settings, figures, curves and SavedModel.

By default in a SQLite file below the data folder; $MLFLOW_TRACKING_URI names another place. Each
registered version is a packaged aggregator with its manifest, which is all that is read here: what
somebody else packaged registers just as well.
"""

import json
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.manifest import read
from transformations import names
from transformations.config import Config
from transformations.errors import InputError
from transformations.files import replacing_folder

FOLDER = "aggregator"
DATABASE = "mlflow.db"
WEIGHTS = "weights_sha256"
"""The tag that tells our versions from those of other models."""
TAGS = ("releases", "serves")
"""What the ledger says of a version; it alone decides."""
VERSION_TAGS = """
select tag.name, tag.version, tag.key, tag.value
from model_version_tags as tag
inner join model_versions as version on tag.name = version.name and tag.version = version.version
where version.current_stage <> 'Deleted_Internal'
"""
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
        releases, serves: What `tag` has written: numbers of releases, and what they serve.
    """

    name: str
    version: int
    view: str
    trained_until: str
    weights_sha256: str
    metrics: Mapping[str, float]
    releases: str = ""
    serves: str = ""

    @property
    def uri(self) -> str:
        """What `Packaged` takes to put this version into the catalogue."""
        return f"models:/{self.name}/{self.version}"


def register(folder: Path, config: Config) -> Registered:
    """Log a packaged aggregator and register it; the same weights are registered once."""
    manifest = read(folder, str(folder))
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
                WEIGHTS: manifest["weights_sha256"],
                "metrics": json.dumps(manifest["metrics"]),
            },
        )
        return next(v for v in _versions(client, name) if v.version == int(version.version))


def versions(config: Config) -> list[Registered]:
    """Return every registered version, by name, the newest first.

    The registry of the data folder is read as the SQLite file that it is: importing MLflow to list
    five rows takes seconds. A test holds that both say the same.
    """
    if URI not in os.environ:
        return _read_local(config.layout.mlflow / DATABASE)
    with _client(config) as client:
        models = sorted(model.name for model in client.search_registered_models())
        return [version for name in models for version in _versions(client, name)]


def tag(config: Config, known: Iterable[Registered], facts: Mapping[str, Mapping[str, str]]) -> int:
    """Write what is known of weights as TAGS, where it is not there; return of how many versions.

    Args:
        facts: Weights → tag → value. Of others the tags are emptied.
    """
    changed = []
    for one in known:
        of = facts.get(one.weights_sha256, {})
        new = {name: of.get(name, "") for name in TAGS}
        if new != {name: getattr(one, name) for name in TAGS}:
            changed.append((one, new))
    if changed:  # the client takes seconds
        with _client(config) as client:
            for one, new in changed:
                for name, value in new.items():
                    client.set_model_version_tag(one.name, str(one.version), name, value)
    return len(changed)


def _read_local(file: Path) -> list[Registered]:
    if not file.exists():
        return []
    tags: dict[tuple[str, int], dict[str, str]] = {}
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as con:
        for name, version, key, value in con.execute(VERSION_TAGS):
            tags.setdefault((name, int(version)), {})[key] = value
    known = [_registered(*key, found) for key, found in tags.items() if WEIGHTS in found]
    return sorted(known, key=lambda version: (version.name, -version.version))


def fetch(config: Config, name: str, version: int, folder: Path) -> None:
    """Copy a registered SavedModel with its manifest to `folder`, whole or not at all.

    Raises:
        InputError: there is no such version, or `folder` is there.
    """
    with _client(config) as client, tempfile.TemporaryDirectory() as scratch:
        import mlflow

        _expect(client, name, version)
        source = client.get_model_version_download_uri(name, str(version))
        got = mlflow.artifacts.download_artifacts(
            source, dst_path=scratch, tracking_uri=client.tracking_uri
        )
        with replacing_folder(folder) as temporary:
            shutil.copytree(got, temporary, dirs_exist_ok=True)


@contextmanager
def _client(config: Config) -> Iterator[Any]:
    """Yield an MLflow client; what MLflow's own code is warned of is not for our users."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient  # 3 seconds, so only where it is asked

        folder = config.layout.mlflow
        uri = os.environ.get(URI)
        if uri is None:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder / DATABASE}"
        yield MlflowClient(uri)


def _experiment(client: Any, name: str, config: Config) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # A server decides by itself where artifacts go.
    own = None if URI in os.environ else (config.layout.mlflow / "artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=own))


def _log(client: Any, run_id: str, manifest: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    settings = {
        key: manifest.get(key) for key in ("kind", "parameters", "recipe", "trained_until", "dim")
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
    return names.view(manifest["name"], manifest["version"], manifest["fit"])


def _exists(client: Any, name: str) -> bool:
    return any(model.name == name for model in client.search_registered_models())


def _versions(client: Any, name: str) -> list[Registered]:
    found = client.search_model_versions(f"name = '{name}'")
    known = [
        _registered(name, int(version.version), version.tags)
        for version in found
        if WEIGHTS in version.tags  # not one of somebody else's models
    ]
    return sorted(known, key=lambda version: -version.version)


def _registered(name: str, version: int, tags: Mapping[str, str]) -> Registered:
    return Registered(
        name=name,
        version=version,
        view=tags["view"],
        trained_until=tags["trained_until"],
        weights_sha256=tags[WEIGHTS],
        metrics=json.loads(tags["metrics"]),
        **{name: tags.get(name, "") for name in TAGS},
    )


def _expect(client: Any, name: str, version: int) -> None:
    there = [known.version for known in _versions(client, name)]
    if version not in there:
        known = ", ".join(map(str, reversed(there))) or "none; activity train makes one"
        raise InputError(
            f"expected a registered version of {name}, got {version}; there are: {known}"
        )
