"""Item vectors by implicit-feedback matrix factorization: whose members are the same.

It reads how often each member liked an item, and neither when nor in which order: what one member
did at one timestamp counts as what the member did on two days. Where members act in baskets,
`CoActions` tells them apart.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.items import spec
from models.items.co_actions import Placed, behaviour_of, placed
from models.items.learning.pairs import Weighing
from models.items.protocol import Behaviour, Corpus
from transformations.errors import InputError, TooFewError
from transformations.names import Similarity

NEIGHBOURS = Weighing(reach=10, decay=1.0, context_power=0.75, shrink=0.0)
"""How pairs place an item that the fit did not see."""


@dataclass(frozen=True)
class Factors(Placed):
    """A fitted encoder; the methods are those of `FittedEncoder`.

    Factors are made for the dot product, so they keep their lengths: those of popular items are
    longer.
    """

    similarity: ClassVar[Similarity] = spec.Factors.similarity

    @classmethod
    def fitted(cls, line: spec.Factors, corpus: Corpus, dim: int) -> Self:
        """Fit on all that the corpus holds; a later event is not in it.

        Raises:
            TooFewError: fewer items than `dim` have a member who liked two.
            InputError: `confidence` names an unknown action.
        """
        from threadpoolctl import threadpool_limits

        behaviour, _ = behaviour_of(corpus)
        ratings, items = _ratings(line, behaviour)
        if len(items) < dim:
            raise TooFewError(
                f"item factors of {dim} dimensions need at least {dim} items of members who liked "
                f"two or more, got {len(items):,}"
            )
        # One thread: several are not repeatable.
        with threadpool_limits(1):
            model = _model(line, dim)
            model.fit(ratings, show_progress=False)
        # The last column of BPR is the item's own bias, which is no part of the space.
        vectors = np.asarray(model.item_factors)[:, :dim]
        ids = behaviour.item_ids.take(items)
        return cls.with_text(placed(ids, vectors, NEIGHBOURS), corpus)


def _model(line: spec.Factors, dim: int) -> Any:
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    kinds: dict[str, Any] = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}
    return kinds[line.algorithm](
        factors=dim,
        regularization=line.regularization,
        iterations=line.iterations,
        num_threads=1,
        random_state=line.seed,
    )


def _ratings(
    line: spec.Factors, behaviour: Behaviour
) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
    """Return confidences, float32 [members, items], and the items, as indices, by their ids.

    Members who liked one item only say nothing of two.
    """
    unknown = {action for action, _ in line.confidence} - set(behaviour.actions)
    if unknown:
        raise InputError(
            f"{line}: confidence: expected actions among {', '.join(behaviour.actions)}, got "
            f"{', '.join(sorted(unknown))}"
        )
    named = dict(line.confidence)
    weights = np.array([0.0, *(named.get(action, 1.0) for action in behaviour.actions)])
    liked = behaviour.take(behaviour.signs > 0)
    _, member = np.unique(liked.members, return_inverse=True)
    shape = (int(member.max(initial=-1)) + 1, len(liked.item_ids))
    counts = weights[liked.codes]
    if liked.numbers is not None:
        counts *= np.where(np.isnan(liked.numbers), 1.0, np.maximum(liked.numbers, 0.0))
    ratings = sparse.csr_matrix((counts, (member, liked.items)), shape)
    ratings.eliminate_zeros()
    ratings = ratings[np.diff(ratings.indptr) > 1]
    used = np.unique(ratings.indices).astype(np.int64)
    order = np.argsort(np.asarray(liked.item_ids.take(used).to_pylist(), dtype=object))
    items = used[order]
    return ratings[:, items].astype(np.float32).tocsr(), items
