"""Each label's earlier events: those of its member before a timestamp."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def events_before(
    event_members: NDArray[np.integer],
    event_times: NDArray[np.int64],
    members: NDArray[np.integer],
    until: NDArray[np.int64],
) -> tuple[Rows, Rows]:
    """Pair each label with every event of its member before a timestamp.

    Four events: of member 7 at 10, 20 and 30, of member 8 at 15. Label 1 asks for member 7 before
    30, so it is paired with events 0 and 1; label 2 asks for a member without events:

    >>> labels, events = events_before(
    ...     event_members=np.array([7, 7, 7, 8]),
    ...     event_times=np.array([10, 20, 30, 15]),
    ...     members=np.array([8, 7, 9, 7]),
    ...     until=np.array([20, 30, 30, 20]),
    ... )
    >>> labels.tolist(), events.tolist()
    ([0, 1, 1, 3], [3, 0, 1, 0])

    Args:
        event_members: Each event's member, int [events]; sorted by member, then by time.
        event_times: Int64 [events].
        members: Each label's member, int [labels].
        until: Int64 [labels]; an event at this timestamp is not paired.

    Returns:
        Indices of labels, ascending, and of events, ascending within each label; int64 [pairs].
    """
    starts = np.searchsorted(event_members, members, side="left")
    ends = np.searchsorted(event_members, members, side="right")
    counts = np.array(
        [
            np.searchsorted(event_times[start:end], timestamp, side="left")
            for start, end, timestamp in zip(starts, ends, until, strict=True)
        ],
        np.int64,
    )
    labels = np.repeat(np.arange(len(members)), counts)
    return labels, np.repeat(starts, counts) + position_in_label(labels)


def position_in_label(labels: Rows) -> Rows:
    """Count the pairs of each label from 0, in order.

    >>> position_in_label(np.array([0, 0, 0, 2])).tolist()
    [0, 1, 2, 0]
    """
    return np.arange(len(labels)) - np.searchsorted(labels, labels, side="left")
