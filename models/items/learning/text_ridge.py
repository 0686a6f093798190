"""A vector from an item's text, in a space that was learned from what members did.

Ridge regression from the text's features to the vectors of items that have actions: an item that
nobody acted on yet gets a vector near those of items with like texts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.items.protocol import Corpus, Document
from models.items.similarity import comparable, unit
from models.items.tfidf_svd import MIN_ITEMS, TfidfSvd, tokens
from transformations.names import Similarity

TEXT_DIM = 256
"""Dimensions of the text's features, at most."""
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
HELD_OUT = 5
"""Each fifth item is held out to choose the penalty by, and to say how good it is."""
JUDGED = 2_000
"""Held-out items at most, evenly spaced."""
NEIGHBOURS = 10
LEAST = 10
"""Fewer items with vectors teach nothing."""


def text_encoder(documents: Sequence[Document], dim: int) -> TfidfSvd | None:
    """Return an encoder of these texts with at most `dim` dimensions; None if no word is shared."""
    items_with = Counter(token for document in documents for token in {*tokens(document)})
    terms = sum(items >= MIN_ITEMS for items in items_with.values())
    found = min(dim, len(documents), terms)
    return TfidfSvd.of_documents(documents, found) if found else None


def encode_text(text: TfidfSvd, documents: Sequence[Document]) -> NDArray[np.float32]:
    """Return the features of these texts, float32 [items, features]."""
    return text.encode(Corpus(documents))


@dataclass(frozen=True)
class TextRidge:
    """A linear map from text features to a space.

    Attributes:
        weights: float32 [features, dim].
        figures: The penalty, how many items it was fitted on, and `agreement` on items that were
            held out.
    """

    weights: NDArray[np.float32]
    figures: dict[str, Any]

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        vectors: NDArray[np.float32],
        similarity: Similarity = "cosine",
    ) -> Self | None:
        """Fit on items [items, features] with vectors [items, dim]; None if they are too few.

        Rows of zeros, of items without a known word or without actions, are left out.
        """
        known = features.any(axis=1) & vectors.any(axis=1)
        x, y = features[known].astype(np.float64), vectors[known].astype(np.float64)
        if len(x) < LEAST:
            return None
        held_out = np.arange(len(x)) % HELD_OUT == 0
        taught = x[~held_out], y[~held_out]
        predicted = {penalty: x[held_out] @ _solve(*taught, penalty) for penalty in PENALTIES}
        best = max(predicted, key=lambda penalty: _cosine(predicted[penalty], y[held_out]))
        figures = {
            "items": len(x),
            "penalty": best,
            **agreement(predicted[best], y[held_out], y[~held_out], similarity),
        }
        return cls(_solve(x, y, best).astype(np.float32), figures)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors, float32 [items, dim]; zeros for features of zeros.

        They are as long as the text is sure of them, shorter than what they predict, which in a
        cosine space has length 1: made as long, all would be near whatever is in the middle.
        """
        return features @ self.weights


def agreement(
    predicted: NDArray[Any],
    true: NDArray[Any],
    others: NDArray[Any],
    similarity: Similarity = "cosine",
) -> dict[str, float]:
    """Return how alike two vectors of the same items are, on average of at most 2,000 of them.

    Args:
        predicted: float [items, dim].
        true: float [items, dim].
        others: The items among which neighbours are found, float [others, dim].
        similarity: Of the space, by which the nearest are found.

    Returns:
        `cosine`, and `overlap_at_10`: the share of the ten others nearest to the one that are
        among the ten nearest to the other.
    """
    chosen = slice(None, None, max(-(-len(true) // JUDGED), 1))
    predicted, true = predicted[chosen], true[chosen]
    return {
        "cosine": round(_cosine(predicted, true), 4),
        "overlap_at_10": round(_overlap(predicted, true, others, similarity), 4),
    }


def _solve(x: NDArray[np.float64], y: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = x.T @ x + penalty * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(squares, x.T @ y), np.float64)


def _cosine(predicted: NDArray[Any], true: NDArray[Any]) -> float:
    return float((unit(predicted) * unit(true)).sum(axis=1).mean())


def _overlap(
    predicted: NDArray[Any], true: NDArray[Any], others: NDArray[Any], similarity: Similarity
) -> float:
    among = comparable(others, similarity).T
    count = min(NEIGHBOURS, among.shape[1])
    nearest = (_nearest(comparable(each, similarity), among, count) for each in (predicted, true))
    pairs = zip(*nearest, strict=True)
    return sum(len(np.intersect1d(one, other)) for one, other in pairs) / (count * len(true))


def _nearest(vectors: NDArray[Any], among: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the nearest columns of `among` to each vector, int64 [vectors, count]."""
    scores = vectors @ among
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
