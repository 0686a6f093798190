"""ENCODERS: what `items.encoder.name` may be where the items source holds text."""

from models.items.protocol import ItemEncoder
from models.items.tfidf_svd import TfidfSvd

ENCODERS: dict[str, type[ItemEncoder]] = {"tfidf_svd": TfidfSvd}
