"""Packaged aggregators: a SavedModel with one signature, `embed`, and a manifest beside it.

The manifest holds what the vectors depend on. `weights_sha256` is the aggregator's identity: equal
for equal settings and weights in any process. `files` holds the SHA-256 of each file, which catches
a damaged copy; a SavedModel's bytes differ each time it is saved.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from models import registry
from models.allowed import refuse_other_operations
from models.backend import keras, tf
from models.inputs import Inputs, Number
from models.layers.build import build, input_shapes
from models.lines import similarity_of
from models.manifest import MANIFEST, Store, identity_keys
from models.spec import Aggregator, Learned, Packaged
from models.training.recipe import Recipe
from transformations.config import Config
from transformations.durations import DURATION_UNITS
from transformations.errors import InputError, RunFailedError
from transformations.files import plain_path, replacing_folder

SIGNATURE = "embed"
ASKED_SETTINGS = ("reads", "predicts", "attributes", "signs", "store")
"""Settings that only the manifest of a line that asks for them has."""
GONE = {"shuffle_sessions": False}
"""Settings of a recipe that older manifests hold: with these values, training is as it is today."""


@dataclass(frozen=True)
class Loaded:
    """A verified aggregator, ready to call.

    Attributes:
        vectors: Field → dimension, in the order of the view.
        model_version: Aggregator, weights and item encoder, as one text.
        store: How the vectors are kept.
        further: What `embed` reads beside items, actions and ages.
        embed: The SavedModel's signature: the inputs of models/layers/build.py as keyword
            arguments → {field: float32 [batch, dimension]}.
    """

    aggregator: Aggregator
    vectors: dict[str, int]
    model_version: str
    store: Store
    further: Inputs
    embed: Callable[..., dict[str, Any]]
    saved: Any
    """Keeps alive the variables that the signature reads."""


def package(
    aggregator: Aggregator,
    config: Config,
    trained: Any = None,
    trained_until: datetime | None = None,
    metrics: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write an aggregator's SavedModel and manifest if they are missing; return their folder.

    Args:
        trained: The Keras model with the weights, as `models.layers.build.build` makes it, for an
            aggregator that has weights.
        trained_until: All events that influenced the weights are before it.
        metrics: Metrics of the training, kept in the manifest.
        notes: More for the manifest, as JSON values: the data's figures, the curves.

    Raises:
        InputError: the folder holds the same version with other settings or weights, or the
            aggregator has untrained weights.
    """
    folder = aggregator.artifact(config)
    registered = to_fetch(aggregator, config)
    if registered is not None:
        registry.fetch(config, *registered, folder)
    packaged = aggregator.is_packaged(config)
    if aggregator.layer is None or (packaged and trained is None):
        _refuse_other_settings(aggregator, config, aggregator.manifest(config))
        return folder
    model = trained if trained is not None else build(aggregator, config)
    if trained is None and model.trainable_weights:
        raise InputError(
            f"{aggregator} has weights that are not trained and is not packaged at {folder}; "
            f"train it first: activity train {aggregator.name}"
        )
    if folder.exists() and not packaged:
        raise InputError(f"{folder} exists but holds no {MANIFEST}; move it out of the way")
    if packaged:
        _refuse_other_settings(aggregator, config, aggregator.manifest(config))
        _refuse_other_weights(aggregator, config, model)
        return folder
    with replacing_folder(folder) as temporary:
        _save(model, temporary, config)
        more = {"inputs": model.further.to_json()} if model.further else {}
        write_manifest(
            temporary, aggregator, config, trained_until, metrics, notes={**(notes or {}), **more}
        )
    return folder


def to_fetch(aggregator: Aggregator, config: Config) -> tuple[str, int] | None:
    """Return name and version of what `package` copies from the model registry, if anything."""
    registered = aggregator.registered if isinstance(aggregator, Packaged) else None
    return None if aggregator.artifact(config).exists() else registered


def write_manifest(
    folder: Path,
    aggregator: Aggregator,
    config: Config,
    trained_until: datetime | None = None,
    metrics: Mapping[str, float] | None = None,
    vectors: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest of the SavedModel in `folder`; call it once for one made elsewhere.

    Args:
        vectors: Field → dimension of a SavedModel made elsewhere; default: the aggregator's own.
        notes: More for the manifest, as JSON values.
    """
    files = _hash_files(folder)
    settings = _settings(aggregator, config, vectors or aggregator.vectors(config))
    manifest = settings | {
        "weights_sha256": _hash_weights(folder, settings | dict(notes or {}), files),
        "trained_until": trained_until.isoformat() if trained_until else None,
        "metrics": dict(metrics or {}),
        "files": files,
        "libraries": {"tensorflow": tf.__version__, "keras": keras.__version__},
        **(notes or {}),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def load(aggregator: Aggregator, config: Config) -> Loaded:
    """Load a packaged aggregator, after checking it against the catalogue and configuration.

    Raises:
        InputError: it is not packaged, or its manifest or signature differs from the catalogue or
            the configuration; the message holds both values. Or it holds operations beyond those
            of models/allowed.py.
        RunFailedError: the files differ from those that were packaged.
    """
    folder = aggregator.artifact(config)
    manifest = aggregator.manifest(config)
    _refuse_other_settings(aggregator, config, manifest)
    _refuse_other_files(folder, manifest)
    weights = _hash_weights(folder, manifest, manifest["files"])
    if weights != manifest["weights_sha256"]:
        raise RunFailedError(
            f"{folder}: expected weights with the hash {manifest['weights_sha256']}, as its "
            f"{MANIFEST} says, got {weights}; {_remedy(aggregator)}"
        )
    refuse_other_operations(folder, SIGNATURE)
    with plain_path(folder) as path:
        saved = tf.saved_model.load(str(path))
    vectors, further = aggregator.vectors(config), Inputs.of_manifest(manifest)
    _refuse_unknown_attributes(folder, further, config)
    _refuse_other_signature(folder, saved, config, vectors, further)
    space = aggregator.config_of(config).space
    return Loaded(
        aggregator=aggregator,
        vectors=vectors,
        model_version=f"{aggregator}/{manifest['weights_sha256'][:12]}/{space}",
        store=aggregator.stored_as(config),
        further=further,
        embed=saved.signatures[SIGNATURE],
        saved=saved,
    )


def specs(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]], batch: int | None = None
) -> dict[str, Any]:
    """Return the TensorSpecs of inputs: name → (dtype, shape without the batch)."""
    return {name: tf.TensorSpec((batch, *shape), dtype) for name, (dtype, shape) in shapes.items()}


def _save(model: Any, folder: Path, config: Config) -> None:
    # Keras's own export adds a second signature (serving_default) and names no outputs.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]

    @tf.function
    def embed(**inputs: Any) -> Any:
        return model(inputs, training=False)

    inputs = specs(input_shapes(config.length, config.dim, model.further))
    signatures = {SIGNATURE: embed.get_concrete_function(**inputs)}
    with plain_path(folder) as path:
        tf.saved_model.save(module, str(path), signatures=signatures)


def _settings(aggregator: Aggregator, config: Config, vectors: Mapping[str, int]) -> dict[str, Any]:
    """Return what the vectors depend on besides the weights, as JSON values."""
    space = aggregator.config_of(config).space
    similarity = similarity_of(config, aggregator)
    more: dict[str, Any] = {"reads": list(aggregator.reads)} if aggregator.reads else {}
    if aggregator.reads_signs:
        more["signs"] = _signs(config)
    if aggregator.store != "float32":
        more["store"] = aggregator.store
    if isinstance(aggregator, Learned):
        more |= {"recipe": described(aggregator.recipe)} | _asked(aggregator, config)
    return {
        "name": aggregator.name,
        "version": aggregator.version,
        "fit": aggregator.fit,
        "dim": config.dim,
        "window": _duration(config.window),
        "length": config.length,
        "actions": {action: config.rules.action_code(action) for action in config.actions},
        "vectors": dict(vectors),
        "kind": aggregator.kind,
        "parameters": aggregator.parameters(),
        "item_encoder": {
            "name": space.encoder,
            "version": space.version,
            "fit": space.fit,
            **({"similarity": similarity} if similarity != "cosine" else {}),
        },
        **more,
    }


def _asked(aggregator: Learned, config: Config) -> dict[str, Any]:
    """Return what a line asks for beyond items, actions and ages, and what that depends on."""
    asked: dict[str, Any] = {}
    if aggregator.predicts:
        asked["predicts"] = list(aggregator.predicts)
    if aggregator.attributes:
        asked["attributes"] = {
            name: config.rules.attributes[name].kind
            for name in aggregator.attributes
            if name in config.rules.attributes
        }
    return asked


def _signs(config: Config) -> dict[str, Any]:
    return {
        name: action.model_dump(include={"sign", "positive_if", "negative_if"})
        for name, action in config.actions.items()
    }


def described(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON values, durations as the configuration writes them.

    >>> described(Recipe(epochs=3))["validation"]
    '14d'
    """

    def plain(settings: list[tuple[str, Any]]) -> dict[str, Any]:
        return {k: _duration(v) if isinstance(v, timedelta) else v for k, v in settings}

    return asdict(recipe, dict_factory=plain)


def _duration(value: timedelta) -> str:
    """Write a duration as the configuration does: 28d, 36h."""
    for unit, name in DURATION_UNITS.items():
        if value % timedelta(**{name: 1}) == timedelta(0):
            return f"{value // timedelta(**{name: 1})}{unit}"
    return f"{value.total_seconds()}s"


def _hash_files(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != MANIFEST
    }


def _hash_weights(folder: Path, settings: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Hash what determines the vectors: the settings, then every variable's name and content.

    For a SavedModel made elsewhere (no kind) the files stand for the formula.
    """
    identity = identity_keys(settings)
    if settings["kind"] is None:
        identity["files"] = dict(files)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    with plain_path(folder) as path:
        checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        for name in sorted(checkpoint.get_variable_to_shape_map()):
            # The other entries describe the file, not the computation.
            if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
                array = checkpoint.get_tensor(name)
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
    return digest.hexdigest()


def _remedy(aggregator: Aggregator) -> str:
    if aggregator.layer is None:
        return "copy the folder again from its origin"
    return "remove the folder and package it again (a learned one: train it again)"


def differences(
    aggregator: Aggregator, config: Config, manifest: Mapping[str, Any] | None = None
) -> list[str]:
    """Return in what a package's settings differ from the catalogue and the configuration.

    One line per setting, with both values; nothing where it is not packaged.
    """
    if manifest is None:
        if not aggregator.is_packaged(config):
            return []
        manifest = aggregator.manifest(config)
    expected = _settings(aggregator, config, aggregator.vectors(config))
    if manifest["kind"] == aggregator.layer:
        expected["kind"] = aggregator.layer  # packaged before layers had a kind
    if aggregator.layer is None:
        # Made elsewhere: the catalogue does not know its kind and parameters.
        del expected["kind"], expected["parameters"]
    if isinstance(aggregator, Packaged) and aggregator.registered is not None:
        # The registry has its own numbers; the hash identifies the weights.
        del expected["name"], expected["version"], expected["fit"]
    of_signs = manifest.get("signs")
    if of_signs is not None:  # whoever made it, it reads what the configuration says of an action
        expected["signs"] = _signs(config)
    recipe = manifest.get("recipe")
    if recipe is not None and recipe | GONE == recipe:
        manifest = {**manifest, "recipe": {k: v for k, v in recipe.items() if k not in GONE}}
    if aggregator.layer is not None:  # what the line no longer asks for
        expected |= {key: None for key in ASKED_SETTINGS if key in manifest and key not in expected}
    # As JSON text, because the order of actions and vectors counts and JSON has no tuples.
    return [
        f"  {key}: packaged {json.dumps(manifest.get(key))}, expected {json.dumps(value)}"
        for key, value in expected.items()
        if json.dumps(manifest.get(key)) != json.dumps(value)
    ]


def _refuse_other_settings(
    aggregator: Aggregator, config: Config, manifest: Mapping[str, Any]
) -> None:
    differing = differences(aggregator, config, manifest)
    if differing:
        raise InputError(
            f"{aggregator} is packaged at {aggregator.artifact(config)} with other settings than "
            f"{config.catalogue} and {config.file}:\n" + "\n".join(differing) + "\nVectors of the "
            "two must not mix: raise its version in the catalogue, or undo the change"
        )


def _refuse_other_weights(aggregator: Aggregator, config: Config, model: Any) -> None:
    folder = aggregator.artifact(config)
    manifest = aggregator.manifest(config)
    with tempfile.TemporaryDirectory() as scratch:
        _save(model, Path(scratch), config)
        got = _hash_weights(Path(scratch), manifest, {})
    if got != manifest["weights_sha256"]:
        raise InputError(
            f"{aggregator} is packaged at {folder} with the weights "
            f"{manifest['weights_sha256']}, got {got}; raise its version in {config.catalogue}"
        )


def _refuse_other_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    got, expected = _hash_files(folder), manifest["files"]
    differing = [
        f"  {name}: packaged {expected.get(name, 'no such file')}, "
        f"got {got.get(name, 'no such file')}"
        for name in sorted(got.keys() | expected.keys())
        if got.get(name) != expected.get(name)
    ]
    if differing:
        raise RunFailedError(
            f"{folder} does not hold the files that were packaged (SHA-256):\n"
            + "\n".join(differing)
        )


def _refuse_unknown_attributes(folder: Path, further: Inputs, config: Config) -> None:
    for name, kept in further.attributes.items():
        wanted = "number" if isinstance(kept, Number) else "category"
        configured = config.rules.attributes.get(name)
        if configured is None or configured.kind != wanted:
            raise InputError(
                f"{folder} reads the attribute {name!r}, a {wanted}; expected it in "
                f"events.attributes of {config.file.name}, got "
                f"{'none' if configured is None else 'a ' + configured.kind}"
            )


def _refuse_other_signature(
    folder: Path, saved: Any, config: Config, vectors: Mapping[str, int], further: Inputs
) -> None:
    if SIGNATURE not in saved.signatures:
        raise InputError(
            f"{folder}: expected the signature {SIGNATURE!r}, got {sorted(saved.signatures)}"
        )
    signature = saved.signatures[SIGNATURE]
    expected = {
        name: f"{dtype} {[None, *shape]}"
        for name, (dtype, shape) in input_shapes(config.length, config.dim, further).items()
    } | {field: f"float32 {[None, dim]}" for field, dim in vectors.items()}
    got = {
        name: f"{spec.dtype.name} {spec.shape.as_list() if spec.shape.rank is not None else '?'}"
        for name, spec in (
            signature.structured_input_signature[1] | signature.structured_outputs
        ).items()
    }
    differing = [
        f"  {name}: expected {expected.get(name, 'nothing')}, got {got.get(name, 'nothing')}"
        for name in sorted(expected.keys() | got.keys())
        if expected.get(name) != got.get(name)
    ]
    if differing:
        raise InputError(
            f"{folder}: the signature {SIGNATURE!r} differs from the contract "
            "(models/layers/build.py):\n" + "\n".join(differing)
        )
