"""How an evaluation is done: which time serves which purpose, how much, how often."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from transformations.errors import InputError

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of an evaluation.

    Attributes:
        weights: Share of the time, from the first event on, that aggregators and the item encoder
            are trained on.
        train: Share of the time at whose end the ranker's training labels end; they begin where
            that of the weights ends, so that no training row has features made by weights that
            know it.
        validation: Share of the time at whose end the choices end. The rest is the test.
        seeds: Rankers per variant.
        resamples: Of members and seeds, for the intervals.
        max_labels: At most about so many labels in each of the three periods: members are drawn
            until they are reached. None: all.
        l2: The strengths of the ranker's penalty that each variant may choose from.
        decays: The grid of r for the decayed vectors that are the baseline.
    """

    weights: float = 0.45
    train: float = 0.60
    validation: float = 0.80
    seeds: int = 6
    resamples: int = 2000
    max_labels: int | None = None
    l2: tuple[float, ...] = (1e-4, 1e-3)
    decays: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9, 0.95)

    def __post_init__(self) -> None:
        if not 0 < self.weights < self.train < self.validation < 1:
            raise InputError(
                "expected shares of the time 0 < weights < train < validation < 1, got "
                f"{self.weights}, {self.train}, {self.validation}"
            )
        if self.seeds < 1:
            raise InputError(f"seeds: expected at least 1, got {self.seeds}")


@dataclass(frozen=True)
class Split:
    """The moments, all of them midnights, that part the time."""

    first: datetime
    weights_until: datetime
    train_until: datetime
    validation_until: datetime
    test_until: datetime

    @classmethod
    def of(cls, first: datetime, last: datetime, protocol: Protocol) -> "Split":
        """Part the time from the first to the last event.

        Raises:
            InputError: there are too few days for every part to have one.
        """
        end = _midnight(last) + DAY

        def at(share: float) -> datetime:
            return _midnight(first + share * (end - first))

        moments = [at(protocol.weights), at(protocol.train), at(protocol.validation), end]
        if not _midnight(first) < moments[0] < moments[1] < moments[2] < end:
            raise InputError(
                f"expected events over enough days to part them, got {first:%Y-%m-%d} to "
                f"{last:%Y-%m-%d}; the parts end at "
                + ", ".join(f"{moment:%Y-%m-%d}" for moment in moments)
            )
        return cls(first, *moments)

    @property
    def snapshots(self) -> list[datetime]:
        """The midnights whose snapshots a label may be given, oldest first."""
        days = (self.test_until - self.weights_until).days
        return [self.weights_until + day * DAY for day in range(days)]


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
