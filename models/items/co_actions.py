"""Item vectors from what the same members acted on: shrunk positive PMI, reduced by SVD.

Levy & Goldberg, "Neural word embedding as implicit matrix factorization" (2014); the settings of
Levy, Goldberg & Dagan, "Improving distributional similarity" (2015). Items that got actions after
the fit are folded in: their row of the data so far, projected on the fit's basis.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.items import spec
from models.items.learning.archive import ids_array, ids_of, nested, packed, unpacked
from models.items.learning.pairs import Pairs, Weighing
from models.items.learning.svd import largest
from models.items.learning.text_ridge import TEXT_DIM, TextRidge, encode_text, text_encoder
from models.items.protocol import Behaviour, Corpus, OneStep
from models.items.similarity import unit
from models.items.tfidf_svd import TfidfSvd
from transformations.errors import TooFewError
from transformations.names import Similarity


@dataclass(frozen=True)
class Basis:
    """What projects an item's row of pairs into the space.

    Attributes:
        contexts: Ids of the items that had pairs before the fit: the columns of a row.
        projection: V S^(-1/2) of the fit's SVD, float32 [contexts, dim].
        weighing: How pairs count.
    """

    contexts: pa.Array
    projection: NDArray[np.float32]
    weighing: Weighing

    @classmethod
    def fit(cls, behaviour: Behaviour, weighing: Weighing, dim: int) -> Self:
        """Fit on all this behaviour.

        Raises:
            TooFewError: too few items have pairs.
        """
        positive = np.unique(behaviour.items[behaviour.signs > 0])
        # In the order of ids: that of the behaviour's items follows from what was read with it.
        items = positive[pc.array_sort_indices(behaviour.item_ids.take(pa.array(positive)))]
        contexts = behaviour.item_ids.take(pa.array(items))
        pairs = Pairs(behaviour, contexts, weighing)
        blocks = [rows for _, rows in pairs.rows(items.astype(np.int64))]
        actions, has_pairs = int(pairs.counts.sum()), pairs.of_contexts > 0
        del pairs  # as large as the behaviour
        values, vectors = largest(blocks, len(contexts), dim)
        if len(values) < dim:
            raise TooFewError(
                f"co-actions of {dim} dimensions need items that the same members liked one after "
                f"the other; the {actions:,} positive actions on {len(contexts):,} items give "
                f"{int(has_pairs.sum()):,} such items, which span {len(values)} dimensions"
            )
        projection = (vectors / np.sqrt(values))[has_pairs].astype(np.float32)
        return cls(contexts.filter(pa.array(has_pairs)), projection, weighing)

    def grown(self, behaviour: Behaviour) -> "Basis":
        """Return it with the items as contexts too that got pairs since; each old row stays.

        With M = U S V' the fit's matrix of pairs and P = V S^(-1/2) the projection, W = M P is
        U S^(1/2), so M' W = V S^(3/2): P times a number per dimension. The same is computed of all
        contexts from the behaviour so far, the numbers are those that fit the old rows best (least
        squares), and the new rows follow.
        """
        liked = np.unique(behaviour.items[behaviour.signs > 0]).astype(np.int64)
        ids = behaviour.item_ids.take(pa.array(liked))
        is_new = pc.is_null(pc.index_in(ids, self.contexts)).to_numpy(zero_copy_only=False)
        if not is_new.any():
            return self
        new = ids.filter(pa.array(is_new))
        new = new.take(pc.array_sort_indices(new)).cast(self.contexts.type)
        contexts, before = pa.concat_arrays([self.contexts, new]), len(self.contexts)
        pairs = Pairs(behaviour, contexts, self.weighing)
        columns = np.zeros((len(contexts), self.projection.shape[1]))
        for _, rows in pairs.rows(liked[~is_new]):
            columns += rows.T @ (rows[:, :before] @ self.projection)
        old = columns[:before]
        scale = (old * self.projection).sum(axis=0) / np.maximum((old**2).sum(axis=0), 1e-300)
        projected = (columns[before:] * scale).astype(np.float32)
        used = projected.any(axis=1)
        return replace(
            self,
            contexts=pa.concat_arrays([self.contexts, new.filter(pa.array(used))]),
            projection=np.concatenate([self.projection, projected[used]]),
        )

    def fold_in(
        self, behaviour: Behaviour, item_ids: pa.Array, as_mean: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return items' vectors by the behaviour so far, and how many positive actions they have.

        Args:
            as_mean: A vector is the weighted mean of its contexts' rows, not made of length 1.

        Returns:
            float32 [items, dim], of length 1 unless `as_mean`, or zeros where an item has no pair
            with a context above chance; int64 [items].
        """
        vectors = np.zeros((len(item_ids), self.projection.shape[1]), np.float32)
        counts = np.zeros(len(item_ids), np.int64)
        indices = pc.fill_null(pc.index_in(item_ids, behaviour.item_ids), -1)
        indices = indices.to_numpy(zero_copy_only=False).astype(np.int64)
        pairs = Pairs(behaviour, self.contexts, self.weighing)
        seen = indices >= 0
        counts[seen] = pairs.counts[indices[seen]]
        # An id may stand several times: an item's text changed.
        wanted, which = np.unique(indices[seen], return_inverse=True)
        folded = np.zeros((len(wanted), vectors.shape[1]), np.float32)
        for chosen, rows in pairs.rows(wanted):
            sums = rows @ self.projection
            weights = np.asarray(rows.sum(axis=1)).reshape(-1, 1)
            folded[chosen] = sums / np.where(weights > 0, weights, 1) if as_mean else unit(sums)
        vectors[seen] = folded[which]
        return vectors, counts


@dataclass(frozen=True)
class ByPairs(OneStep):
    """Base of encoders that fold items in by their pairs; the methods are those of `FittedEncoder`.

    Attributes:
        basis: What folds items in by their pairs so far.
        text: Features of the text, and `ridge`, which maps them into the space, for items without
            pairs; None without texts that share words, or without enough items to learn from.
        figures: What the manifest keeps.
    """

    similarity: ClassVar[Similarity] = "cosine"
    """That of its line in models/items/spec.py: what the vectors from text are judged by."""

    basis: Basis
    text: TfidfSvd | None
    ridge: TextRidge | None
    figures: dict[str, Any]

    @classmethod
    def with_text(cls, basis: Basis, corpus: Corpus) -> Self:
        """Return the encoder of a basis, with vectors from text where there is any to learn from.

        Raises:
            TooFewError: the corpus has no behaviour.
        """
        behaviour, _ = behaviour_of(corpus)
        figures: dict[str, Any] = {
            "contexts": len(basis.contexts),
            "positive_actions": int((behaviour.signs > 0).sum()),
            "ridge": None,
        }
        alone = cls(basis, None, None, figures)
        text = text_encoder(corpus.documents, TEXT_DIM)
        if text is None:
            return alone
        vectors = alone.of_behaviour(corpus)
        features = encode_text(text, corpus.documents)
        ridge = TextRidge.fit(features, vectors, cls.similarity)
        if ridge is None:
            return alone
        return cls(basis, text, ridge, figures | {"ridge": ridge.figures})

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""
        return self.basis.projection.shape[1]

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return vectors, float32 [items, dim].

        An item's vector is its pairs so far, folded in; without any, what its text says, which is
        shorter; else zeros. It does not depend on the other items of the call.
        """
        vectors = self.of_behaviour(corpus)
        left = ~vectors.any(axis=1)
        if self.text is not None and self.ridge is not None and left.any():
            documents = [corpus.documents[item] for item in np.flatnonzero(left).tolist()]
            vectors[left] = self.ridge.predict(encode_text(self.text, documents))
        return vectors

    def of_behaviour(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return the vectors that items have by what members did; zeros for the others."""
        return folded_in(self.basis, corpus)[0]

    def describe(self) -> dict[str, Any]:
        """Return how much it was fitted on, and how good the vectors from text alone are."""
        return self.figures

    def to_bytes(self) -> bytes:
        """Return the encoder as a NumPy archive: equal bytes for equal encoders."""
        arrays = {"contexts": ids_array(self.basis.contexts), "projection": self.basis.projection}
        facts: dict[str, Any] = {"weighing": asdict(self.basis.weighing), "figures": self.figures}
        if self.text is not None and self.ridge is not None:
            arrays |= {"text": nested(self.text.to_bytes()), "ridge": self.ridge.weights}
        return packed(arrays, facts)

    @classmethod
    def from_bytes(cls, archive: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        arrays, facts = unpacked(archive)
        weighing = Weighing(**facts["weighing"])
        basis = Basis(ids_of(arrays["contexts"]), arrays["projection"], weighing)
        text = ridge = None
        if "text" in arrays:
            text = TfidfSvd.from_bytes(arrays["text"].tobytes())
            ridge = TextRidge(arrays["ridge"], facts["figures"]["ridge"])
        return cls(basis, text, ridge, facts["figures"])


@dataclass(frozen=True)
class CoActions(ByPairs):
    """A fitted encoder; the methods are those of `FittedEncoder`."""

    @classmethod
    def fitted(cls, line: spec.CoActions, corpus: Corpus, dim: int) -> Self:
        """Fit on all the corpus holds; a later event or item is not in it.

        Raises:
            TooFewError: too few items have pairs.
        """
        behaviour, _ = behaviour_of(corpus)
        return cls.with_text(Basis.fit(behaviour, Weighing.of(line), dim), corpus)


@dataclass(frozen=True)
class Placed(ByPairs):
    """Base of encoders whose fit gives each item that it saw a vector of its own, which stays.

    The basis then holds these vectors. An item that got actions since is where the items stand that
    the same members acted on: the mean of their vectors, weighted by the PPMI of the pairs.
    """

    def of_behaviour(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return the fit's vectors, and folded in those that it did not see."""
        vectors = folded_in(self.basis, corpus, as_mean=self.similarity == "dot")[0]
        if corpus.ids is not None:
            places = pc.fill_null(pc.index_in(corpus.ids, self.basis.contexts), -1)
            index = places.to_numpy(zero_copy_only=False).astype(np.int64)
            vectors[index >= 0] = self.basis.projection[index[index >= 0]]
        return vectors


def placed(ids: pa.Array, vectors: NDArray[np.float32], weighing: Weighing) -> Basis:
    """Return the basis of items that have these vectors, in the order of ids; without zeros."""
    order = pc.array_sort_indices(ids).to_numpy()
    order = order[vectors[order].any(axis=1)]
    return Basis(ids.take(pa.array(order)), vectors[order], weighing)


def behaviour_of(corpus: Corpus) -> tuple[Behaviour, pa.Array]:
    """Return the behaviour of a corpus, and the ids of its items.

    Raises:
        TooFewError: there is none.
    """
    if corpus.behaviour is None or corpus.ids is None:
        raise TooFewError("it is fitted on what members did, got items without any activity")
    return corpus.behaviour, corpus.ids


def folded_in(
    basis: Basis, corpus: Corpus, as_mean: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what `Basis.fold_in` does; zeros where the corpus has no behaviour."""
    if corpus.behaviour is None or corpus.ids is None:
        n = len(corpus.documents)
        return np.zeros((n, basis.projection.shape[1]), np.float32), np.zeros(n, np.int64)
    return basis.fold_in(corpus.behaviour, corpus.ids, as_mean)
