"""The catalogue: one line each, from which training, vectors, Feast views and service follow.

ITEM_ENCODERS make the item spaces, AGGREGATORS the members' vectors in one of them; without
`items`, in the first. A trained space gives the line that is trained with it. CANDIDATES bring a
member's items, and the first of RANKERS orders them; the others are there to compare with.
"""

from models.candidates.spec import CandidateSource, NearestToMember, Neighbours, Popular
from models.items.spec import ItemEncoder, TfidfSvd, Trained
from models.rankers.lines import BoostedTrees, WideAndDeep
from models.rankers.spec import Ranker
from models.spec import Aggregator, Average, GeometricDecay

ITEM_ENCODERS: tuple[ItemEncoder, ...] = (
    TfidfSvd(version=1),
    Trained(version=1),
)

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8, stream=True),
    Trained(version=1).aggregator(version=2, stream=True),
)

CANDIDATES: tuple[CandidateSource, ...] = (
    Popular(version=1),
    Popular(name="new", version=1, newest=True),
    Neighbours(of="trained_v1", version=1),
    NearestToMember(aggregator="learned_decay_v2", version=1),
)

RANKERS: tuple[Ranker, ...] = (
    WideAndDeep(version=1, aggregators=("learned_decay_v2",)),
    BoostedTrees(version=1, aggregators=("learned_decay_v2",)),
)
