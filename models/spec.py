"""What a line of the catalogue says, in plain Python; Feast declares views from it."""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from models import manifest
from models.manifest import MANIFEST
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
class Average(Aggregator):
    """Per action, the plain mean of the item vectors; zeros where there is none."""

    kind: ClassVar[str] = "average"
    layer: ClassVar[str] = "models.layers.average:Average"
    per_action: ClassVar[bool] = True
    order_matters: ClassVar[bool] = False

    name: str = "average"


@dataclass(frozen=True, kw_only=True)
class GeometricDecay(Aggregator):
    """Weights r^(newer actions); per action they sum to one, as LinkedIn published it.

    Attributes:
        decay: r, above 0 and below 1: the share of its weight that an action keeps when a newer
            one follows. One for all actions, or one each, in the order of `activity.yaml`.
        ranks: What counts as newer: `action`, those of the same kind; or `positive`, the positive
            ones of any kind, so that the vectors tell which kind is fresh. Then the weights of all
            positive actions together sum to one, and so do those of all others.
        pooled: One vector over all positive actions, instead of one per action.
    """

    kind: ClassVar[str] = "geometric_decay"
    layer: ClassVar[str] = "models.layers.geometric_decay:GeometricDecay"
    per_action: ClassVar[bool] = True
    later_settings: ClassVar[tuple[str, ...]] = ("ranks", "pooled")

    name: str = "decay"
    decay: float | tuple[float, ...]
    ranks: Literal["action", "positive"] = "action"
    pooled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        each = self.decay if isinstance(self.decay, tuple) else (self.decay,)
        if not each or not all(0 < r < 1 for r in each):
            raise InputError(f"decay: expected 0 < r < 1, got {self.decay}")
        if self.ranks not in ("action", "positive"):
            raise InputError(
                f"{self.name}: ranks: expected 'action' or 'positive', got {self.ranks!r}"
            )

    def vectors(self, config: Config) -> dict[str, int]:
        """Return one field per action, or the single one of a pooled line."""
        return {names.SINGLE_VECTOR: config.dim} if self.pooled else super().vectors(config)

    @property
    def reads_signs(self) -> bool:
        """Whether positive actions are told from others."""
        return self.pooled or self.ranks == "positive"


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


@dataclass(frozen=True, kw_only=True)
class LearnedVector(Learned):
    """What the learned layers have in common: one vector, `activity_embedding`.

    Attributes:
        normalize: Scale the vector to length 1, except zeros and the default vector.
        learned_default: Learn the vector of a member without actions; else it is zeros.
        use_sessions: Give the layer each action's session.
        session_gap: Minutes between two actions that start a new session.
    """

    normalize: bool = False
    learned_default: bool = True
    use_sessions: bool = False
    session_gap: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("session_gap", self.session_gap > 0, "minutes above 0")

    def _expect(self, setting: str, right: bool, expected: str) -> None:
        if not right:
            raise InputError(
                f"{self.name}: {setting}: expected {expected}, got {getattr(self, setting)!r}"
            )


@dataclass(frozen=True, kw_only=True)
class LearnedDecay(LearnedVector):
    """Per action, a decayed mean whose decay, weight and projection are learned: strong and tiny.

    Attributes:
        decays: Decays per action, from fast to slow, each with its own projection.
        share: The weights sum to one over `all` actions, so a rare or old kind counts little; or
            within each `action`, so each kind's mean counts alike.
        hidden: Units of a hidden layer over the means, counts and freshness, whose output (zero at
            first) is added; 0 for none.
        ranks: `action`: weights decay by the newer actions of the same kind, of all kinds, and by
            days. `positive`: instead of all kinds, by the newer positive actions, from 1.2 (fast)
            to 0.15 (slow), and also by the logarithm of hours; the scalars learn 8 times as fast.
            It needs no `signs=True`.
        projected: Whether kernels are learned between the means and the vector. Without them the
            vector is the plain sum, which a good item space does not need more than.
    """

    kind: ClassVar[str] = "learned_decay"
    layer: ClassVar[str] = "models.layers.learned_decay:LearnedDecay"
    later_settings: ClassVar[tuple[str, ...]] = ("ranks", "projected")

    name: str = "learned_decay"
    decays: int = 1
    share: Literal["all", "action"] = "action"
    hidden: int = 0
    ranks: Literal["action", "positive"] = "action"
    projected: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("decays", self.decays >= 1, "at least 1")
        self._expect("share", self.share in ("all", "action"), "'all' or 'action'")
        self._expect("hidden", self.hidden >= 0, "0 or more")
        self._expect("ranks", self.ranks in ("action", "positive"), "'action' or 'positive'")

    @property
    def reads_signs(self) -> bool:
        """Whether the line asks for them, or its ranks need them."""
        return self.signs or self.ranks == "positive"


@dataclass(frozen=True, kw_only=True)
class AttentionPool(LearnedVector):
    """Learned queries weigh the actions; each action's weighted sum has its own projection.

    Attributes:
        queries: Number of queries, each with its own weights.
        units: Width of the keys.
        use_ages: Give the keys each action's age.
        dropout: Share of the keys' inputs dropped in training.
    """

    kind: ClassVar[str] = "attention_pool"
    layer: ClassVar[str] = "models.layers.attention_pool:AttentionPool"

    name: str = "attention"
    queries: int = 2
    units: int = 32
    use_ages: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("queries", self.queries >= 1, "at least 1")
        self._expect("units", self.units >= 1, "at least 1")
        self._expect("dropout", 0 <= self.dropout < 1, "0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class Cnn(LearnedVector):
    """A convolution over the actions, pooled, as in LinkedIn's post.

    Attributes:
        filters: Channels of each convolution.
        kernel: Neighbouring actions that a convolution sees.
        layers: Number of convolutions.
        pooling: `max` or `avg` over the actions.
        use_ages: Give the layer each action's age.
        dropout: Share of the pooled values dropped in training.
    """

    kind: ClassVar[str] = "cnn"
    layer: ClassVar[str] = "models.layers.cnn:Cnn"

    name: str = "cnn"
    filters: int = 64
    kernel: int = 3
    layers: int = 1
    pooling: Literal["max", "avg"] = "max"
    use_ages: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("filters", "kernel", "layers"):
            self._expect(setting, getattr(self, setting) >= 1, "at least 1")
        self._expect("pooling", self.pooling in ("max", "avg"), "'max' or 'avg'")
        self._expect("dropout", 0 <= self.dropout < 1, "0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class Gru(LearnedVector):
    """A gated recurrent unit over the actions, oldest first.

    Attributes:
        units: Width of its state.
        use_ages: Give the layer each action's age.
        dropout: Share of its inputs and of its last state dropped in training.
    """

    kind: ClassVar[str] = "gru"
    layer: ClassVar[str] = "models.layers.gru:Gru"

    name: str = "gru"
    units: int = 64
    use_ages: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("units", self.units >= 1, "at least 1")
        self._expect("dropout", 0 <= self.dropout < 1, "0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class Transformer(LearnedVector):
    """A small causal transformer; its state at the newest action becomes the vector.

    Attributes:
        units: Width; divisible by `heads`.
        heads: Attention heads of each layer.
        layers: Attention and feed-forward layers.
        positions: Learned positions, from the newest action; older ones share the last.
        use_ages: Give the layer each action's age.
        dropout: Share of each layer's output dropped in training.
    """

    kind: ClassVar[str] = "transformer"
    layer: ClassVar[str] = "models.layers.transformer:Transformer"

    name: str = "transformer"
    units: int = 64
    heads: int = 2
    layers: int = 2
    positions: int = 32
    use_ages: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("units", "heads", "layers", "positions"):
            self._expect(setting, getattr(self, setting) >= 1, "at least 1")
        divisible = f"a multiple of heads={self.heads}"
        self._expect("units", self.units % self.heads == 0, divisible)
        self._expect("dropout", 0 <= self.dropout < 1, "0 or more, below 1")


def learned_kinds() -> dict[str, Callable[..., LearnedVector]]:
    """Return kind → class for every learned kind; subclasses are found by themselves."""
    return {kind.kind: kind for kind in _below(LearnedVector) if kind.kind is not None}


def _below(cls: type[LearnedVector]) -> Iterator[type[LearnedVector]]:
    for child in cls.__subclasses__():
        yield child
        yield from _below(child)
