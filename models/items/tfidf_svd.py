"""Item vectors from text and categories: TF-IDF, reduced by truncated SVD (latent semantic
analysis: Deerwester et al., "Indexing by latent semantic analysis", 1990).

The same fit encodes every later item, so all vectors of one encoder version share a space.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from models.items.protocol import Corpus, Document, OneStep
from models.items.spec import ItemEncoder
from transformations.errors import TooFewError

# A word that only one item has does not relate items, and most words are such.
MIN_ITEMS = 2
SMALLEST = 1e-9


def tokens(document: Document) -> Iterator[str]:
    """Yield the tokens of an item: lower-case words, one-letter ones too, then its categories.

    >>> list(tokens(Document("M (1931)", ["genres=Crime"])))
    ['m', '1931', 'genres=Crime']
    """
    yield from re.findall(r"\w+", (document.text or "").lower())
    yield from document.categories or ()


@dataclass(frozen=True)
class TfidfSvd(OneStep):
    """A fitted encoder; the methods are those of `FittedEncoder`.

    Attributes:
        terms: The known tokens, sorted.
        idf: Inverse document frequency of each, float64 [terms].
        components: The SVD's right singular vectors, float64 [dim, terms].
    """

    terms: list[str]
    idf: NDArray[np.float64]
    components: NDArray[np.float64]

    @classmethod
    def fitted(
        cls,
        line: ItemEncoder,  # noqa: ARG003 - it has no settings
        corpus: Corpus,
        dim: int,
    ) -> Self:
        """Fit on these items; the same items in the same order give the same encoder.

        Raises:
            TooFewError: fewer items, or fewer tokens that at least two of them share, than `dim`.
        """
        return cls.of_documents(corpus.documents, dim)

    @classmethod
    def of_documents(cls, documents: Sequence[Document], dim: int) -> Self:
        """As `fitted`."""
        items_with = Counter(token for document in documents for token in {*tokens(document)})
        terms = sorted(token for token, items in items_with.items() if items >= MIN_ITEMS)
        if min(len(documents), len(terms)) < dim:
            raise TooFewError(
                f"an item encoder of dimension {dim} needs at least {dim} items to be fitted on, "
                f"and {dim} different tokens that {MIN_ITEMS} or more of them have; got "
                f"{len(documents)} items and {len(terms)} tokens"
            )
        vectorizer = TfidfVectorizer(analyzer=tokens, lowercase=False, vocabulary=terms)
        weights = vectorizer.fit_transform(documents)
        svd = TruncatedSVD(n_components=dim, random_state=0).fit(weights)
        return cls(terms, vectorizer.idf_, svd.components_)

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""
        return len(self.components)

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        vectorizer = TfidfVectorizer(analyzer=tokens, lowercase=False, vocabulary=self.terms)
        vectorizer.idf_ = self.idf
        return vectorizer

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return vectors of length 1, float32 [items, dim]; zeros for one without a known token.

        An item's vector does not depend on the others in the call.
        """
        documents = corpus.documents
        if not documents:
            return np.zeros((0, self.dim), np.float32)
        reduced = self._vectorizer.transform(documents) @ self.components.T
        norms = np.linalg.norm(reduced, axis=1, keepdims=True)
        # Rounding errors remain where the SVD dropped everything that the item's tokens mean.
        reduced[norms[:, 0] < SMALLEST] = 0.0
        return (reduced / np.maximum(norms, SMALLEST)).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Return the number of terms."""
        return {"terms": len(self.terms)}

    def to_bytes(self) -> bytes:
        """Return the encoder as a NumPy archive (no pickle): equal bytes for equal encoders."""
        file = BytesIO()
        terms = np.frombuffer(json.dumps(self.terms).encode(), np.uint8)
        np.savez_compressed(file, terms=terms, idf=self.idf, components=self.components)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, archive: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        with np.load(BytesIO(archive), allow_pickle=False) as arrays:
            terms = json.loads(arrays["terms"].tobytes())
            return cls(terms, arrays["idf"], arrays["components"])
