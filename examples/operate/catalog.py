"""The catalogue of the demo: one space of texts, and rankers that read different vectors of it.

All rankers are the same but for the vectors, and a member's vector is all that they know of it, so
that what differs between two of them is what the vectors are worth. They learn from actions, found
and shown ones, since most of what members do here is not what they were shown.
"""

from datetime import timedelta

from models.candidates.spec import CandidateSource, NearestToMember, Popular
from models.items.spec import ItemEncoder, TfidfSvd
from models.rankers.lines import Linear
from models.rankers.spec import Ranker
from models.spec import Aggregator, GeometricDecay, LearnedDecay
from models.training.recipe import Recipe

QUICK = Recipe(epochs=4, patience=2, validation=timedelta(days=7), refit=False, learning_rate=0.01)

ITEM_ENCODERS: tuple[ItemEncoder, ...] = (TfidfSvd(version=1),)

AGGREGATORS: tuple[Aggregator, ...] = (
    GeometricDecay(version=1, decay=0.8),  # three vectors, one per action
    LearnedDecay(version=1, recipe=QUICK),  # one vector
)

CANDIDATES: tuple[CandidateSource, ...] = (
    Popular(version=1),
    NearestToMember(aggregator="decay_v1", version=1),
    NearestToMember(aggregator="learned_decay_v1", version=1),
)


def _ranker(name: str, *aggregators: str) -> Linear:
    return Linear(
        name=name,
        version=1,
        aggregators=aggregators,
        reads=("item_stats",),
        learns_from="actions",
        labels=2_000,
    )


DECAYED = _ranker("decayed", "decay_v1")
LEARNED = _ranker("learned", "learned_decay_v1")
NO_VECTORS = _ranker("no_vectors")

# The first of them answers.
RANKERS: tuple[Ranker, ...] = (DECAYED,)
