"""How long an experiment must run: members needed to see an effect, and in which week they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from operations.experiments.intervals import ALPHA, FEWEST_MEMBERS, width

POWER = 0.8
LONGEST = 520
"""Weeks beyond which an answer is none."""


@dataclass(frozen=True)
class Weeks:
    """What the members of some weeks before the experiment were like.

    Attributes:
        weeks: How many.
        members: Those who were shown something in them.
        rate: The metric of all of them.
        variance: Of one member's part of it: members times the variance of the rate.
    """

    weeks: int
    members: int
    rate: float
    variance: float


@dataclass(frozen=True)
class Plan:
    """How long to run.

    Attributes:
        weeks: Whole ones; None where no time is enough.
        members: Needed in both arms.
        once: Needed in both arms by a test that looks once, at its end.
        rate: The metric's, on which this rests.
    """

    weeks: int | None
    members: int
    once: int
    rate: float


def members_needed(
    rate: float,
    variance: float,
    effect: float,
    share: float,
    power: float = POWER,
    alpha: float = ALPHA,
    always: bool = True,
) -> int:
    """Return how many members of both arms show an effect with this probability.

    The treatment's spread is taken to grow with its rate.

    Args:
        rate: Of the control.
        variance: Of one member's part of it; of a share, rate times (1 - rate).
        effect: As a share of the rate, of either sign.
        share: Of the treatment; the control is as large, or what is left.
        always: By the sequence that is looked at every day, at its end; whoever looks earlier sees
            it earlier, so this is an upper bound. Else by one look at the end.

    >>> members_needed(0.1, 0.09, 0.05, 0.5, always=False)
    124609
    """
    treated, others = share, min(share, 1 - share)
    part = treated / (treated + others)
    # At the planned number the width does not depend on that number.
    reach = width(1_000, 1_000, alpha) if always else NormalDist().inv_cdf(1 - alpha / 2)
    spread = variance * (1 + abs(effect)) ** 2 * (1 / part + 1 / (1 - part))
    difference = abs(rate * effect)
    return math.ceil((reach + NormalDist().inv_cdf(power)) ** 2 * spread / difference**2)


def plan(
    history: Sequence[Weeks],
    effect: float,
    share: float,
    power: float = POWER,
    alpha: float = ALPHA,
) -> Plan:
    """Return how many whole weeks are needed, by what the weeks before were like.

    Args:
        history: Of the last week, the last two, …: members come again, so twice the time has
            fewer than twice the members. Beyond it, each week brings what the last one brought.

    >>> weeks = [Weeks(n, 10_000 + 2_000 * n, 0.1, 0.09) for n in (1, 2, 3)]
    >>> plan(weeks, effect=0.2, share=0.5).weeks, plan(weeks, effect=0.1, share=0.5).weeks
    (5, 28)
    """
    both = share + min(share, 1 - share)
    for week in history:
        if not week.rate or week.variance <= 0:
            continue
        needed = members_needed(week.rate, week.variance, effect, share, power, alpha)
        if week.members * both >= needed:
            return _plan(week, week.weeks, effect, share, power, alpha)
    last = history[-1]
    if not last.rate or last.variance <= 0:
        return Plan(None, 0, 0, last.rate)
    before = history[-2].members if len(history) > 1 else 0
    brought = (last.members - before) * both
    needed = members_needed(last.rate, last.variance, effect, share, power, alpha)
    more = math.inf if brought <= 0 else (needed - last.members * both) / brought
    weeks = last.weeks + math.ceil(more) if more < LONGEST else None
    return _plan(last, weeks, effect, share, power, alpha)


def narrowest_at(history: Sequence[Weeks], effect: float, share: float, weeks: int) -> int:
    """Return at how many members an interval should be narrowest.

    As many as the effect needs, or as the first weeks bring where that is less: made for ten times
    as many members as there are, it is a quarter wider, and for a hundred times, three times as
    wide, while beyond its place it hardly widens. Harm is larger than what is worth the cost, and
    has to be seen in those weeks.

    Args:
        history, effect, share: As `plan` takes them.
        weeks: The whole ones before which nothing but harm ends it.

    >>> before = [Weeks(n, 10_000 + 2_000 * n, 0.1, 0.09) for n in (1, 2, 3)]
    >>> narrowest_at(before, 0.2, 0.5, 2), narrowest_at(before, 0.05, 0.1, 2)
    (14000, 2800)
    """
    needed = plan(history, effect, share).members
    brought = history[min(weeks, len(history)) - 1].members * (share + min(share, 1 - share))
    return max(round(min(needed or math.inf, brought)), 2 * FEWEST_MEMBERS)


def _plan(
    week: Weeks, weeks: int | None, effect: float, share: float, power: float, alpha: float
) -> Plan:
    always, once = (
        members_needed(week.rate, week.variance, effect, share, power, alpha, looks)
        for looks in (True, False)
    )
    return Plan(weeks, always, once, week.rate)
