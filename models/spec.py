"""What the catalogue says of an aggregator, in plain Python: Feast declares views from it."""

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from models.recipe import Recipe
from transformations.config import Config
from transformations.errors import InputError

MANIFEST = "manifest.json"
MANIFEST_KEYS = (
    "name",
    "version",
    "dim",
    "window",
    "length",
    "actions",
    "vectors",
    "layer",
    "parameters",
    "item_encoder",
    "weights_sha256",
    "trained_until",
    "metrics",
    "files",
)


@dataclass(frozen=True, kw_only=True)
class Aggregator:
    """One line of the catalogue: sequences in, one or more named vectors out.

    A subclass names its Keras layer in `layer` as "module:Class"; it is imported only when the
    aggregator is built, so that a reader of the catalogue never loads TensorFlow. Its own
    dataclass fields become that class's arguments (models/aggregators.py says what it is given
    and what it returns).

    Attributes:
        name: Part of the view's name. A subclass has a default; another name lets two settings of
            one kind live side by side.
        version: Part of the view's name. Two versions live side by side; raise it whenever the
            numbers change.
        stream: Whether the stream keeps its vectors fresh between two daily runs.
    """

    layer: ClassVar[str | None] = None
    """None for what is packaged already."""
    per_action: ClassVar[bool] = False
    """Whether there is one vector per configured action, or a single one."""
    order_matters: ClassVar[bool] = True
    """Whether the same actions in another order may give other vectors (a contract test)."""

    name: str
    version: int
    stream: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(
                f"expected an aggregator's name of lower-case letters, digits and _, came "
                f"{self.name!r}; it becomes part of the view's name"
            )
        if self.version < 1:
            raise InputError(f"{self.name}: expected a version of 1 or more, came {self.version}")

    @property
    def view(self) -> str:
        """Name of the Feast view and of the folder of its embeddings."""
        return f"member_activity_{self.name}_v{self.version}"

    @property
    def service(self) -> str:
        """Name of the Feast feature service that a ranker asks."""
        return f"ranker_{self.name}_v{self.version}"

    @property
    def match(self) -> str:
        """Name of the on-demand view that compares the member's vectors with an item's."""
        return f"activity_match_{self.name}_v{self.version}"

    def vectors(self, config: Config) -> dict[str, int]:
        """Return the vector fields, in order, with their dimensions.

        One field `<action>_embedding` per action, or the single `activity_embedding`.
        """
        if self.per_action:
            return {f"{action.lower()}_embedding": config.dim for action in config.actions}
        return {"activity_embedding": config.dim}

    def parameters(self) -> dict[str, Any]:
        """Return the subclass's own settings, as they go to the Keras class and the manifest."""
        base = {f.name for f in fields(Aggregator)} | {"recipe"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in base}

    def artifact(self, config: Config) -> Path:
        """Folder of this aggregator's SavedModel and manifest."""
        return config.artifacts_dir / self.name / f"v{self.version}"

    def identity(self, config: Config) -> dict[str, str]:
        """Return what made these vectors, as tags: read from the manifest once it is packaged."""
        encoder = config.items.encoder
        tags = {
            "aggregator": self.name,
            "aggregator_version": str(self.version),
            "item_encoder": encoder.name,
            "item_encoder_version": str(encoder.version),
        }
        if (self.artifact(config) / MANIFEST).exists():
            tags["weights_sha256"] = str(self.manifest(config)["weights_sha256"])
        return tags

    def manifest(self, config: Config) -> dict[str, Any]:
        """Return the packaged aggregator's manifest.

        Raises:
            InputError: there is none, or it is not the mapping that packaging writes.
        """
        file = self.artifact(config) / MANIFEST
        try:
            manifest = json.loads(file.read_text())
        except FileNotFoundError:
            raise InputError(
                f"{self.name} v{self.version}: expected a packaged aggregator at {file.parent}, "
                f"found no {MANIFEST} there"
            ) from None
        except ValueError as error:
            raise InputError(f"{file} is not valid JSON: {error}") from None
        missing = [key for key in MANIFEST_KEYS if key not in manifest]
        if missing:
            raise InputError(f"{file}: expected the keys {', '.join(missing)}, which are missing")
        return dict(manifest)


@dataclass(frozen=True, kw_only=True)
class Average(Aggregator):
    """Per action, the plain mean of the item vectors; zeros where there is none."""

    layer: ClassVar[str] = "models.aggregators:Average"
    per_action: ClassVar[bool] = True
    order_matters: ClassVar[bool] = False

    name: str = "average"


@dataclass(frozen=True, kw_only=True)
class GeometricDecay(Aggregator):
    """Per action, weights proportional to r^(n-i), oldest first, that sum to one.

    Attributes:
        decay: r, above 0 and below 1: how much of its weight an action keeps when a newer one of
            the same kind follows.
    """

    layer: ClassVar[str] = "models.aggregators:GeometricDecay"
    per_action: ClassVar[bool] = True

    name: str = "decay"
    decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay < 1:
            raise InputError(f"decay: expected 0 < r < 1, came {self.decay}")


@dataclass(frozen=True, kw_only=True)
class Learned(Aggregator):
    """A layer with weights: `activity train`, or the daily run where there are none yet, fits them.

    Attributes:
        recipe: How it is trained. Any layer can be trained with any objective.
    """

    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True, kw_only=True)
class Packaged(Aggregator):
    """Anyone's SavedModel folder with the signature `embed` and a manifest, from anywhere.

    `models.packaging.write_manifest` makes the manifest of a SavedModel that has none.

    Attributes:
        path: The folder; a relative one is taken from the repository root.
    """

    path: str

    def vectors(self, config: Config) -> dict[str, int]:
        """Return the vector fields with their dimensions, as the manifest names them."""
        return {field: int(dim) for field, dim in self.manifest(config)["vectors"].items()}

    def parameters(self) -> dict[str, Any]:
        """Return nothing: the settings are inside the SavedModel."""
        return {}

    def artifact(self, config: Config) -> Path:
        """Folder of the SavedModel and its manifest."""
        return config.path(self.path)
