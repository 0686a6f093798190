"""The catalogue: one line each, from which training, vectors, Feast views and service follow."""

from models.spec import Aggregator, Average, GeometricDecay

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1),
    GeometricDecay(version=1, decay=0.8),
)
