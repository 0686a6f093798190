"""What is packaged is what is loaded, or it is refused with both values."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from models import spec
from models.backend import tf
from models.layers.build import build
from models.layers.geometric_decay import GeometricDecay as DecayLayer
from models.manifest import KEYS, KINDS
from models.packaging import load, package, write_manifest
from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay, Packaged, learned_kinds
from tests.worlds.tiny_models import Dying, Learned, tiny_config
from transformations.config import ROOT, Config
from transformations.errors import InputError, RunFailedError

DECAY = GeometricDecay(version=1, decay=0.8)


def arrays(config: Config, members: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (members, config.length)
    return {
        "item_embeddings": rng.normal(size=(*shape, config.dim)).astype(np.float32),
        "actions": rng.integers(0, 4, shape).astype(np.int32),
        "ages": rng.uniform(0, 28, shape).astype(np.float32),
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def edit(folder: Path, **changes: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest_of(folder) | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_manifest_says_what_the_numbers_depend_on(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, window="36h")
    manifest = manifest_of(package(DECAY, config))
    hashes = {key: manifest.pop(key) for key in ("weights_sha256", "files", "libraries")}
    assert manifest == {
        "name": "decay",
        "fit": 1,
        "version": 1,
        "dim": 2,
        "window": "36h",
        "length": 4,
        "actions": {"APPLY": 1, "SAVE": 2, "DISMISS": 3},
        "vectors": {"apply_embedding": 2, "save_embedding": 2, "dismiss_embedding": 2},
        "kind": "geometric_decay",
        "parameters": {"decay": 0.8},
        "item_encoder": {"name": "tfidf_svd", "version": 1, "fit": 1},
        "trained_until": None,
        "metrics": {},
    }
    assert len(hashes["weights_sha256"]) == 64
    assert "saved_model.pb" in hashes["files"]
    assert set(KEYS) == (manifest.keys() | hashes.keys()) - {"libraries"}


def test_there_is_one_signature_with_named_inputs_and_outputs(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    saved = tf.saved_model.load(str(package(DECAY, config)))
    assert list(saved.signatures) == ["embed"]
    signature = saved.signatures["embed"]
    inputs = {
        n: (s.dtype.name, s.shape.as_list())
        for n, s in signature.structured_input_signature[1].items()
    }
    assert inputs == {
        "item_embeddings": ("float32", [None, 4, 2]),
        "actions": ("int32", [None, 4]),
        "ages": ("float32", [None, 4]),
    }
    assert {n: s.shape.as_list() for n, s in signature.structured_outputs.items()} == {
        field: [None, 2] for field in DECAY.vectors(config)
    }


def test_packaging_again_changes_nothing(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    before = contents(package(DECAY, config))
    assert contents(package(DECAY, config)) == before
    assert [path.name for path in (config.layout.artifacts / "decay").iterdir()] == ["v1"]


def test_the_identity_is_in_the_tags_and_in_the_model_version(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    assert "weights_sha256" not in DECAY.identity(config)
    weights = manifest_of(package(DECAY, config))["weights_sha256"]
    assert DECAY.identity(config) == {
        "aggregator": "decay",
        "aggregator_version": "1",
        "aggregator_fit": "1",
        "item_encoder": "tfidf_svd",
        "item_encoder_version": "1",
        "item_encoder_fit": "1",
        "weights_sha256": weights,
    }
    assert load(DECAY, config).model_version == f"decay_v1/{weights[:12]}/tfidf_svd_v1"


HASH = """
import json, sys
from pathlib import Path
from models.layers.build import build
from models.packaging import package
from models.spec import GeometricDecay
from tests.worlds.tiny_models import Learned, tiny_config
config = tiny_config(Path(sys.argv[1]))
learned = Learned(version=1)
folders = [
    package(learned, config, trained=build(learned, config)),
    package(GeometricDecay(version=1, decay=0.8), config),
]
manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
print(json.dumps([manifest["weights_sha256"] for manifest in manifests]))
"""


def test_another_process_gives_the_same_weights_the_same_hash(tmp_path: Path) -> None:
    ours = tiny_config(tmp_path / "ours")
    learned = Learned(version=1)
    build(learned, ours)  # one more model before: layer names count up, the identity must not
    expected = [
        manifest_of(package(learned, ours, trained=build(learned, ours)))["weights_sha256"],
        manifest_of(package(DECAY, ours))["weights_sha256"],
    ]
    command = [sys.executable, "-c", HASH, str(tmp_path / "theirs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
    assert done.stderr == ""  # TensorFlow's chatter would stand here


def test_other_weights_or_parameters_have_another_hash(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    learned = Learned(version=1)
    model = build(learned, config)
    hashes = [manifest_of(package(learned, config, trained=model))["weights_sha256"]]
    model.set_weights([w + 1e-7 for w in model.get_weights()])
    other = replace(learned, version=2)
    hashes.append(manifest_of(package(other, config, trained=model))["weights_sha256"])
    hashes += [
        manifest_of(package(line, config))["weights_sha256"]
        for line in (
            Average(version=1),
            GeometricDecay(version=1, decay=0.8),
            GeometricDecay(name="fast", version=1, decay=0.8),
            GeometricDecay(name="slow", version=1, decay=0.81),
        )
    ]
    # The name does not change a number; r does.
    assert hashes[3] == hashes[4]
    assert len(set(hashes)) == len(hashes) - 1


def test_weights_are_trained_before_they_are_packaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train it first: activity train learned"):
        package(Learned(version=1), tiny_config(tmp_path))


def test_what_training_found_is_kept_in_the_manifest(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    learned = Learned(version=1)
    until = datetime(2026, 2, 1, tzinfo=UTC)
    model = build(learned, config)
    folder = package(learned, config, model, trained_until=until, metrics={"auc": 0.7})
    manifest = manifest_of(folder)
    assert (manifest["trained_until"], manifest["metrics"]) == (until.isoformat(), {"auc": 0.7})
    expected = model.predict(arrays(config), verbose=0)["activity_embedding"]
    got = load(learned, config).embed(**arrays(config))["activity_embedding"]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_other_weights_under_the_same_version_are_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    learned = Learned(version=1)
    model = build(learned, config)
    before = contents(package(learned, config, trained=model))
    assert contents(package(learned, config, trained=model)) == before
    model.set_weights([w + 1 for w in model.get_weights()])
    with pytest.raises(InputError, match="raise its version"):
        package(learned, config, trained=model)
    assert contents(learned.artifact(config)) == before


@pytest.mark.parametrize("does", [package, load])
@pytest.mark.parametrize(
    ("changes", "packaged", "expected"),
    [
        ({"dim": 3}, '"apply_embedding": 2', '"apply_embedding": 3'),
        ({"length": 5}, "4", "5"),
        ({"window": "7d"}, '"28d"', '"7d"'),
        (
            {"actions": {"SAVE": "positive", "APPLY": "positive", "DISMISS": "negative"}},
            '{"APPLY": 1, "SAVE": 2, "DISMISS": 3}',
            '{"SAVE": 1, "APPLY": 2, "DISMISS": 3}',
        ),
        (
            {"items": {"embedding": "theirs"}},
            '{"name": "tfidf_svd", "version": 1, "fit": 1}',
            '{"name": "theirs", "version": 1, "fit": 1}',
        ),
    ],
    ids=["dim", "length", "window", "actions", "item_encoder"],
)
def test_another_configuration_is_refused_with_both_values(
    tmp_path: Path,
    does: Callable[..., object],
    changes: dict[str, Any],
    packaged: str,
    expected: str,
) -> None:
    before = contents(package(DECAY, tiny_config(tmp_path)))
    with pytest.raises(InputError, match="raise its version") as error:
        does(DECAY, tiny_config(tmp_path, **changes))
    assert packaged in str(error.value)
    assert expected in str(error.value)
    assert contents(DECAY.artifact(tiny_config(tmp_path))) == before


def test_another_parameter_under_the_same_version_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    package(DECAY, config)
    with pytest.raises(InputError, match=r'packaged \{"decay": 0.8\}, expected \{"decay": 0.7\}'):
        package(replace(DECAY, decay=0.7), config)
    package(replace(DECAY, decay=0.7, version=2), config)
    assert (
        load(DECAY, config).model_version
        != load(replace(DECAY, decay=0.7, version=2), config).model_version
    )


def test_a_manifest_with_another_weights_hash_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    folder = package(DECAY, config)
    true = manifest_of(folder)["weights_sha256"]
    edit(folder, weights_sha256="0" * 64)
    with pytest.raises(RunFailedError, match=f"{'0' * 64}.*{true}"):
        load(DECAY, config)


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b" "),
        lambda file: file.unlink(),
    ],
    ids=["truncated", "appended", "gone"],
)
def test_damaged_files_are_refused(
    tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    config = tiny_config(tmp_path)
    folder = package(DECAY, config)
    damage(folder / name)
    with pytest.raises(RunFailedError, match=name):
        load(DECAY, config)


def test_a_file_that_was_not_packaged_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    (package(DECAY, config) / "assets.txt").write_text("more")
    with pytest.raises(RunFailedError, match=r"assets.txt: packaged no such file"):
        load(DECAY, config)


def test_what_is_not_packaged_is_asked_for(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(InputError, match="expected a packaged aggregator at"):
        load(DECAY, config)
    folder = package(DECAY, config)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        load(DECAY, config)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="expected the keys name, version"):
        load(DECAY, config)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="move it out of the way"):
        package(DECAY, config)


def test_a_killed_packaging_leaves_nothing_that_counts(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.packaging import package; "
        "from tests.worlds.tiny_models import Dying, tiny_config; "
        "package(Dying(version=1), tiny_config(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    config = tiny_config(tmp_path)
    left = [path.name for path in (config.layout.artifacts / "dying").iterdir()]
    assert left, "it was not killed in the middle of writing"
    assert all(name.endswith(".tmp") for name in left)
    with pytest.raises(InputError, match="expected a packaged aggregator"):
        load(Dying(version=1), config)


# Kinds, and the addresses that older manifests have instead.

OLD = [
    (DECAY, "models.aggregators:GeometricDecay"),
    (LearnedDecay(version=1), "models.learned:LearnedDecay"),
    (Learned(version=1), "tests.worlds.tiny_models:Projection"),
]
MovedLayer = DecayLayer


@dataclass(frozen=True, kw_only=True)
class Moved(GeometricDecay):
    """The same kind, its layer at another address."""

    layer: ClassVar[str] = "tests.models.test_packaging:MovedLayer"


def hash_with_address(folder: Path, manifest: dict[str, Any]) -> str:
    """Compute `weights_sha256` as the release that wrote addresses did, independently of ours."""
    named = ("vectors", "actions", "dim", "length", "layer", "parameters")
    digest = hashlib.sha256(json.dumps({k: manifest[k] for k in named}, sort_keys=True).encode())
    checkpoint = str(folder / "variables" / "variables")
    for name, _ in sorted(tf.train.list_variables(checkpoint)):
        if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
            values = tf.train.load_variable(checkpoint, name)
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def packaged_with_address(line: Aggregator, address: str, config: Config) -> tuple[Path, str]:
    """Package a line with the manifest that the release before wrote; return folder and hash."""
    folder = package(line, config, trained=build(line, config))
    manifest = manifest_of(folder)
    new = manifest["weights_sha256"]
    del manifest["kind"]
    manifest["layer"] = address
    manifest["weights_sha256"] = hash_with_address(folder, manifest)
    assert manifest["weights_sha256"] != new
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, manifest["weights_sha256"]


@pytest.mark.parametrize(("line", "address"), OLD, ids=lambda case: str(getattr(case, "name", "")))
def test_an_older_package_keeps_loading_with_its_identity(
    line: Aggregator, address: str, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path)
    folder, weights = packaged_with_address(line, address, config)
    version = f"{line.name}_v1/{weights[:12]}/tfidf_svd_v1"
    for loads in (line, Packaged(name=line.name, version=1, path=str(folder))):
        before = contents(folder)
        assert package(loads, config) == folder
        assert load(loads, config).model_version == version
        assert loads.identity(config)["weights_sha256"] == weights
        assert contents(folder) == before


def test_a_recipe_that_holds_a_setting_of_before_loads_where_it_had_no_effect(
    tmp_path: Path,
) -> None:
    config, line = tiny_config(tmp_path), LearnedDecay(version=1)
    folder = package(line, config, trained=build(line, config))
    recipe = manifest_of(folder)["recipe"]
    edit(folder, recipe=recipe | {"shuffle_sessions": False})
    assert load(line, config).aggregator == line
    edit(folder, recipe=recipe | {"shuffle_sessions": True})
    with pytest.raises(InputError, match=r'recipe: packaged .*"shuffle_sessions": true.*expected'):
        load(line, config)


def test_an_older_formula_has_the_hash_that_the_older_code_gave_it(tmp_path: Path) -> None:
    """Printed by commit 3d52556, the last that wrote addresses, for this configuration."""
    address = "models.aggregators:GeometricDecay"
    _, weights = packaged_with_address(DECAY, address, tiny_config(tmp_path))
    assert weights == "b44837ad7d42c6fb66020626307ffb6512888a4e22ac267c509040053d8f2ca8"


@pytest.mark.parametrize("address", ["models.aggregators:Average", "theirs:GeometricDecay"])
def test_an_older_package_of_another_address_is_refused(address: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    folder, _ = packaged_with_address(DECAY, "models.aggregators:GeometricDecay", config)
    edit(folder, layer=address)
    with pytest.raises(InputError, match=r'kind: packaged .*, expected "geometric_decay"'):
        load(DECAY, config)
    # `Packaged` names no kind, but the hash covers the address.
    with pytest.raises(RunFailedError, match="expected weights with the hash"):
        load(Packaged(name="decay", version=1, path=str(folder)), config)


def shipped_kinds() -> list[str]:
    """Name the kind of each class of models/spec.py."""
    classes = [value for value in vars(spec).values() if isinstance(value, type)]
    return [line.kind for line in classes if issubclass(line, Aggregator) and line.kind]


def test_kinds_are_distinct() -> None:
    kinds = shipped_kinds()
    assert len(set(kinds)) == len(kinds)
    assert set(kinds) - {"average", "geometric_decay"} <= set(learned_kinds())


def test_every_address_of_an_older_manifest_has_a_kind_of_today() -> None:
    assert set(KINDS.values()) <= set(shipped_kinds())
    assert len(set(KINDS.values())) == len(KINDS)


def test_a_layer_without_a_kind_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Nameless(Aggregator):
        layer: ClassVar[str] = "tests.models.test_packaging:MovedLayer"

    with pytest.raises(InputError, match="expected Nameless to have a `kind` beside its `layer`"):
        Nameless(name="nameless", version=1)


def test_moving_a_layers_file_changes_no_identity(tmp_path: Path) -> None:
    ours, moved = tiny_config(tmp_path / "ours"), tiny_config(tmp_path / "moved")
    line = Moved(version=1, decay=0.8)
    hashes = {
        manifest_of(package(line, config))["weights_sha256"]
        for line, config in ((DECAY, ours), (line, moved))
    }
    assert len(hashes) == 1
    # A package made before the move still loads after it.
    assert load(line, ours).model_version == load(DECAY, ours).model_version


# Anyone's SavedModel.


class Foreign(tf.Module):
    """No Keras, no layer of ours: the sum of the items, times a variable."""

    def __init__(self, length: int = 4, dim: int = 2, field: str = "taste_embedding") -> None:
        super().__init__()
        self.factor = tf.Variable(3.0)
        self.field = field
        self.embed = tf.function(
            self.sum,
            input_signature=[
                tf.TensorSpec((None, length, dim), tf.float32, "item_embeddings"),
                tf.TensorSpec((None, length), tf.int32, "actions"),
                tf.TensorSpec((None, length), tf.float32, "ages"),
            ],
        )

    def sum(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:  # noqa: ARG002
        return {self.field: self.factor * tf.reduce_sum(item_embeddings, axis=1)}


def foreign(folder: Path, config: Config, module: Foreign, **changes: Any) -> Packaged:
    line = Packaged(name="taste", version=1, path=str(folder))
    tf.saved_model.save(module, str(folder), signatures={"embed": module.embed})
    write_manifest(folder, line, config, vectors={"taste_embedding": 2})
    edit(folder, **changes)
    return line


def test_anyones_saved_model_joins_in_one_line(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    line = foreign(tmp_path / "made_elsewhere", config, Foreign())
    assert line.view == "member_activity_taste_v1"
    assert line.vectors(config) == {"taste_embedding": 2}
    before = contents(tmp_path / "made_elsewhere")
    assert package(line, config) == tmp_path / "made_elsewhere"
    assert contents(tmp_path / "made_elsewhere") == before
    given = arrays(config)
    got = load(line, config).embed(**given)["taste_embedding"].numpy()
    np.testing.assert_allclose(got, 3 * given["item_embeddings"].sum(axis=1), rtol=1e-6)


def test_a_foreign_models_formula_is_part_of_its_identity(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    lines = []
    for number, factor in enumerate((3.0, 4.0)):
        module = Foreign()
        module.factor = tf.constant(factor)  # in the graph, not among the variables
        lines.append(foreign(tmp_path / str(number), config, module))
    one, other = (load(line, config).model_version for line in lines)
    assert one != other


@pytest.mark.parametrize(
    ("module", "changes", "error"),
    [
        (Foreign(length=5), {}, r"actions: expected int32 \[None, 4\], got int32 \[None, 5\]"),
        (
            Foreign(dim=3),
            {},
            r"item_embeddings: expected .* \[None, 4, 2\], got .* \[None, 4, 3\]",
        ),
        (Foreign(field="other"), {}, "taste_embedding: expected .*, got nothing"),
        (Foreign(), {"name": "flavour"}, 'name: packaged "flavour", expected "taste"'),
        (Foreign(), {"dim": 64}, "dim: packaged 64, expected 2"),
        (Foreign(), {"item_encoder": {"name": "mine", "version": 9}}, '"mine", "version": 9'),
    ],
    ids=["length", "dimension", "field", "name", "dim", "item encoder"],
)
def test_a_foreign_model_that_does_not_fit_is_refused(
    tmp_path: Path, module: Foreign, changes: dict[str, Any], error: str
) -> None:
    config = tiny_config(tmp_path)
    line = foreign(tmp_path / "made_elsewhere", config, module, **changes)
    with pytest.raises(InputError, match=error):
        load(line, config)


def test_a_foreign_model_without_the_signature_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    module = Foreign()
    folder = tmp_path / "made_elsewhere"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.embed})
    line = Packaged(name="taste", version=1, path=str(folder))
    write_manifest(folder, line, config, vectors={"taste_embedding": 2})
    with pytest.raises(InputError, match=r"signature 'embed', got \['serving_default'\]"):
        load(line, config)


def test_an_artifact_can_be_copied_to_another_place(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(package(Average(version=1), config), copy)
    line = Packaged(name="average", version=1, path=str(copy))
    given = arrays(config)
    ours, theirs = load(Average(version=1), config), load(line, config)
    assert theirs.model_version == ours.model_version
    for field, vectors in ours.embed(**given).items():
        np.testing.assert_array_equal(theirs.embed(**given)[field], vectors)
