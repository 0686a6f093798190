"""A small market for item encoders: two fields of work, and members who stay in theirs."""

import numpy as np
import pyarrow as pa

from models.items.protocol import Behaviour, Corpus, Document
from models.items.spec import (
    CoActions,
    Factors,
    ItemEncoder,
    Joint,
    Keywords,
    SkipGram,
    TfidfSvd,
    Trained,
)

DIM = 3
LINES: tuple[ItemEncoder, ...] = (
    TfidfSvd(version=1),
    CoActions(version=1),
    Joint(version=1),
    Trained(version=1, epochs=2),
    SkipGram(version=1),
    Factors(version=1),
    Keywords(version=1),
)
"""One line of each kind, small enough for a test."""
ITEMS, MEMBERS, EACH = 24, 60, 8
DAY_US = 86_400_000_000
WORDS = (("data", "engineer", "analyst", "python"), ("nurse", "night", "care", "ward"))


def corpus(seed: int = 0, members: int = MEMBERS) -> Corpus:
    """Return items, even ones of one field and odd ones of the other, and what members did."""
    rng = np.random.default_rng(seed)
    documents = [
        Document(" ".join(rng.choice(WORDS[item % 2], 3)), [f"field={('data', 'care')[item % 2]}"])
        for item in range(ITEMS)
    ]
    rows = []
    for member in range(members):
        start = rng.integers(0, 200) * DAY_US
        for step in range(EACH):
            item = 2 * rng.integers(0, ITEMS // 2) + member % 2
            action = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
            rows.append((member, start + step * 600_000_000, item, action))
    table = np.array(sorted(rows))
    codes = table[:, 3].astype(np.int16)
    ids = pa.array(range(100, 100 + ITEMS), pa.int64())
    return Corpus(
        documents,
        ids,
        np.zeros(ITEMS, np.int64),
        Behaviour(
            members=table[:, 0],
            items=table[:, 2].astype(np.int32),
            item_ids=ids,
            timestamps=table[:, 1],
            signs=np.where(codes == 3, -1, 1).astype(np.int8),
            codes=codes,
            actions=("APPLY", "SAVE", "DISMISS"),
        ),
    )
