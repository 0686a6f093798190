"""What a view, a service, a column is called: every name that more than one room uses.

Feast, files and rows all carry the version in the name, so that two versions live side by side.
"""

SEQUENCE_VIEW = "member_activity_sequence"
SINGLE_VECTOR = "activity_embedding"
"""The vector field of an aggregator that has one for all actions."""


def view(aggregator: str, version: int) -> str:
    """Name the Feast view of an aggregator, and the folder of its embeddings.

    >>> view("decay", 1)
    'member_activity_decay_v1'
    """
    return f"member_activity_{aggregator}_v{version}"


def service(aggregator: str, version: int) -> str:
    """Name the feature service that a ranker reads."""
    return f"ranker_{aggregator}_v{version}"


def match_view(aggregator: str, version: int) -> str:
    """Name the on-demand view that compares the member's vectors with an item's."""
    return f"activity_match_{aggregator}_v{version}"


def item_view(encoder: str, version: int) -> str:
    """Name the view of the item vectors of an encoder's version."""
    return f"item_embedding_{encoder}_v{version}"


def count_column(action: str) -> str:
    """Name the count of one action: n_apply for APPLY."""
    return f"n_{action.lower()}"


def vector_field(action: str) -> str:
    """Name the vector of one action: apply_embedding for APPLY."""
    return f"{action.lower()}_embedding"


def stem(field: str) -> str:
    """Return what follows `cosine` and `dot` in the match of a vector field.

    >>> stem("apply_embedding"), stem("activity_embedding")
    ('_apply', '')
    """
    return "" if field == SINGLE_VECTOR else "_" + field.removesuffix("_embedding")
