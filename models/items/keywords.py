"""Item vectors from the keywords of a text, in word vectors of the workspace's own texts.

Keywords by TextRank (Mihalcea & Tarau, "TextRank: bringing order into texts", 2004), weighted by
inverse document frequency; words as vectors by skip-gram on all texts. An item is the weighted mean
of its keywords.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.items import spec
from models.items.learning.archive import packed, strings_array, strings_of, unpacked
from models.items.learning.words import skip_gram
from models.items.protocol import Corpus, Document, OneStep
from models.items.similarity import unit
from models.items.tfidf_svd import MIN_ITEMS, tokens
from transformations.errors import TooFewError

PRECISION, MOST_STEPS = 1e-8, 2_000  # enough for a damping of 0.99


@dataclass(frozen=True)
class Keywords(OneStep):
    """A fitted encoder; the methods are those of `FittedEncoder`.

    Attributes:
        words: The known words and categories, sorted.
        idf: Inverse document frequency of each, float64 [words].
        vectors: Of each, float32 [words, dim], of length 1.
        most: Keywords of an item at most.
        reach: Words apart of two that recommend each other, at most.
        damping: Of PageRank.
    """

    words: list[str]
    idf: NDArray[np.float64]
    vectors: NDArray[np.float32]
    most: int
    reach: int
    damping: float

    @classmethod
    def fitted(cls, line: spec.Keywords, corpus: Corpus, dim: int) -> Self:
        """Fit on these items; the same items in the same order give the same encoder.

        Raises:
            TooFewError: fewer words than `dim` that at least two items share.
        """
        texts = [list(tokens(document)) for document in corpus.documents]
        items_with = Counter(word for text in texts for word in {*text})
        shared = {word for word, items in items_with.items() if items >= MIN_ITEMS}
        if len(shared) < dim:
            raise TooFewError(
                f"word vectors of {dim} dimensions need at least {dim} words that {MIN_ITEMS} or "
                f"more items have, got {len(shared):,} in {len(texts):,} items"
            )
        sentences = [[word for word in text if word in shared] for text in texts]
        words, vectors = skip_gram(
            sentences, dim, window=line.window, epochs=line.epochs, seed=line.seed
        )
        idf = np.log((1 + len(texts)) / (1 + np.array([items_with[word] for word in words]))) + 1
        return cls(words, idf, unit(vectors), line.keywords, line.reach, line.damping)

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""
        return self.vectors.shape[1]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def keywords(self, document: Document) -> dict[str, float]:
        """Return an item's keywords with their weights, which sum to 1, the heaviest first."""
        known = [self._index[word] for word in tokens(document) if word in self._index]
        if not known:
            return {}
        words, places = np.unique(known, return_inverse=True)
        weights = text_rank(places, self.reach, self.damping) * self.idf[words]
        # Of equal weights, the first by the alphabet.
        heaviest = np.lexsort((words, -np.round(weights, 12)))[: self.most]
        total = weights[heaviest].sum()
        return {self.words[words[n]]: float(weights[n] / total) for n in heaviest}

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return vectors of length 1, float32 [items, dim]; zeros for one without a known word.

        An item's vector does not depend on the others in the call.
        """
        vectors = np.zeros((len(corpus), self.dim))
        for row, document in zip(vectors, corpus.documents, strict=True):
            for word, weight in self.keywords(document).items():
                row += weight * self.vectors[self._index[word]]
        return unit(vectors)

    def similarity(self, one: Document, other: Document) -> float:
        """Return how well the keywords of two items match, from -1 to 1; 0 without any.

        Each keyword is compared with the nearest of the other item's; the cosines are averaged by
        weight, and over both directions.
        """
        of_one, of_other = self.keywords(one), self.keywords(other)
        if not of_one or not of_other:
            return 0.0
        rows = [self._index[word] for word in of_one]
        columns = [self._index[word] for word in of_other]
        cosines = self.vectors[rows] @ self.vectors[columns].T
        there = cosines.max(axis=1) @ np.array(list(of_one.values()))
        back = cosines.max(axis=0) @ np.array(list(of_other.values()))
        return float(there + back) / 2

    def describe(self) -> dict[str, Any]:
        """Return the number of words."""
        return {"words": len(self.words)}

    def to_bytes(self) -> bytes:
        """Return the encoder as a NumPy archive: equal bytes for equal encoders."""
        arrays: dict[str, NDArray[Any]] = {
            "words": strings_array(self.words),
            "idf": self.idf,
            "vectors": self.vectors,
        }
        facts = {"most": self.most, "reach": self.reach, "damping": self.damping}
        return packed(arrays, facts)

    @classmethod
    def from_bytes(cls, archive: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        arrays, facts = unpacked(archive)
        return cls(strings_of(arrays["words"]), arrays["idf"], arrays["vectors"], **facts)


def text_rank(
    places: NDArray[np.integer] | Sequence[int], reach: int, damping: float
) -> NDArray[np.float64]:
    """Return the PageRank of a text's words, which recommend those at most `reach` words away.

    >>> text_rank([0, 1, 2], reach=1, damping=0.85).round(3).tolist()
    [0.257, 0.486, 0.257]

    Args:
        places: Which word stands where, as numbers from 0 without a gap.

    Returns:
        float64 [words], which sum to 1.
    """
    places = np.asarray(places)
    n_words = int(places.max()) + 1
    near = [(places[:-step], places[step:]) for step in range(1, min(reach, len(places) - 1) + 1)]
    none = np.zeros(0, places.dtype)
    one = np.concatenate([none, *(left for left, _ in near)])
    other = np.concatenate([none, *(right for _, right in near)])
    differ = one != other
    one, other = one[differ], other[differ]
    shape = (n_words, n_words)
    graph = sparse.csr_array((np.ones(len(one)), (one, other)), shape=shape)
    graph = graph + graph.T
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    lone = degrees == 0
    rank = np.full(n_words, 1 / n_words)
    for _ in range(MOST_STEPS):
        given = np.divide(rank, degrees, out=np.zeros(n_words), where=~lone)
        # A word without neighbours recommends all alike.
        new = (1 - damping + damping * rank[lone].sum()) / n_words + damping * (graph.T @ given)
        if np.abs(new - rank).sum() < PRECISION:
            return new
        rank = new
    return rank
