"""Small behaviours for the encoders that read activity."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.items.protocol import Behaviour, Corpus, Document
from transformations.timestamps import DAY_US

ACTIONS = ("APPLY", "SAVE", "DISMISS")
START = 20_000 * DAY_US

# (member, microseconds since START, item, action)
Event = tuple[int, int, int, str]


def behaviour_from(events: Sequence[Event], item_ids: pa.Array) -> Behaviour:
    """Events in any order; items are indices into item_ids."""
    rows = sorted((m, t, i, ACTIONS.index(a) + 1) for m, t, i, a in events)
    columns = np.array(rows, np.int64).reshape(-1, 4)
    codes = columns[:, 3].astype(np.int16)
    return Behaviour(
        members=columns[:, 0],
        items=columns[:, 2].astype(np.int32),
        item_ids=item_ids,
        timestamps=columns[:, 1] + START,
        signs=np.where(codes == 3, -1, 1).astype(np.int8),
        codes=codes,
        actions=ACTIONS,
    )


TOPICS, PER_TOPIC = 4, 15
WORDS = ("red fish", "blue bird", "old horse", "wild mouse")


def market(members: int = 120, seed: int = 0, days: int = 100, new_items: int = 3) -> Corpus:
    """Items of four topics, with words of their topic; each member acts on one topic at a time.

    The last `new_items` of each topic have no action.
    """
    rng = np.random.default_rng(seed)
    n_items = TOPICS * PER_TOPIC
    events: list[Event] = []
    for member in range(members):
        times = np.sort(rng.choice(days * 24, 12, replace=False)) * (DAY_US // 24)
        topics = np.repeat(rng.integers(0, TOPICS, 2), 6)
        for time, topic in zip(times, topics, strict=True):
            item = topic * PER_TOPIC + rng.integers(0, PER_TOPIC - new_items)
            action = ACTIONS[rng.choice(3, p=(0.5, 0.35, 0.15))]
            events.append((member, int(time), int(item), action))
    ids = pa.array([f"item-{n:03d}" for n in range(n_items)])
    documents = [
        Document(f"{WORDS[n // PER_TOPIC]} number{n % 7}", [f"topic={n // PER_TOPIC}"])
        for n in range(n_items)
    ]
    available = np.full(n_items, START - DAY_US)
    return Corpus(documents, ids, available, behaviour_from(events, ids))
