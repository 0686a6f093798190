"""What an item space is trained on: each positive action, predicted from what came before it.

A member's actions are cut into overlapping windows. In each window every positive action is a label
with the actions before it as its history, so a label has a short history in one window and a longer
one in another (all positions at once, as in Kang & McAuley, "Self-attentive sequential
recommendation", 2018). Only what has a strictly earlier timestamp is history.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.items.protocol import Behaviour

STRIDE = 16
"""Actions between the starts of two windows."""
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Labels:
    """n labels with their histories, as indices into the behaviour's actions.

    Attributes:
        events: The labels' actions, int64 [n].
        starts: Their histories' first actions, int64 [n].
        ends: Where their histories end, exclusive, int64 [n].
    """

    events: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.events)

    def take(self, which: NDArray[np.integer]) -> "Labels":
        """Return some of them."""
        return Labels(self.events[which], self.starts[which], self.ends[which])


def labels_of(behaviour: Behaviour, length: int) -> Labels:
    """Return every positive action on an item that is new to the member, per window that holds it.

    Args:
        length: Actions of a history at most; a window has one more.
    """
    members, timestamps, items = behaviour.members, behaviour.timestamps, behaviour.items
    n = len(members)
    event = np.arange(n)
    of_member = np.searchsorted(members, members, "left")
    new_moment = np.ones(n, bool)
    new_moment[1:] = (np.diff(members) != 0) | (np.diff(timestamps) != 0)
    before = np.maximum.accumulate(np.where(new_moment, event, 0)) if n else event
    # The first action of a member on an item; of one timestamp, the first positive one counts.
    order = np.lexsort((event, behaviour.signs <= 0, timestamps, items, members))
    is_new = np.ones(n, bool)
    is_new[order[1:]] = (np.diff(members[order]) != 0) | (np.diff(items[order]) != 0)
    label = np.flatnonzero(is_new & (behaviour.signs > 0))
    position = label - of_member[label]
    newest = np.maximum((position - 1) // STRIDE, 0)
    oldest = np.maximum(-((length - position) // STRIDE), 0)
    found = []
    for back in range(-(-length // STRIDE)):
        window = newest - back
        start = of_member[label] + STRIDE * window
        kept = (window >= oldest) & (start < before[label])
        found.append((label[kept], start[kept], before[label[kept]]))
    events, starts, ends = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Labels(events, starts, ends)


@dataclass(frozen=True)
class Histories:
    """The histories of n labels, padded on the left.

    Attributes:
        rows: Items + 1, as indices into the behaviour's items; 0 is PAD; int64 [n, length].
        actions: Codes; 0 is PAD; int32 [n, length].
        ages: Days before the label, float32 [n, length].
        signs: 1.0 where an action is positive, and where it is negative, float32 [n, length, 2].
    """

    rows: NDArray[np.int64]
    actions: NDArray[np.int32]
    ages: NDArray[np.float32]
    signs: NDArray[np.float32]


def histories_of(behaviour: Behaviour, labels: Labels, length: int) -> Histories:
    """Return the histories of labels, the newest action last."""
    slots = labels.ends[:, None] + np.arange(-length, 0)
    used = slots >= labels.starts[:, None]
    slots = np.where(used, slots, 0)
    micros = behaviour.timestamps[labels.events][:, None] - behaviour.timestamps[slots]
    signs = np.where(used, behaviour.signs[slots], 0)
    return Histories(
        rows=np.where(used, behaviour.items[slots].astype(np.int64) + 1, 0),
        actions=np.where(used, behaviour.codes[slots], 0).astype(np.int32),
        ages=np.where(used, micros / (1e6 * SECONDS_PER_DAY), 0.0).astype(np.float32),
        signs=np.stack([signs > 0, signs < 0], axis=2).astype(np.float32),
    )


def edges_of(timestamps: NDArray[np.int64], blocks: int) -> NDArray[np.int64]:
    """Return when each block begins: blocks have about as many of these timestamps each.

    >>> edges_of(np.array([5, 1, 9, 1, 7, 7]), blocks=3).tolist()
    [1, 5, 7]
    """
    ordered = np.sort(timestamps)
    return np.unique(ordered[np.arange(blocks) * len(ordered) // blocks])
