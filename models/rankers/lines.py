"""The kinds of ranker: what their lines say, in plain Python; read without any library."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from models.rankers.spec import Ranker

Impute = Literal["mean", "mode", "token"]
"""What stands for a number that is missing (models/rankers/preprocessing.py)."""


@dataclass(frozen=True, kw_only=True)
class Scaled(Ranker):
    """What the kinds share that read scaled numbers.

    Attributes:
        impute: What stands for a missing number: the `mean` of the training rows or their `mode`,
            and a column that says that it was missing; or a `token`: that column alone, of every
            number, missing in training or not.
        min_count: A category that fewer training rows have is the unknown one.
    """

    impute: Impute = "mean"
    min_count: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = get_args(Impute)
        self._expect("impute", self.impute in kinds, f"one of {', '.join(kinds)}")
        self._expect("min_count", self.min_count >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Linear(Scaled):
    """Logistic regression, one per action: what a team has today, the floor that gains count from.

    Attributes:
        l2: Of the squared weights, beside the mean loss of a pair.
    """

    kind: ClassVar[str] = "linear"
    code: ClassVar[str] = "models.rankers.linear:LinearRanker"

    name: str = "linear"
    l2: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("l2", self.l2 >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class BoostedTrees(Ranker):
    """LightGBM's lambdarank: trees that order each group; categories and missing values are native.

    Attributes:
        trees: At most; early stopping on the validation's NDCG@10 may keep fewer.
        leaves: Of a tree.
        learning_rate: Share of each tree that counts.
        min_rows: Pairs in a leaf at least.
        patience: Trees without a better validation after which it stops.
        min_count: A category that fewer training rows have is missing.
        entries: Whether trees read each entry of member ∘ item too; else, of two vectors of one
            space, only how well they match.
    """

    kind: ClassVar[str] = "boosted_trees"
    code: ClassVar[str] = "models.rankers.boosted_trees:BoostedTreesRanker"
    scores_are_probabilities: ClassVar[bool] = False

    name: str = "boosted_trees"
    trees: int = 200
    leaves: int = 31
    learning_rate: float = 0.08
    min_rows: int = 50
    patience: int = 30
    min_count: int = 5
    entries: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("trees", "min_rows", "patience", "min_count"):
            self._expect(setting, getattr(self, setting) >= 1, "at least 1")
        self._expect("leaves", self.leaves >= 2, "at least 2")
        self._expect("learning_rate", 0 < self.learning_rate <= 1, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class WideAndDeep(Scaled):
    """A factorization machine beside a feed-forward network, over the same inputs.

    One output per action; all are trained together. With the ids alone it is what the field calls

    >>> mf = WideAndDeep(name="mf", version=1, reads=("ids",), deep=(), weight_decay=1.0)
    >>> ncf = WideAndDeep(name="ncf", version=1, reads=("ids",))

    matrix factorization (the wide part: biases and one dot product of member and item, decayed)
    and neural collaborative filtering (both parts).

    From: Rendle, "Factorization Machines", 2010; Cheng et al., "Wide & Deep Learning for
    Recommender Systems", 2016; He et al., "Neural Collaborative Filtering", 2017.

    Attributes:
        wide: What the factorization machine reads: beginnings of columns' names, as
            "item.category" or "pair.", or "ids"; empty: all that the network reads.
        deep: Units of the network's layers; empty: no network.
        embedding_dim: Of the factors of each column and category, and of the network's categories.
        hashed_ids: The number of codes that ids share by their hash; None: each id that has
            `min_count` rows has its own.
        dropout: Share of each layer that training leaves out.
        weight_decay: Share of each weight that a step takes off, times the learning rate (AdamW):
            L2.
        epochs: At most; training stops when the validation has not been better for `patience`.
        patience: Epochs. Without validation labels all epochs are trained.
        batch_size: Pairs in a step; groups stay whole.
        learning_rate: Of AdamW.
        listwise: Weight of the softmax cross-entropy over each group, beside that of the actions.
        balanced: Whether, per action, positive pairs count as much as the others together. The
            probabilities are put right again.
    """

    kind: ClassVar[str] = "wide_and_deep"
    code: ClassVar[str] = "models.rankers.wide_and_deep:WideAndDeepRanker"
    goes_on: ClassVar[bool] = True

    name: str = "wide_and_deep"
    wide: tuple[str, ...] = ()
    deep: tuple[int, ...] = (128, 64)
    embedding_dim: int = 16
    hashed_ids: int | None = None
    dropout: float = 0.1
    weight_decay: float = 1e-3
    epochs: int = 20
    patience: int = 2
    batch_size: int = 1024
    learning_rate: float = 1e-3
    listwise: float = 1.0
    balanced: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("deep", all(units >= 1 for units in self.deep), "units of at least 1 each")
        for setting in ("embedding_dim", "epochs", "patience", "batch_size"):
            self._expect(setting, getattr(self, setting) >= 1, "at least 1")
        self._expect("hashed_ids", self.hashed_ids is None or self.hashed_ids >= 1, "at least 1")
        self._expect("dropout", 0 <= self.dropout < 1, "0 or more, below 1")
        self._expect("learning_rate", self.learning_rate > 0, "above 0")
        for setting in ("weight_decay", "listwise"):
            self._expect(setting, getattr(self, setting) >= 0, "0 or more")
