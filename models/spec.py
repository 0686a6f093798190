"""What a line of the catalogue says, in plain Python; Feast declares views from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.aggregator import Aggregator as Aggregator
from models.aggregator import Learned as Learned
from models.aggregator import Packaged as Packaged
from transformations import names
from transformations.config import Config
from transformations.errors import InputError


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
            to 0.15 (slow), and also by the logarithm of hours; the scalars learn 24 times as fast.
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
class Sessions(Gru):
    """A gated recurrent unit over sessions, oldest first; the order inside one changes nothing.

    A list of items is often seen at once, so that the order of its actions says nothing.

    Attributes:
        use_ages: Give the layer the age of each session's newest action.
        use_sessions: Give the layer each session's number, from the newest.
    """

    kind: ClassVar[str] = "sessions"
    layer: ClassVar[str] = "models.layers.sessions:Sessions"

    name: str = "sessions"


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
