"""Item vectors from text and behaviour in one space; text counts more where actions are few."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.items import spec
from models.items.co_actions import Basis, behaviour_of, folded_in
from models.items.learning.archive import ids_array, ids_of, nested, packed, unpacked
from models.items.learning.pairs import Weighing
from models.items.learning.svd import with_signs
from models.items.learning.text_ridge import TEXT_DIM, agreement, encode_text, text_encoder
from models.items.protocol import Corpus, OneStep
from models.items.similarity import unit
from models.items.tfidf_svd import TfidfSvd
from transformations.errors import TooFewError


@dataclass(frozen=True)
class Parts:
    """What a joint space is made of: an item's co-actions beside its text.

    Attributes:
        basis: Folds co-actions in.
        text: Features of the text.
        trust: n / (n + trust) is the weight of the co-actions of an item with n positive actions.
        text_weight: The weight of the text's features.
    """

    basis: Basis
    text: TfidfSvd
    trust: float
    text_weight: float

    @classmethod
    def fit(cls, line: spec.Joint, corpus: Corpus, dim: int, text_dim: int = TEXT_DIM) -> Self:
        """Fit both on all that the corpus holds.

        Raises:
            TooFewError: too few items have pairs, or no two items share a word.
        """
        behaviour, _ = behaviour_of(corpus)
        basis = Basis.fit(behaviour, Weighing.of(line), dim)
        text = text_encoder(corpus.documents, text_dim)
        if text is None:
            raise TooFewError(
                f"it joins text and co-actions, but no two of {len(corpus):,} items share a word "
                "or a category; CoActions needs none"
            )
        return cls(basis, text, line.trust, line.text_weight)

    @property
    def width(self) -> int:
        """How many features an item has."""
        return self.basis.projection.shape[1] + self.text.dim

    def features(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return [co-actions · n / (n + trust), text · text_weight], float32 [items, width]."""
        return self.with_counts(corpus)[0]

    def with_counts(self, corpus: Corpus) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the features, and how many positive actions each item has, int64 [items]."""
        vectors, counts = folded_in(self.basis, corpus)
        return self.joined(vectors, counts, encode_text(self.text, corpus.documents)), counts

    def joined(
        self, vectors: NDArray[np.float32], counts: NDArray[np.int64], texts: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the features of items with these co-actions, numbers of actions and texts."""
        sure = (counts / np.maximum(counts + self.trust, 1e-9)).astype(np.float32)
        return np.concatenate(
            [vectors * sure[:, None], texts * np.float32(self.text_weight)], axis=1
        )


@dataclass(frozen=True)
class Joint(OneStep):
    """A fitted encoder: a linear map of both parts. The methods are those of `FittedEncoder`.

    Attributes:
        parts: Make an item's features.
        map: float32 [features, dim].
        figures: What the manifest keeps.
    """

    parts: Parts
    map: NDArray[np.float32]
    figures: dict[str, Any]

    @classmethod
    def fitted(cls, line: spec.Joint, corpus: Corpus, dim: int) -> Self:
        """Fit on all that the corpus holds; a later event or item is not in it.

        Raises:
            TooFewError: as `Parts.fit`; or the features span fewer dimensions than `dim`.
        """
        parts = Parts.fit(line, corpus, dim)
        features = parts.features(corpus)
        map_ = principal(features, dim)
        return cls(parts, map_, figures_of(parts, features, map_))

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""
        return self.map.shape[1]

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return vectors of length 1, float32 [items, dim]; zeros for an item without both parts.

        An item's vector does not depend on the other items of the call.
        """
        return unit(self.parts.features(corpus) @ self.map)

    def describe(self) -> dict[str, Any]:
        """Return how much it was fitted on, and how good the vectors from text alone are."""
        return self.figures

    def to_bytes(self) -> bytes:
        """Return the encoder as a NumPy archive: equal bytes for equal encoders."""
        return packed(*self.archived())

    def archived(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and facts of the archive."""
        basis = self.parts.basis
        arrays = {
            "contexts": ids_array(basis.contexts),
            "projection": basis.projection,
            "text": nested(self.parts.text.to_bytes()),
            "map": self.map,
        }
        facts = {
            "weighing": asdict(basis.weighing),
            "trust": self.parts.trust,
            "text_weight": self.parts.text_weight,
            "figures": self.figures,
        }
        return arrays, facts

    @classmethod
    def from_bytes(cls, archive: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        arrays, facts = unpacked(archive)
        return cls(parts_of(arrays, facts), arrays["map"], facts["figures"])


def parts_of(arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> Parts:
    """Return the parts that an archive holds."""
    weighing = Weighing(**facts["weighing"])
    basis = Basis(ids_of(arrays["contexts"]), arrays["projection"], weighing)
    text = TfidfSvd.from_bytes(arrays["text"].tobytes())
    return Parts(basis, text, facts["trust"], facts["text_weight"])


def figures_of(
    parts: Parts, features: NDArray[np.float32], map_: NDArray[np.float32]
) -> dict[str, Any]:
    """Return what a manifest keeps: how much a fit saw, and what an item without actions gets.

    `text_alone` compares the vectors of items with actions with those that their text alone gives.
    """
    n_behaviour = parts.basis.projection.shape[1]
    acted_on = features[:, :n_behaviour].any(axis=1) & features[:, n_behaviour:].any(axis=1)
    text_alone = features[acted_on].copy()
    text_alone[:, :n_behaviour] = 0.0
    whole = features[acted_on] @ map_
    return {
        "contexts": len(parts.basis.contexts),
        "text_features": parts.text.dim,
        "text_alone": {"items": len(whole), **agreement(text_alone @ map_, whole, whole)}
        if len(whole)
        else None,
    }


def principal(features: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return the first right singular vectors of the items' features, float32 [features, dim].

    Raises:
        TooFewError: the features span fewer dimensions.
    """
    squares = features.astype(np.float64).T @ features.astype(np.float64)
    values, vectors = np.linalg.eigh(squares)
    found = int((values > values.max(initial=0.0) * 1e-9).sum())
    if found < dim:
        raise TooFewError(
            f"a space of {dim} dimensions needs text and co-actions that span as many, got {found} "
            f"of {len(features):,} items; set `dim` lower, or wait for more activity"
        )
    return with_signs(vectors[:, ::-1][:, :dim]).astype(np.float32)
