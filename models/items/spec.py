"""What a line of ITEM_ENCODERS says, in plain Python: it is read without any library."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import Any, ClassVar, Literal

from models.spec import Learned, LearnedDecay, LearnedVector
from transformations import names
from transformations.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ItemEncoder:
    """One line of ITEM_ENCODERS: items in, one vector each out. Each version is an item space.

    A subclass names its `kind`, and the class that is fitted in `encoder` as "module:Class"
    (contract: models/items/protocol.py). That module is imported only when something is encoded.

    Attributes:
        name: Part of the space's and the view's name. Another name than the default lets two
            settings of one kind live side by side.
        version: Part of both too. Raise it whenever the definition changes.
    """

    kind: ClassVar[str]
    """The public name of what it computes; moving a file changes no identity."""
    encoder: ClassVar[str | None] = None
    """Address of the fitted class; None where the source holds the vectors."""
    reads_activity: ClassVar[bool] = False
    """Whether it reads what members did: then it sees what happened before its `fit_before`, and
    items get a new vector as they are acted on."""
    similarity: ClassVar[names.Similarity] = "cosine"
    """How near two vectors of its space are: neighbours, match, map and distances follow it."""
    goes_on: ClassVar[bool] = False
    """Whether a fit may begin with the weights of another: it has `go_on` (protocol.py)."""
    later_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that came later: left out of the manifest where they are the default."""

    name: str
    version: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(
                f"expected an item encoder's name of lower-case letters, digits and _, got "
                f"{self.name!r}; it becomes part of the view's name"
            )
        if self.version < 1:
            raise InputError(f"{self.name}: expected a version of 1 or more, got {self.version}")

    def __str__(self) -> str:
        return names.fitted(self.name, self.version)

    def in_fit(self, fit: int) -> names.Space:
        """Return the space of one of its fits."""
        return names.Space(self.name, self.version, fit)

    @property
    def predicts(self) -> tuple[str, ...]:
        """The actions that it is trained to predict; empty: none in particular."""
        return ()

    @property
    def reads_number(self) -> str:
        """The attribute of actions, a number, that its fit reads; empty: none."""
        return ""

    def parameters(self) -> dict[str, Any]:
        """Return the subclass's own settings, for the manifest."""
        base = {f.name for f in fields(ItemEncoder)}
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in base
            and not (f.name in self.later_settings and getattr(self, f.name) == f.default)
        }

    def _expect(self, setting: str, right: bool, expected: str) -> None:
        if not right:
            raise InputError(
                f"{self.name}: {setting}: expected {expected}, got {getattr(self, setting)!r}"
            )


@dataclass(frozen=True, kw_only=True)
class TfidfSvd(ItemEncoder):
    """TF-IDF of an item's text and categories, reduced by SVD."""

    kind: ClassVar[str] = "tfidf_svd"
    encoder: ClassVar[str] = "models.items.tfidf_svd:TfidfSvd"

    name: str = "tfidf_svd"


@dataclass(frozen=True, kw_only=True)
class Given(ItemEncoder):
    """Vectors that the items source holds, made elsewhere.

    Attributes:
        column: The column of the source, one of `items.embedding` in activity.yaml.
        similarity: What they were made for: `cosine`, or `dot`, where lengths count too.
    """

    kind: ClassVar[str] = "given"

    column: str
    similarity: names.Similarity = "cosine"  # type: ignore[misc]  # of a kind, but here of a line

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("similarity", self.similarity in names.MEASURES, "'cosine' or 'dot'")


@dataclass(frozen=True, kw_only=True)
class CoActions(ItemEncoder):
    """Shrunk positive pointwise mutual information of items that the same members liked, by SVD.

    Attributes:
        reach: Positive actions of a member between the two of a pair, at most.
        decay: Weight of a pair per position between its two.
        shrink: n of n / (n + shrink), by which a pair of n co-actions counts.
        context_power: Of the contexts' counts: flattens the popular ones (Levy et al., 2015).
    """

    kind: ClassVar[str] = "co_actions"
    encoder: ClassVar[str] = "models.items.co_actions:CoActions"
    reads_activity: ClassVar[bool] = True

    name: str = "co_actions"
    reach: int = 5
    decay: float = 0.9
    shrink: float = 3.0
    context_power: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("reach", self.reach >= 1, "at least 1")
        self._expect("decay", 0 < self.decay <= 1, "above 0, at most 1")
        self._expect("shrink", self.shrink >= 0, "0 or more")
        self._expect("context_power", 0 < self.context_power <= 1, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class Joint(CoActions):
    """Text and co-actions in one space: joined, scaled and reduced by SVD.

    Attributes:
        text_weight: Of the text's vector beside the co-actions'.
        trust: n / (n + trust) is the weight of the co-actions of an item with n actions.
    """

    kind: ClassVar[str] = "joint"
    encoder: ClassVar[str] = "models.items.joint:Joint"

    name: str = "joint"
    text_weight: float = 0.7
    trust: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("text_weight", self.text_weight >= 0, "0 or more")
        self._expect("trust", self.trust >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class SkipGram(ItemEncoder):
    """Word2Vec, each item a word: what stands near it in members' sessions or histories.

    Attributes:
        sentences: `sessions`, a member's actions with less than `session_gap` between two; or
            `histories`, all of them.
        session_gap: Minutes between two actions that start a new session.
        only_positive: Whether other actions are left out.
        window: Words to either side at most.
        negatives: Words drawn per pair.
        subsample: Words above this share are left out at random.
        epochs: How often each sentence is seen.
        seed: Of the first vectors and the negatives.
    """

    kind: ClassVar[str] = "skip_gram"
    encoder: ClassVar[str] = "models.items.skip_gram:SkipGram"
    reads_activity: ClassVar[bool] = True

    name: str = "skip_gram"
    sentences: Literal["sessions", "histories"] = "sessions"
    session_gap: float = 30.0
    only_positive: bool = True
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    epochs: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("sessions", "histories")
        self._expect("sentences", self.sentences in known, "'sessions' or 'histories'")
        self._expect("session_gap", self.session_gap > 0, "minutes above 0")
        for setting in ("window", "negatives", "epochs"):
            self._expect(setting, getattr(self, setting) >= 1, "at least 1")
        self._expect("subsample", 0 <= self.subsample <= 1, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class Factors(ItemEncoder):
    """Item factors of implicit-feedback matrix factorization.

    Attributes:
        algorithm: `als`, alternating least squares (Hu, Koren & Volinsky, 2008), or `bpr`, Bayesian
            personalized ranking (Rendle et al., 2009).
        confidence: What an action counts, as ("APPLY", 2.0); others count 1. BPR counts none.
        confidence_by: A number of `events.attributes`, as a rating, by which what an action counts
            is multiplied where it has one; one of 0 or less counts nothing.
        regularization: Of the factors.
        iterations: Of the algorithm.
        seed: Of the first factors and what is drawn.
    """

    kind: ClassVar[str] = "factors"
    encoder: ClassVar[str] = "models.items.factors:Factors"
    reads_activity: ClassVar[bool] = True
    similarity: ClassVar[names.Similarity] = "dot"
    later_settings: ClassVar[tuple[str, ...]] = ("confidence_by",)

    name: str = "factors"
    algorithm: Literal["als", "bpr"] = "als"
    confidence: tuple[tuple[str, float], ...] = ()
    confidence_by: str = ""
    regularization: float = 0.01
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("algorithm", self.algorithm in ("als", "bpr"), "'als' or 'bpr'")
        above = all(weight > 0 for _, weight in self.confidence)
        self._expect("confidence", above, "numbers above 0")
        for setting in ("confidence", "confidence_by"):
            read = self.algorithm == "als" or not getattr(self, setting)
            self._expect(setting, read, "none with algorithm='bpr', which does not read it")
        self._expect("regularization", self.regularization >= 0, "0 or more")
        self._expect("iterations", self.iterations >= 1, "at least 1")

    @property
    def reads_number(self) -> str:
        """The one that weighs its actions."""
        return self.confidence_by


@dataclass(frozen=True, kw_only=True)
class Keywords(ItemEncoder):
    """The keywords of an item's text, and word vectors trained on the workspace's own texts.

    Attributes:
        keywords: Words of an item that count at most.
        reach: Words apart of two that recommend each other, at most.
        damping: Of PageRank.
        window: Words to either side, of the word vectors.
        epochs: How often each text is seen.
        seed: Of the first vectors and the negatives.
    """

    kind: ClassVar[str] = "keywords"
    encoder: ClassVar[str] = "models.items.keywords:Keywords"

    name: str = "keywords"
    keywords: int = 12
    reach: int = 3
    damping: float = 0.85
    window: int = 5
    epochs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("keywords", "reach", "window", "epochs"):
            self._expect(setting, getattr(self, setting) >= 1, "at least 1")
        self._expect("damping", 0 < self.damping < 1, "above 0, below 1")


def _two_decays() -> LearnedDecay:
    """Return the layer that needs nothing of a good space but the weights of its items."""
    return LearnedDecay(version=1, ranks="positive", projected=False, share="all", decays=2)


@dataclass(frozen=True, kw_only=True)
class Trained(Joint):
    """A linear map of text and co-actions, trained through an aggregator.

    Attributes:
        layer: The aggregator that it is trained through. A line of AGGREGATORS with the same
            settings that reads this space gets its weights from the same training.
        text_dim: Dimensions of the text's vector before the map.
        own_part: Above 0, an item has a part of its own beside the map, of which n / (n +
            own_part) counts with n positive actions. It overfits where most items have few.
        epochs: How often each label is seen.
        labels: Labels seen per epoch at most, so that training has a bound; each epoch draws
            others.
        seed: Of the negatives, the order and the dropout.
    """

    kind: ClassVar[str] = "trained"
    encoder: ClassVar[str] = "models.items.trained:Trained"
    goes_on: ClassVar[bool] = True

    name: str = "trained"
    text_weight: float = 1.0
    layer: LearnedVector = field(default_factory=_two_decays)
    text_dim: int = 256
    own_part: float = 0.0
    epochs: int = 10
    labels: int = 150_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("text_dim", self.text_dim >= 1, "at least 1")
        self._expect("own_part", self.own_part >= 0, "0 or more")
        self._expect("epochs", self.epochs >= 1, "at least 1")
        self._expect("labels", self.labels >= 1, "at least 1")

    def aggregator(self, version: int, **settings: Any) -> LearnedVector:
        """Return the line of AGGREGATORS that reads this space and shares its training.

        Args:
            settings: Others than the layer's of what decides no weights: name, stream, store.

        >>> line = Trained(version=3).aggregator(version=2, stream=True)
        >>> str(line), line.items
        ('learned_decay_v2', 'trained_v3')
        """
        return replace(self.layer, version=version, items=str(self), **settings)

    @property
    def predicts(self) -> tuple[str, ...]:
        """Those of its layer."""
        return self.layer.predicts

    def trains(self, line: Learned) -> bool:
        """Whether a line that reads this space gets its weights from the same training."""
        return layer_settings(line) == layer_settings(self.layer)

    def parameters(self) -> dict[str, Any]:
        """Return the settings; of the layer, what decides its weights."""
        return super().parameters() | {"layer": layer_settings(self.layer)}


def layer_settings(line: Learned) -> dict[str, Any]:
    """Return what decides a learned line's layer, as JSON values; not its name or recipe."""
    return {
        "kind": line.kind,
        **line.parameters(),
        "reads": list(line.reads),
        "predicts": list(line.predicts),
        "signs": line.reads_signs,
        "attributes": list(line.attributes),
    }


def kind_of(kind: str) -> type[ItemEncoder]:
    """Return the class of the lines of a kind that is fitted.

    Raises:
        InputError: no encoder is of this kind.
    """
    kinds = {line.kind: line for line in _below(ItemEncoder) if line.encoder is not None}
    if kind not in kinds:
        raise InputError(
            f"expected an item encoder of the kind {', '.join(sorted(kinds))}, got {kind!r}"
        )
    return kinds[kind]


def fitted_class(kind: str) -> Any:
    """Return the class that is fitted for a kind of encoder."""
    module, _, name = str(kind_of(kind).encoder).partition(":")
    return getattr(import_module(module), name)


def _below(cls: type[ItemEncoder]) -> Iterator[type[ItemEncoder]]:
    for child in cls.__subclasses__():
        yield child
        yield from _below(child)
