"""The JSON of an evaluation's result, checked before the report is made from it.

Everything in `Result` that has a default may be left out; the page then says what is missing.
A number that could not be computed (too few labels) is NaN, and is shown as a dash.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from transformations.errors import InputError
from transformations.names import Similarity

Id = int | str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Strict):
    """An estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float


class Data(_Strict):
    """What the variants were compared on."""

    name: str
    members: int
    items: int
    events: int
    first: datetime
    """Time of the first event."""
    last: datetime


class SplitRow(_Strict):
    """The split of the test's time: each period ends before its timestamp."""

    fit_until: datetime
    """Of what spaces and aggregators are fitted on."""
    train_until: datetime
    """Of the ranker's labels."""
    until: datetime


class Metric(_Strict):
    """A column of the comparison."""

    key: str
    """Its name in the other parts: hr10_recent."""
    label: str
    """Its name on the page: HR@10, active items."""
    higher_is_better: bool = True
    digits: int = Field(default=4, ge=0, le=8)


class VariantRow(_Strict):
    """A row of the comparison: a ranker with certain features, or a recommender."""

    name: str
    label: str
    kind: Literal["reference", "hand", "learned"]
    """reference: no activity, and the recommenders; hand: average and decay."""
    metrics: dict[str, Interval]
    """Metric's key → value. A recommender does not judge, so it has no AUC for that."""
    difference: dict[str, Interval] = {}
    """Metric's key → paired difference, this variant minus the baseline; empty for the baseline."""
    over_items: dict[str, Interval] = {}
    """The same, with the interval over members and items."""
    bytes_per_member: int | None = None
    """Of all its vectors in float32; None for a variant without vectors."""
    vectors: int | None = None
    dims: int | None = None
    """Of one vector."""
    members_per_second: float | None = None


class PromiseRow(_Strict):
    """A requirement on the challenger, and whether it passed."""

    name: str
    sentence: str
    """What was required and what was measured."""
    passed: bool


class Cohort(_Strict):
    """The differences to the baseline in one group of labels."""

    metric: str
    cohort: str
    """How labels are grouped: History length."""
    level: str
    """Which group this is: 4 to 7 actions."""
    labels: int
    difference: dict[str, Interval]
    """Variant's name → difference."""


class ControlRow(_Strict):
    """An experiment with a known outcome."""

    name: str
    sentence: str
    """What was done."""
    expected: str
    got: str
    passed: bool


class Differences(_Strict):
    """Paired differences by metric, with the interval over members, and over members and items."""

    difference: dict[str, Interval]
    over_items: dict[str, Interval]


class FreshRow(_Strict):
    """One variant with one freshness."""

    metrics: dict[str, Interval]
    minus_baseline: Differences
    """To the baseline with the same freshness."""
    minus_first: Differences
    """To the variant itself with the first freshness."""


class FreshnessRow(_Strict):
    """All variants and references with features of one freshness."""

    name: str
    """live, a gap such as 30m, or a snapshot such as 1d."""
    seeds: int
    variants: dict[str, FreshRow]


class CarrierRow(_Strict):
    """An item, and what its labels add to the challenger's difference to the baseline."""

    item: Id
    text: str | None = None
    labels: int
    adds: float


class TrialRow(_Strict):
    """One setting that was tried on the validation."""

    period: str
    what: str
    settings: dict[str, Any]
    metric: str | None = None
    value: float | None = None
    made_at: str = ""


class Opening(_Strict):
    """One time that the test was looked at."""

    at: str
    what: str


class Storage(_Strict):
    """A variant's vectors in one dtype, and what that costs."""

    variant: str
    dtype: Literal["float32", "float16", "int8"]
    bytes_per_member: int
    ndcg10: Interval
    difference: Interval | None = None
    """NDCG@10 minus that of the form that the line is kept in; None for that."""


class ColdStart(_Strict):
    """One way to serve members with little history."""

    members: str
    """Which ones: 0 actions."""
    labels: int
    approach: str
    """How: learned default vector, zeros, popularity."""
    metrics: dict[str, Interval]


class DecayPoint(_Strict):
    """One setting of the decay grid, on the validation period."""

    decay: float
    metric: str
    value: float
    action: str | None = None
    """The action with this r; None where all actions share it."""
    chosen: bool = False


class Training(_Strict):
    """One learned aggregator's training, by epoch."""

    epochs: list[int]
    curves: dict[str, list[float | None]]
    """`loss`, `val_loss`, and metrics likewise: `hr10`, `val_hr10`. One number per epoch."""
    best_epoch: int | None = None
    """The epoch whose weights were kept."""
    seconds: float | None = None
    objective: str | None = None

    @model_validator(mode="after")
    def _one_number_per_epoch(self) -> Self:
        for name, curve in self.curves.items():
            if len(curve) != len(self.epochs):
                raise ValueError(
                    f"{name}: expected one number for each of {len(self.epochs)} epochs, "
                    f"got {len(curve)}"
                )
        return self


class Histogram(_Strict):
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


class Distributions(_Strict):
    """What the sequences of one snapshot look like."""

    as_of: datetime
    sequence_length: Histogram
    actions: dict[str, int]
    """Action → how often it occurs in the sequences."""


class MemberMap(_Strict):
    """Members as points: two axes of their vectors."""

    variant: str
    """Whose vectors: an aggregator's name."""
    vector: str
    """Which one: activity_embedding."""
    method: str
    """How the two axes were computed: PCA."""
    x: list[float]
    y: list[float]
    category: list[str]
    """Each member's category; at most nine, the rest are `other`."""
    coloured_by: str = "commonest category of the items they acted on"
    """What a category is."""
    explained: float | None = None
    """Share of the variance on the two axes."""

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if not len(self.x) == len(self.y) == len(self.category):
            raise ValueError(
                f"expected x, y and category of equal length, got {len(self.x)}, "
                f"{len(self.y)} and {len(self.category)}"
            )
        return self


class Action(_Strict):
    """One action of a member."""

    when: datetime
    action: str
    item: Id
    text: str | None = None


class NearItem(_Strict):
    """An item near a vector."""

    item: Id
    text: str | None = None
    similarity: float


class Nearest(_Strict):
    """The items nearest to one vector of a member."""

    variant: str
    vector: str
    by: Similarity = "cosine"
    """The similarity of the item space."""
    items: list[NearItem]
    """Nearest first; empty where the member's vector is zero."""


class MemberRow(_Strict):
    """A member's last actions, and the items nearest to its vectors."""

    member_id: Id
    actions: list[Action]
    """Newest first."""
    nearest: list[Nearest]


class Result(_Strict):
    """An evaluation."""

    title: str
    """What was compared, in one line."""
    created: datetime
    command: str
    """The command line that reproduces this."""
    data: Data
    split: SplitRow
    seeds: list[int]
    baseline: str
    """Name of the variant that differences are relative to."""
    challenger: str | None = None
    """Name of the variant that the promises are about."""
    n_trials: int | None = None
    """Number of settings tried on validation, in all runs of this workspace."""
    protocol: list[str] = []
    """How it was done, one item each."""
    gaps: list[str] = []
    """What was left out because there was nothing to learn it from or to measure it on."""
    metrics: list[Metric]
    variants: list[VariantRow]
    promises: list[PromiseRow] = []
    cohorts: list[Cohort] = []
    controls: list[ControlRow] = []
    freshness: list[FreshnessRow] = []
    """Side by side; the first is that of all other parts."""
    challenger_minus: dict[str, Differences] = {}
    """Other variant's name → the challenger minus it."""
    carriers: list[CarrierRow] = []
    """The items that add most to the challenger's difference in NDCG@10, in either direction."""
    trials: list[TrialRow] = []
    test_openings: list[Opening] = []
    """Of this workspace, the oldest first."""
    storage: list[Storage] = []
    cold_start: list[ColdStart] = []
    decay_grid: list[DecayPoint] = []
    training: dict[str, Training] = {}
    """Aggregator's name → its training."""
    distributions: Distributions | None = None
    map: MemberMap | None = None
    members: list[MemberRow] = []

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
        _known("challenger_minus", self.challenger_minus.keys(), variants)
        for fresh in self.freshness:
            _known(f"freshness.{fresh.name}", fresh.variants.keys(), variants)
        for cohort in self.cohorts:
            _known("cohorts", {cohort.metric}, metrics)
            _known(f"cohorts.{cohort.cohort}", cohort.difference.keys(), variants)
        for way in self.cold_start:
            _known(f"cold_start.{way.approach}", way.metrics.keys(), metrics)
        return self


def read_result(result: Any) -> Result:
    """Check an evaluation's result, as read from JSON.

    Raises:
        InputError: it does not match this module; the message names each field.
    """
    try:
        return Result.model_validate(result)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or '(top level)'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InputError(
            f"expected a result as in pipelines/report/result.py, got {len(lines)} problem(s); "
            "evaluate again to write it:\n" + "\n".join(lines)
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
