"""What an evaluation hands to its report: one JSON document, checked before a page is made of it.

Everything below `Result` that has a default may be left out; the page then says what is missing.
A number that could not be had (too few labels) is NaN, and is shown as a dash.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from transformations.errors import InputError

Id = int | str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Part):
    """An estimate and its 95 % interval, in the unit of what is estimated."""

    estimate: float
    low: float
    high: float


class Data(_Part):
    """What the variants were compared on."""

    name: str
    members: int
    items: int
    events: int
    first: datetime
    """Time of the first event."""
    last: datetime


class Split(_Part):
    """The global temporal split: everything before, and nothing after, each moment."""

    train_until: datetime
    validation_until: datetime
    test_until: datetime


class Metric(_Part):
    """A column of the comparison."""

    key: str
    """What the other parts call it: hr10_recent."""
    label: str
    """What the page calls it: HR@10, active items."""
    higher_is_better: bool = True
    digits: int = Field(default=4, ge=0, le=8)


class Variant(_Part):
    """A row of the comparison: what the ranker was given, or what ranked instead of it."""

    name: str
    label: str
    kind: Literal["reference", "hand", "learned"]
    """reference: no activity, and recommenders that are no ranker; hand: average and decay."""
    metrics: dict[str, Interval]
    """Metric's key → value. A recommender without scores may lack the AUCs."""
    difference: dict[str, Interval] = {}
    """Metric's key → paired difference, this variant less the baseline; empty for the baseline."""
    bytes_per_member: int | None = None
    """Of all its vectors, as stored; None for what stores none."""
    vectors: int | None = None
    dims: int | None = None
    """Of one vector."""
    members_per_second: float | None = None


class Gate(_Part):
    """A promise that the evaluation holds or breaks."""

    name: str
    sentence: str
    """What was asked and what came, in plain words."""
    passed: bool


class Cohort(_Part):
    """The differences to the baseline among one part of the labels."""

    metric: str
    cohort: str
    """How members or labels were parted: History length."""
    level: str
    """Which part this is: 4 to 7 actions."""
    labels: int
    difference: dict[str, Interval]
    """Variant's name → difference."""


class Control(_Part):
    """An experiment whose outcome is known beforehand."""

    name: str
    sentence: str
    """What was done."""
    expected: str
    got: str
    passed: bool


class Storage(_Part):
    """A variant's vectors in one type of number, and what that costs."""

    variant: str
    dtype: Literal["float32", "float16", "int8"]
    bytes_per_member: int
    ndcg10: Interval
    difference: Interval | None = None
    """NDCG@10 less that of float32; None for float32."""


class ColdStart(_Part):
    """One way to serve members of little history."""

    members: str
    """Which ones: 0 actions."""
    labels: int
    approach: str
    """How: learned default vector, zeros, popularity."""
    metrics: dict[str, Interval]


class DecayPoint(_Part):
    """One setting of the decay grid, on the validation period."""

    decay: float
    metric: str
    value: float
    action: str | None = None
    """The action whose r was changed; None where all actions share r."""
    chosen: bool = False


class Training(_Part):
    """One learned aggregator's training, by epoch."""

    epochs: list[int]
    curves: dict[str, list[float | None]]
    """`loss`, `val_loss`, and any metric likewise: `hr10`, `val_hr10`. One number an epoch."""
    best_epoch: int | None = None
    """The epoch whose weights were kept."""
    seconds: float | None = None
    objective: str | None = None

    @model_validator(mode="after")
    def _one_number_an_epoch(self) -> Self:
        for name, curve in self.curves.items():
            if len(curve) != len(self.epochs):
                raise ValueError(
                    f"{name}: expected one number for each of {len(self.epochs)} epochs, "
                    f"got {len(curve)}"
                )
        return self


class Histogram(_Part):
    """Counts between edges: one more edge than counts; the last bin holds its right edge."""

    edges: list[float]
    counts: list[int]

    @model_validator(mode="after")
    def _one_more_edge(self) -> Self:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(
                f"expected {len(self.counts) + 1} edges around {len(self.counts)} counts, "
                f"got {len(self.edges)}"
            )
        return self


class Distributions(_Part):
    """What the sequences of one snapshot look like."""

    as_of: datetime
    sequence_length: Histogram
    actions: dict[str, int]
    """Action → how often it stands in the sequences."""


class MemberMap(_Part):
    """Members as points: two axes of their vectors."""

    variant: str
    """Whose vectors: an aggregator's name."""
    vector: str
    """Which one: activity_embedding."""
    method: str
    """How two axes were made: PCA."""
    x: list[float]
    y: list[float]
    category: list[str]
    """Each member's; one of at most nine, the others named `other`."""
    coloured_by: str = "commonest category of the items they acted on"
    """What a category is."""
    explained: float | None = None
    """Share of the variance that the two axes hold."""

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if not len(self.x) == len(self.y) == len(self.category):
            raise ValueError(
                f"expected x, y and category of equal length, got {len(self.x)}, "
                f"{len(self.y)} and {len(self.category)}"
            )
        return self


class Action(_Part):
    """One action of a member."""

    when: datetime
    action: str
    item: Id
    text: str | None = None


class NearItem(_Part):
    """An item near a member's vector."""

    item: Id
    text: str | None = None
    cosine: float


class Nearest(_Part):
    """The items nearest to one vector of a member."""

    variant: str
    vector: str
    items: list[NearItem]
    """Nearest first; empty where the member's vector is zero."""


class Member(_Part):
    """A member, as the aggregators see it."""

    member_id: Id
    actions: list[Action]
    """Newest first."""
    nearest: list[Nearest]


class Result(_Part):
    """An evaluation."""

    title: str
    """What was compared, in one line."""
    created: datetime
    command: str
    """What makes this result again."""
    data: Data
    split: Split
    seeds: list[int]
    baseline: str
    """The name of the variant that differences are taken to."""
    challenger: str | None = None
    """The name of the variant that the gates are about."""
    looked_at: int | None = None
    """How many variants and settings were looked at on validation before the test was opened."""
    protocol: list[str] = []
    """How it was done, a sentence each."""
    metrics: list[Metric]
    variants: list[Variant]
    gates: list[Gate] = []
    cohorts: list[Cohort] = []
    controls: list[Control] = []
    storage: list[Storage] = []
    cold_start: list[ColdStart] = []
    decay_grid: list[DecayPoint] = []
    training: dict[str, Training] = {}
    """Aggregator's name → its training."""
    distributions: Distributions | None = None
    map: MemberMap | None = None
    members: list[Member] = []

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        metrics = _unique("metrics", (metric.key for metric in self.metrics))
        variants = _unique("variants", (variant.name for variant in self.variants))
        _known("baseline", {self.baseline}, variants)
        if self.challenger is not None:
            _known("challenger", {self.challenger}, variants)
        for variant in self.variants:
            _known(f"variants.{variant.name}", variant.metrics.keys(), metrics)
            _known(f"variants.{variant.name}", variant.difference.keys(), metrics)
        for cohort in self.cohorts:
            _known("cohorts", {cohort.metric}, metrics)
            _known(f"cohorts.{cohort.cohort}", cohort.difference.keys(), variants)
        for way in self.cold_start:
            _known(f"cold_start.{way.approach}", way.metrics.keys(), metrics)
        return self


def read_result(document: Any) -> Result:
    """Check an evaluation's JSON document.

    Raises:
        InputError: it is not what this module says; the message names each place.
    """
    try:
        return Result.model_validate(document)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or '(top level)'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InputError(
            f"the evaluation's result has {len(lines)} problem(s), against "
            "pipelines/report/result.py; evaluate again to write it:\n" + "\n".join(lines)
        ) from None


def _unique(where: str, names: Iterable[str]) -> set[str]:
    listed = list(names)
    if len(set(listed)) < len(listed):
        raise ValueError(f"{where}: expected each name once, got {sorted(listed)}")
    return set(listed)


def _known(where: str, names: Iterable[str], known: set[str]) -> None:
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(
            f"{where}: expected names among {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
