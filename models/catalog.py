"""The catalogue: one line each, from which training, vectors, Feast views and service follow.

ITEM_ENCODERS make the item spaces, AGGREGATORS the members' vectors in one of them; without
`items`, in the first.
"""

from models.items.spec import ItemEncoder, TfidfSvd, Trained
from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay

# What an item space is trained through. The line that reads the space shares that training.
TWO_DECAYS = LearnedDecay(
    version=2,
    items="trained_v1",
    ranks="positive",
    projected=False,
    share="all",
    decays=2,
    stream=True,
)

ITEM_ENCODERS: tuple[ItemEncoder, ...] = (
    TfidfSvd(version=1),
    Trained(version=1, layer=TWO_DECAYS),
)

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8, stream=True),
    TWO_DECAYS,
)
