"""What a view, a service, a column is called: every name that more than one room uses.

Feast, files and rows all carry version and fit in the name, so that two of them live side by side.
A version is a definition, raised by a person; a fit is what it became from data until a moment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TEXT_ENCODER = "tfidf_svd"
"""The encoder of text of a catalogue that names none."""
SEQUENCE_VIEW = "member_activity_sequence"
ITEM_STATS_VIEW = "item_stats_v1"
MEMBER_STATS_VIEW = "member_activity_stats_v1"
PROFILE_VIEW = "member_profile_v1"
RECOMMENDATIONS_VIEW = "member_recommendations_v1"
SINGLE_VECTOR = "activity_embedding"
"""The vector field of an aggregator that has one for all actions."""
Similarity = Literal["cosine", "dot"]
"""By what the vectors of an item space are compared."""
MEASURES: Mapping[Similarity, tuple[str, ...]] = {"cosine": ("cosine", "dot"), "dot": ("dot",)}
"""What the match of a line says of each vector, by the similarity of its space: that one first."""


@dataclass(frozen=True, order=True)
class Space:
    """What made item vectors: one fit of one version of an item encoder. Spaces never mix."""

    encoder: str
    version: int
    fit: int = 1

    def __str__(self) -> str:
        return fitted(self.encoder, self.version, self.fit)

    @property
    def view(self) -> str:
        """Name of the Feast view of its item vectors."""
        return f"item_embedding_{self}"


def plain(name: str) -> str:
    """Return a name in lower case, its words joined by _.

    >>> plain("UserID"), plain("eventTime"), plain("Item Id")
    ('user_id', 'event_time', 'item_id')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def given_encoder(column: str) -> str:
    """Name the encoder of a column of vectors, in a catalogue that does not.

    >>> given_encoder("MiniLM v2"), given_encoder("384d")
    ('mini_lm_v2', 'vectors_384d')
    """
    name = plain(column)
    return name if name[:1].isalpha() else f"vectors_{name}".rstrip("_")


def number(version: int, fit: int = 1) -> str:
    """Name a version and its fit; the first fit is the version's own name.

    >>> number(1), number(1, fit=2)
    ('v1', 'v1_f2')
    """
    return f"v{version}" if fit == 1 else f"v{version}_f{fit}"


def fitted(name: str, version: int, fit: int = 1) -> str:
    """Name a fit of a line or of an item encoder: decay_v1, decay_v1_f2."""
    return f"{name}_{number(version, fit)}"


def view(aggregator: str, version: int, fit: int = 1) -> str:
    """Name the Feast view of an aggregator, and the folder of its embeddings.

    >>> view("decay", 1), view("decay", 1, fit=2)
    ('member_activity_decay_v1', 'member_activity_decay_v1_f2')
    """
    return f"member_activity_{fitted(aggregator, version, fit)}"


def service(aggregator: str, version: int, fit: int = 1) -> str:
    """Name the feature service that a ranker reads."""
    return f"ranker_{fitted(aggregator, version, fit)}"


def ranker_service(fit: str) -> str:
    """Name the feature service of what a ranker reads, given as its fit: linear_v1_f2."""
    return f"recommend_{fit}"


def match_view(aggregator: str, version: int, fit: int = 1) -> str:
    """Name the on-demand view that compares the member's vectors with an item's."""
    return f"activity_match_{fitted(aggregator, version, fit)}"


def count_column(action: str) -> str:
    """Name the count of one action: n_apply for APPLY."""
    return f"n_{action.lower()}"


def vector_field(action: str) -> str:
    """Name the vector of one action: apply_embedding for APPLY."""
    return f"{action.lower()}_embedding"


def stored(column: str) -> str:
    """Name, in a view, the column that its match gives back under the column's own name.

    >>> stored("n_actions")
    'stored_n_actions'
    """
    return f"stored_{column}"


def match_fields(field: str, similarity: Similarity) -> list[str]:
    """Name what the match of a vector field says; the similarity of the item space comes first.

    >>> match_fields("apply_embedding", "cosine"), match_fields("activity_embedding", "dot")
    (['cosine_apply', 'dot_apply'], ['dot'])
    """
    stem = "" if field == SINGLE_VECTOR else "_" + field.removesuffix("_embedding")
    return [f"{measure}{stem}" for measure in MEASURES[similarity]]
