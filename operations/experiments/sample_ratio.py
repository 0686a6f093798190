"""Whether the arms have as many members as they should, and are alike: chi-square tests.

A split that is not the one configured voids an experiment: whoever is missing from one arm is
missing for a reason (Fabijan et al. 2019, "Diagnosing Sample Ratio Mismatch in Online Controlled
Experiments", section 3).
"""

import math
from collections.abc import Mapping, Sequence

VOID_BELOW = 0.001


def sample_ratio(control: int, treatment: int, share: float) -> float:
    """Return the p-value of the arms' sizes under a share of the treatment.

    Args:
        share: Of all members, as the experiment was started with.

    >>> round(sample_ratio(5_000, 5_100, 0.5), 3), sample_ratio(5_000, 5_500, 0.5) < VOID_BELOW
    (0.32, True)
    """
    of_both = share / (share + min(share, 1 - share))
    both = control + treatment
    if not both:
        return 1.0
    expected = (both * (1 - of_both), both * of_both)
    if min(expected) == 0:
        return 1.0
    distance = sum(
        (got - wanted) ** 2 / wanted
        for got, wanted in zip((control, treatment), expected, strict=True)
    )
    return math.erfc(math.sqrt(distance / 2))  # of one degree of freedom


def likeness(counts: Mapping[str, Sequence[int]], fewest: float = 5.0) -> float:
    """Return the p-value of members by value and arm, if both arms were alike.

    Args:
        counts: Value → members of the control and of the treatment. Values of which fewer than
            `fewest` are expected in an arm count as one: of them the test is not true.

    >>> round(likeness({"home": (500, 490), "mail": (100, 110)}), 2)
    0.45
    """
    columns = [sum(pair[arm] for pair in counts.values()) for arm in (0, 1)]
    whole = sum(columns)
    if min(columns) == 0:
        return 1.0
    rows: list[tuple[int, int]] = []
    rare = (0, 0)
    for control, treatment in counts.values():
        if (control + treatment) * min(columns) / whole < fewest:
            rare = rare[0] + control, rare[1] + treatment
        else:
            rows.append((control, treatment))
    if sum(rare) * min(columns) / whole >= fewest:
        rows.append(rare)
    columns = [sum(pair[arm] for pair in rows) for arm in (0, 1)]
    if len(rows) < 2 or min(columns) == 0:
        return 1.0
    from scipy.special import chdtrc

    whole = sum(columns)
    distance = sum(
        (pair[arm] - sum(pair) * columns[arm] / whole) ** 2 / (sum(pair) * columns[arm] / whole)
        for pair in rows
        for arm in (0, 1)
    )
    return float(chdtrc(len(rows) - 1, distance))
