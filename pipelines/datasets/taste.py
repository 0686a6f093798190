"""The hidden taste of the simulated market: one function of (member, item, context).

`Taste.probabilities` says how likely each reaction is. The simulator draws from it, and whoever
wants to judge a slate that was never shown can ask it. It is an ordered probit: a member's fit
with an item is u + 0.7 z, with z standard normal and

    u = 2 liking + 0.8 [near or remote] - 0.5 |seniority apart| + 0.2 attractiveness

and cut points on the fit decide the reaction. The context is the time and the way to the item:

- The time decides `liking`, a member's weight for the item's category: one in three members
  changes once. For a course it is 0.7 of the liking of jobs at that time and 0.3 of an interest
  that jobs do not show, so job actions predict courses, but not wholly.
- An item that a member found by itself is always reacted on. Jobs: below the 3 % quantile of the
  simulated fits DISMISS, from the 55 % quantile on APPLY, else SAVE: 97 positive actions to 3
  dismissals, the imbalance that LinkedIn's post of 2022 reports. Courses: ENROLL.
- An item that was shown at a position of a slate is looked at with the probability
  1 / log2(1 + position), the discount of DCG. What is looked at is dismissed below d - 0.5, saved
  from a on and applied to from a + 0.5 on (courses: ENROLL from a on), for the cut points d and a
  of found jobs; what lies between is passed by. Reactions to items of one slate are independent.

The constants are round numbers, set once; nothing is tuned so that an aggregator wins.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pipelines.datasets.market import REMOTE, Floats, Ints, Market

REACTIONS = ("none", "DISMISS", "SAVE", "APPLY", "ENROLL")
JOB_BANDS = np.array([1, 0, 2, 3])
"""Index in REACTIONS of a job's reaction, by the number of cut points at or below the fit."""
COURSE_BANDS = np.array([1, 0, 2, 4])
NOISE = 0.7
TIE = 0.7
"""How much of the liking of courses is that of jobs."""


@dataclass(frozen=True)
class Taste:
    """What the members of a market like.

    Members and items are indices, ids minus 1; times are seconds after the start. Arguments of
    one method broadcast against each other; `...` is the shape that they then have.

    Attributes:
        dismiss, apply: Cut points on the fit of found jobs.
    """

    market: Market
    dismiss: float = -np.inf
    apply: float = -np.inf

    @cached_property
    def liking(self) -> Floats:
        """Weights of the categories, [job or course, members, before or after, categories]."""
        members = self.market.members
        courses = TIE * members.liking + (1 - TIE) * members.interest[:, None]
        return np.stack([members.liking, courses])

    def era(self, member: Ints, seconds: Floats) -> Ints:
        """Return 0 before the member's change, 1 from then on; [...]."""
        return (seconds >= self.market.members.changes_at[member]).astype(np.int64)

    def utility(self, member: Ints, item: Ints, seconds: Floats) -> Floats:
        """Return the fit without its noise; [...]."""
        items, members = self.market.items, self.market.members
        place = items.location[item]
        near = (place == members.location[member]) | (place == REMOTE)
        era = self.era(member, seconds)
        return (
            2.0 * self.liking[items.is_course[item].astype(int), member, era, items.category[item]]
            + 0.8 * near
            - 0.5 * np.abs(items.seniority[item] - members.seniority[member])
            + 0.2 * items.attractiveness[item]
        )

    def fit(self, rng: np.random.Generator, member: Ints, item: Ints, seconds: Floats) -> Floats:
        """Draw the fit; [n], of arguments of that shape."""
        return self.utility(member, item, seconds) + rng.normal(0.0, NOISE, member.size)

    def calibrated(self, fits: Floats) -> "Taste":
        """Return the taste with the cut points that found jobs of these fits give."""
        dismiss, apply = np.quantile(fits, [0.03, 0.55])
        return replace(self, dismiss=float(dismiss), apply=float(apply))

    def react(self, item: Ints, fit: Floats, shown: bool) -> Ints:
        """Return the reaction to an item that is looked at, as an index in REACTIONS; [...]."""
        jobs, courses = self._cuts(shown)
        # searchsorted gives the number of cut points that are not above the fit.
        job = JOB_BANDS[np.searchsorted(jobs, fit, side="right")]
        course = COURSE_BANDS[np.searchsorted(courses, fit, side="right")]
        return np.where(self.market.items.is_course[item], course, job)

    def probabilities(
        self, member: Ints, item: Ints, seconds: Floats, position: Ints | None = None
    ) -> Floats:
        """Return the probability of each reaction.

        Args:
            member, item, seconds: Who, which item, and when.
            position: Where in a slate it was shown, from 1; None: the member found it.

        Returns:
            [..., len(REACTIONS)]; the last axis sums to 1.
        """
        from scipy.special import ndtr

        looks = np.ones(1) if position is None else attention(position)
        member, item, seconds, looks = np.broadcast_arrays(member, item, seconds, looks)
        mean = self.utility(member, item, seconds)[..., None]
        is_course = self.market.items.is_course[item]
        result = np.zeros((*mean.shape[:-1], len(REACTIONS)))
        for chosen, cuts, bands in zip(
            (~is_course, is_course),
            self._cuts(position is not None),
            (JOB_BANDS, COURSE_BANDS),
            strict=True,
        ):
            below = ndtr((cuts - mean[chosen]) / NOISE)
            part = np.zeros((len(below), len(REACTIONS)))
            part[:, bands] = np.diff(below, axis=-1, prepend=0.0, append=1.0)
            result[chosen] = part
        result *= looks[..., None]
        result[..., 0] += 1 - looks
        return result

    def _cuts(self, shown: bool) -> tuple[Floats, Floats]:
        """Return three ascending cut points for jobs and for courses.

        They part DISMISS, passed by, SAVE, and APPLY or ENROLL.
        """
        if shown:
            return (
                np.array([self.dismiss - 0.5, self.apply, self.apply + 0.5]),
                np.array([-np.inf, self.apply, self.apply]),
            )
        return np.array([self.dismiss, self.dismiss, self.apply]), np.full(3, -np.inf)


def attention(position: Ints) -> Floats:
    """Return the probability that a member looks at a position of a slate, from 1; [...].

    >>> attention(np.array([1, 3])).tolist()
    [1.0, 0.5]
    """
    return 1 / np.log2(1 + position)
