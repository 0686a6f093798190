"""The protocol of an evaluation: how time is split, how many labels, seeds and resamples."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from transformations.errors import InputError

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of an evaluation.

    Attributes:
        weights: End of the data that aggregators and item encoder are trained on, as a share of
            the time from the first to the last event.
        train: End of the ranker's training labels, as a share of the time. They begin where the
            weights' data end, so no training row has features from weights that were fitted to it.
        validation: End of the labels that choices are made on. The rest is the test.
        seeds: Rankers per variant.
        resamples: Number of resamples of members and seeds, for the intervals.
        max_labels: About that many labels per period at most, by sampling members. None: all.
        predicts: The actions whose labels are positive; only items of their kinds are ranked.
            Empty: every positive action, on items of any kind but searches.
        l2: Penalties of the ranker to choose from, for each variant.
        decays: Grid of r for the decayed vectors of the baseline.
    """

    weights: float = 0.45
    train: float = 0.60
    validation: float = 0.80
    seeds: int = 6
    resamples: int = 2000
    max_labels: int | None = None
    predicts: tuple[str, ...] = ()
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
    """The first event, and the midnights that split the time."""

    first: datetime
    weights_until: datetime
    train_until: datetime
    validation_until: datetime
    test_until: datetime

    @classmethod
    def of(cls, first: datetime, last: datetime, protocol: Protocol) -> "Split":
        """Split the time from the first to the last event.

        Raises:
            InputError: there are too few days for every period to have one.
        """
        end = _midnight(last) + DAY

        def at(share: float) -> datetime:
            return _midnight(first + share * (end - first))

        ends = [at(protocol.weights), at(protocol.train), at(protocol.validation), end]
        if not _midnight(first) < ends[0] < ends[1] < ends[2] < end:
            raise InputError(
                f"expected events over enough days to split them, got {first:%Y-%m-%d} to "
                f"{last:%Y-%m-%d}; the periods would end at "
                + ", ".join(f"{each:%Y-%m-%d}" for each in ends)
            )
        return cls(first, *ends)

    @property
    def periods(self) -> dict[str, tuple[datetime, datetime]]:
        """Start and end of the labels of each period."""
        return {
            "train": (self.weights_until, self.train_until),
            "validation": (self.train_until, self.validation_until),
            "test": (self.validation_until, self.test_until),
        }


def _midnight(timestamp: datetime) -> datetime:
    return timestamp.replace(hour=0, minute=0, second=0, microsecond=0)
