"""What every line of AGGREGATORS has in common, and the lines of what was made elsewhere."""

import copy
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from models import manifest
from models.manifest import MANIFEST, Store
from models.training.recipe import Recipe
from transformations import names
from transformations.config import Config
from transformations.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Aggregator:
    """One line of the catalogue: sequences in, one or more named vectors out.

    A subclass names its `kind`, and its Keras layer in `layer` as "module:Class". The layer is
    imported only when it is built, so reading the catalogue never loads TensorFlow. The subclass's
    own dataclass fields become the layer's arguments (contract: models/layers/build.py).

    Attributes:
        name: Part of the view's name. Another name than the default lets two settings of one kind
            live side by side.
        version: Part of the view's name. Raise it whenever the definition changes; versions live
            side by side.
        stream: Whether the stream keeps its vectors fresh between two daily runs.
        store: How its vectors are kept, online and in snapshots: `float32`, or `int8` in about a
            quarter of the bytes. It decides no weights, but the type of the view's columns, and so
            belongs to the version.
        reads: The actions that it sees; others are PAD to it. Default: all.
        items: The item space that it reads, as ITEM_ENCODERS names it: "co_actions_v1". Default:
            the first.
        fit: What the line became from data, counted from 1; `of_fit` sets it, no catalogue does.
        space: The item space that this fit reads; None for the configuration's.
    """

    kind: ClassVar[str | None] = None
    """The public name of what it computes, part of a package's identity; None for `Packaged`. It is
    not the address below, so moving a file changes no identity."""
    layer: ClassVar[str | None] = None
    """Address of the Keras layer; None for `Packaged`."""
    per_action: ClassVar[bool] = False
    """Whether it has one vector per configured action, or a single one."""
    order_matters: ClassVar[bool] = True
    """Whether the order of actions may change the vectors (a contract test)."""
    later_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that the kind did not always have. At their defaults they are no part of a package's
    identity, so packages of before stay what they are."""

    name: str
    version: int
    stream: bool = False
    store: Store = "float32"
    reads: tuple[str, ...] = ()
    items: str = ""
    fit: int = field(default=1, init=False)
    space: names.Space | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(
                f"expected an aggregator's name of lower-case letters, digits and _, got "
                f"{self.name!r}; it becomes part of the view's name"
            )
        if self.layer is not None and self.kind is None:
            raise InputError(
                f"{self.name}: expected {type(self).__name__} to have a `kind` beside its `layer` "
                "(a public name that survives when the layer's file moves)"
            )
        if self.version < 1:
            raise InputError(f"{self.name}: expected a version of 1 or more, got {self.version}")
        if self.store not in get_args(Store):
            raise InputError(
                f"{self.name}: store: expected {' or '.join(map(repr, get_args(Store)))}, got "
                f"{self.store!r}"
            )

    def __str__(self) -> str:
        return names.fitted(self.name, self.version, self.fit)

    def of_fit(self, fit: int, space: names.Space) -> Self:
        """Return this line as one of its fits, which reads one item space."""
        own = copy.copy(self)
        object.__setattr__(own, "fit", fit)
        object.__setattr__(own, "space", space)
        return own

    def config_of(self, config: Config) -> Config:
        """Return the configuration in the item space that this line reads."""
        return config if self.space is None else config.in_space(self.space)

    @property
    def view(self) -> str:
        """Name of the Feast view and of the folder of its embeddings."""
        return names.view(self.name, self.version, self.fit)

    @property
    def service(self) -> str:
        """Name of the Feast feature service that a ranker reads."""
        return names.service(self.name, self.version, self.fit)

    @property
    def match(self) -> str:
        """Name of the on-demand view that compares the member's vectors with an item's."""
        return names.match_view(self.name, self.version, self.fit)

    def vectors(self, config: Config) -> dict[str, int]:
        """Return the vector fields, in order, with their dimensions.

        One field `<action>_embedding` per action, or the single `activity_embedding`.
        """
        if self.per_action:
            return {names.vector_field(a): config.dim for a in self.reads or config.actions}
        return {names.SINGLE_VECTOR: config.dim}

    def parameters(self) -> dict[str, Any]:
        """Return the subclass's own settings, for the Keras layer and the manifest."""
        base = {f.name for kind in (Aggregator, Learned) for f in fields(kind)}
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in base
            and not (f.name in self.later_settings and getattr(self, f.name) == f.default)
        }

    @property
    def reads_signs(self) -> bool:
        """Whether it reads each action's sign."""
        return False

    def artifact(self, config: Config) -> Path:
        """Folder of this aggregator's SavedModel and manifest."""
        return config.layout.artifact(self.name, self.version, self.fit)

    def identity(self, config: Config) -> dict[str, str]:
        """Return what made these vectors, as tags; with the hash of the weights once packaged."""
        space = self.config_of(config).space
        tags = {
            "aggregator": self.name,
            "aggregator_version": str(self.version),
            "aggregator_fit": str(self.fit),
            "item_encoder": space.encoder,
            "item_encoder_version": str(space.version),
            "item_encoder_fit": str(space.fit),
        }
        if self.is_packaged(config):
            tags["weights_sha256"] = str(self.manifest(config)["weights_sha256"])
        return tags

    def is_packaged(self, config: Config) -> bool:
        """Whether its folder holds a whole package."""
        return (self.artifact(config) / MANIFEST).exists()

    def stored_as(self, config: Config) -> Store:
        """Return how its vectors are kept: what its package says, once there is one.

        Raises:
            InputError: the line asks for another way than it is packaged with.
        """
        if not self.is_packaged(config):
            return self.store
        packaged = manifest.store_of(self.manifest(config))
        if packaged != self.store:
            raise InputError(
                f"{self} is packaged with store={packaged!r}, got store={self.store!r} in the "
                "catalogue: columns of two types must not mix. Raise its version, or undo the "
                "change; where nothing made by it was published, the next run packages it again"
            )
        return packaged

    def manifest(self, config: Config) -> dict[str, Any]:
        """Return the packaged aggregator's manifest.

        Raises:
            InputError: it is missing, or not what packaging writes.
        """
        return manifest.read(self.artifact(config), str(self))

    def item_dim(self, config: Config) -> int:
        """Return the dimension of the item vectors that it reads."""
        return config.dim

    def actions(self, config: Config) -> list[str]:
        """Return the actions whose counts stand beside the vectors, in order."""
        return list(config.actions)

    def predicted(self, config: Config) -> tuple[str, ...]:  # noqa: ARG002 - Packaged's reads it
        """Return the actions that it was trained to predict; empty: none in particular."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Learned(Aggregator):
    """A layer with weights, which `activity train` or the first daily run fits.

    Attributes:
        recipe: How it is trained. Any layer can be trained with any objective.
        predicts: The actions that are its positive labels; negatives are items of their kinds.
            Default: every positive action.
        signs: Whether it reads each action's sign.
        attributes: The attributes of an action that it reads: numbers and categories.
    """

    recipe: Recipe = field(default_factory=Recipe)
    predicts: tuple[str, ...] = ()
    signs: bool = False
    attributes: tuple[str, ...] = ()

    def predicted(self, config: Config) -> tuple[str, ...]:  # noqa: ARG002 - Packaged's reads it
        """Return what the line says."""
        return self.predicts

    @property
    def reads_signs(self) -> bool:
        """Whether the line asks for them."""
        return self.signs


@dataclass(frozen=True, kw_only=True)
class Packaged(Aggregator):
    """Anyone's SavedModel folder with the signature `embed` and a manifest, from anywhere.

    `models.packaging.write_manifest` writes a missing manifest. A registered version needs only
    its address: `Packaged("models:/learned_decay/3")`.

    Attributes:
        path: The folder, relative to the repository root; or a registered version,
            models:/NAME/VERSION, which then gives the line's name and version.
    """

    path: str = field(kw_only=False)
    name: str = ""
    version: int = 0

    def __post_init__(self) -> None:
        if self.registered is not None:
            name, version = self.registered
            object.__setattr__(self, "name", self.name or name)
            object.__setattr__(self, "version", self.version or version)
        super().__post_init__()

    @property
    def registered(self) -> tuple[str, int] | None:
        """Name and version in the model registry, for a path models:/NAME/VERSION."""
        if not self.path.startswith("models:"):
            return None
        address = re.fullmatch(r"models:/([^/@]+)/(\d+)", self.path)
        if address is None:
            # An alias or a stage moves, so one view would hold vectors of two spaces.
            raise InputError(
                f"expected a registered version such as models:/NAME/3, got {self.path!r}; "
                "`activity models` lists them"
            )
        return address[1], int(address[2])

    def manifest(self, config: Config) -> dict[str, Any]:
        """Return the manifest; also raises InputError if it is not copied here yet."""
        if self.registered is not None and not self.artifact(config).exists():
            raise InputError(
                f"{self.path} is not copied from the model registry to {self.artifact(config)} "
                "yet; `activity run` copies it"
            )
        return super().manifest(config)

    def stored_as(self, config: Config) -> Store:
        """Return what the manifest says, which the line may repeat; kept lines do not.

        Raises:
            InputError: the line asks for int8 and the manifest does not.
        """
        packaged = manifest.store_of(self.manifest(config))
        if self.store not in ("float32", packaged):
            raise InputError(
                f'{self}: expected "store": {self.store!r} in the {MANIFEST} of '
                f"{self.artifact(config)}, as the line asks, got {packaged!r}; write the manifest "
                "with this line (models.packaging.write_manifest), or leave store out"
            )
        return packaged

    def vectors(self, config: Config) -> dict[str, int]:
        """Return the manifest's vector fields with their dimensions."""
        return {field: int(dim) for field, dim in self.manifest(config)["vectors"].items()}

    def item_dim(self, config: Config) -> int:
        """Return the manifest's dimension: that of a kept line may be another one."""
        return int(self.manifest(config)["dim"])

    def actions(self, config: Config) -> list[str]:
        """Return the manifest's actions: a kept line's rows have no count of a later one."""
        return list(self.manifest(config)["actions"])

    def predicted(self, config: Config) -> tuple[str, ...]:
        """Return what the manifest says."""
        return tuple(self.manifest(config).get("predicts", ()))

    def parameters(self) -> dict[str, Any]:
        """Return nothing: the settings are inside the SavedModel."""
        return {}

    def artifact(self, config: Config) -> Path:
        """Folder of the SavedModel and its manifest, or of the local copy of a registered one."""
        if self.registered is None:
            return config.path(self.path)
        return config.layout.registered(*self.registered)
