"""How much better the treatment is, with an interval that holds whenever one looks.

An arm is told by the moments of its members: each has an amount (applications) and a size (1, or
how many impressions it had), and the arm's rate is the sum of amounts over that of sizes. Members
were assigned, so they are what is independent: the error of a rate per impression is that of the
amounts minus rate times size (the delta method; Deng, Knoblich and Lu 2018, "Applying the Delta
Method in Metric Analytics", equation 3).

The interval is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas (2021, "Time-uniform central limit theory and asymptotic confidence sequences", theorem 2.2):
with probability 1 - alpha it holds the truth at all looks together, so whoever looks every day may
stop when it leaves zero. It is wider than that of a test at one fixed time, by about a half at
`planned` members and more elsewhere.

The interval of the lift is Fieller's (1954, "Some problems in interval estimation"): all ratios
that the two rates do not contradict. It holds where the control's rate is uncertain, too, and a
rise from next to nothing has a lower end. What is rare in one arm alone, as applications in an arm
whose lists nobody likes, has hardly any spread there, which is no certainty: it counts with that of
both arms.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 0.05
FEWEST_MEMBERS = 100
"""Of each arm, without which nothing is said: the theorem is about many."""
FEWEST_ACTIVE = 20
"""Members per arm whose amount is not zero. With fewer than twice as many in both, nothing is said;
an arm with fewer has the spread of both."""


@dataclass(frozen=True)
class Moments:
    """What is known of an arm's members.

    Attributes:
        members: How many.
        active: Those whose amount is not 0.
        amount, size: Means over members.
        amounts, sizes, joint: Variances of the amount and the size over members; the covariance.
    """

    members: int
    active: int
    amount: float
    size: float
    amounts: float
    sizes: float
    joint: float

    @classmethod
    def of(cls, amounts: ArrayLike, sizes: ArrayLike | None = None) -> "Moments":
        """Return the moments of members' amounts [n] and sizes [n]; without sizes they are 1.

        >>> Moments.of([0, 1, 2, 1]).rate, Moments.of([0, 1, 2, 1], [1, 2, 3, 2]).rate
        (1.0, 0.5)
        """
        y = np.asarray(amounts, np.float64)
        x = np.ones_like(y) if sizes is None else np.asarray(sizes, np.float64)
        if len(y) < 2:
            nothing = float(y.sum()), float(x.sum()), 0.0, 0.0, 0.0
            return cls(len(y), int(np.count_nonzero(y)), *nothing)
        dy, dx = y - y.mean(), x - x.mean()
        free = len(y) - 1
        return cls(
            len(y),
            int(np.count_nonzero(y)),
            float(y.mean()),
            float(x.mean()),
            float(dy @ dy / free),
            float(dx @ dx / free),
            float(dy @ dx / free),
        )

    @property
    def rate(self) -> float:
        """Amount per size; NaN where there is nothing."""
        return self.amount / self.size if self.size else math.nan

    @property
    def variance(self) -> float:
        """The variance of the rate."""
        if not self.size or not self.members:
            return math.nan
        rate = self.rate
        spread = self.amounts - 2 * rate * self.joint + rate**2 * self.sizes
        return max(spread, 0.0) / self.size**2 / self.members

    @property
    def spread(self) -> float:
        """The variance of the rate, were there one member."""
        return self.variance * self.members


@dataclass(frozen=True)
class Effect:
    """What the treatment changes of a metric, as a share of the control's rate.

    Attributes:
        control, treatment: The rates.
        lift: treatment / control - 1, infinite where the control's is 0; None where too little is
            known, as are low and high. `high` is infinite where nothing bounds it.
        low, high: The interval of the lift at all looks together.
        error: The standard error of the lift, by its linear part.
    """

    control: float
    treatment: float
    lift: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is an interval."""
        return self.lift is not None

    def fixed(self, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the interval of a single look that was planned, for comparison."""
        if self.lift is None or self.error is None:
            return math.nan, math.nan
        wide = NormalDist().inv_cdf(1 - alpha / 2) * self.error
        return self.lift - wide, self.lift + wide


def effect(control: Moments, treatment: Moments, planned: int, alpha: float = ALPHA) -> Effect:
    """Return the lift with its confidence sequence, narrowest at `planned` members of both arms.

    >>> rng = np.random.default_rng(0)
    >>> arms = [Moments.of(rng.binomial(10, rate, 5_000)) for rate in (0.1, 0.11)]
    >>> found = effect(*arms, planned=10_000)
    >>> round(found.lift, 3), round(found.low, 3), round(found.high, 3)
    (0.099, 0.039, 0.163)
    """
    rates = Effect(control.rate, treatment.rate)
    arms, members = (control, treatment), control.members + treatment.members
    if (
        min(arm.members for arm in arms) < FEWEST_MEMBERS
        or sum(arm.active for arm in arms) < 2 * FEWEST_ACTIVE
    ):
        return rates
    both = sum(arm.spread * arm.members for arm in arms) / members
    of_control, of_treatment = (
        arm.variance if arm.active >= FEWEST_ACTIVE else max(arm.spread, both) / arm.members
        for arm in arms
    )
    ends = fieller(
        control.rate, treatment.rate, of_control, of_treatment, width(members, planned, alpha)
    )
    if ends is None or of_control + of_treatment == 0:
        return rates
    base, minus = abs(control.rate), treatment.rate - control.rate
    if base == 0:
        return Effect(control.rate, treatment.rate, math.inf, *ends, math.inf)
    ratio = treatment.rate / control.rate
    error = math.sqrt(of_treatment + ratio**2 * of_control) / base
    return Effect(control.rate, treatment.rate, minus / base, *ends, error)


def fieller(
    control: float, treatment: float, of_control: float, of_treatment: float, wide: float
) -> tuple[float, float] | None:
    """Return the ends of the lifts that two rates with these variances do not contradict.

    A lift u is contradicted where treatment - (control + u |control|) is more than `wide` of its
    standard errors. Where the control may be 0 by that, rates below 0 are taken to be impossible,
    and nothing bounds the lift from above; None where nothing bounds it at all.

    >>> fieller(10.0, 0.0, 1.0, 1.0, 2.0)
    (-1.2041241452319316, -0.7958758547680685)
    >>> fieller(0.0, 10.0, 1.0, 1.0, 2.0)
    (3.8989794855663567, inf)
    """
    # In the ratio r = treatment / control: (T - r C)^2 <= wide^2 (var T + r^2 var C).
    squared = control**2 - wide**2 * of_control
    middle, last = treatment * control, treatment**2 - wide**2 * of_treatment
    root = math.sqrt(max(middle**2 - squared * last, 0.0))
    if squared > 0:
        low, high = (middle - root) / squared, (middle + root) / squared
        return (low - 1, high - 1) if control > 0 else (1 - high, 1 - low)
    if last > 0 and control >= 0 and treatment >= 0 and middle + root > 0:
        # The two roots have different signs, or are one; the upper one is last / (middle + root).
        return last / (middle + root) - 1, math.inf
    return None


def width(members: int, planned: int, alpha: float = ALPHA) -> float:
    """Return how many standard errors the sequence's interval reaches to each side.

    >>> [round(width(members, 10_000), 2) for members in (1_000, 10_000, 100_000)]
    [3.86, 3.04, 3.24]
    """
    scaled = members * _rho2(planned, alpha)
    return math.sqrt((1 + 1 / scaled) * math.log((scaled + 1) / alpha**2))


def _rho2(planned: int, alpha: float) -> float:
    """Return rho², which makes the interval narrowest at a size (ibid., appendix on tuning)."""
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned


def shared(alpha: float, n_guardrails: int) -> tuple[float, float]:
    """Share the error between the primary metric and each guardrail, so that all keep to alpha.

    A fifth goes to the guardrails together.

    >>> shared(0.05, 0), shared(0.05, 2)
    ((0.05, 0.0), (0.04, 0.005))
    """
    if not n_guardrails:
        return alpha, 0.0
    return alpha - alpha / 5, alpha / 5 / n_guardrails
