"""The catalogue: one line each, from which training, vectors, Feast views and service follow.

ITEM_ENCODERS make the item spaces, AGGREGATORS the members' vectors in one of them; without
`items`, in the first.
"""

from models.items.spec import ItemEncoder, TfidfSvd
from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay

ITEM_ENCODERS: tuple[ItemEncoder, ...] = (TfidfSvd(version=1),)

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8, stream=True),
    LearnedDecay(version=1, stream=True),
)
