"""Item vectors by skip-gram: each item a word, each session or history of a member a sentence.

Grbovic & Cheng, "Real-time personalization using embeddings for search ranking at Airbnb" (2018).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.items import spec
from models.items.co_actions import Placed, behaviour_of, placed
from models.items.learning.pairs import Weighing
from models.items.learning.words import skip_gram
from models.items.protocol import Behaviour, Corpus
from models.items.similarity import unit
from transformations.errors import TooFewError

MINUTE_US = 60_000_000


@dataclass(frozen=True)
class SkipGram(Placed):
    """A fitted encoder; the methods are those of `FittedEncoder`."""

    @classmethod
    def fitted(cls, line: spec.SkipGram, corpus: Corpus, dim: int) -> Self:
        """Fit on all that the corpus holds; a later event is not in it.

        Raises:
            TooFewError: fewer items than `dim` stand in a sentence with another.
        """
        behaviour, _ = behaviour_of(corpus)
        gap = line.session_gap if line.sentences == "sessions" else np.inf
        sentences = sentences_of(behaviour, gap, line.only_positive)
        together = np.unique(np.concatenate([np.zeros(0, np.int64), *sentences]))
        if len(together) < dim:
            raise TooFewError(
                f"item vectors of {dim} dimensions by skip-gram need at least {dim} items in "
                f"{line.sentences} with another item, got {len(together):,} in {len(sentences):,}; "
                "a set without sessions may take sentences='histories'"
            )
        words, vectors = skip_gram(
            [[str(item) for item in sentence] for sentence in sentences],
            dim,
            window=line.window,
            epochs=line.epochs,
            seed=line.seed,
            negatives=line.negatives,
            subsample=line.subsample,
        )
        ids = behaviour.item_ids.take(pa.array([int(word) for word in words], pa.int64()))
        weighing = Weighing(line.window, decay=1.0, context_power=0.75, shrink=0.0)
        return cls.with_text(placed(ids, unit(vectors), weighing), corpus)


def sentences_of(
    behaviour: Behaviour, gap_minutes: float, only_positive: bool
) -> list[NDArray[np.int64]]:
    """Return sentences of at least two items, each int64 [words], oldest first.

    Every action stands in one sentence. Of several actions at one timestamp the first stands in
    the first sentence of its session, the second in the second, so none stands near another: they
    do not teach each other.
    """
    members, timestamps = behaviour.members, behaviour.timestamps
    if not len(members):
        return []
    starts = np.diff(members, prepend=members[0] - 1) != 0
    starts |= np.diff(timestamps, prepend=timestamps[0]) >= gap_minutes * MINUTE_US
    session = np.cumsum(starts)
    if only_positive:
        positive = behaviour.signs > 0
        behaviour, session = behaviour.take(positive), session[positive]
    n = np.arange(len(session))
    moments = np.diff(session, prepend=0) != 0
    moments[1:] |= np.diff(behaviour.timestamps) != 0
    rank = n - np.maximum.accumulate(np.where(moments, n, 0))
    order = np.lexsort((n, rank, session))
    starts = np.diff(session[order], prepend=0) != 0
    starts[1:] |= np.diff(rank[order]) != 0
    parts = np.split(behaviour.items[order].astype(np.int64), np.flatnonzero(starts)[1:])
    return [part for part in parts if len(part) > 1]
