"""The catalogue: one line each, from which training, vectors, Feast views and service follow."""

from models.spec import Aggregator, Average, GeometricDecay, LearnedDecay

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8, stream=True),
    LearnedDecay(version=1, stream=True),
)
