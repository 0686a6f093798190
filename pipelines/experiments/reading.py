"""What an experiment says by now: is it sound, what changed, what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from duckdb import DuckDBPyConnection as Connection

from operations.experiments.intervals import Effect, effect, shared
from operations.experiments.metrics import IMPRESSIONS, Metric
from operations.experiments.records import Experiment
from operations.experiments.sample_ratio import VOID_BELOW, likeness, sample_ratio
from operations.experiments.verdict import Guardrail, Verdict, decide
from pipelines.experiments.outcomes import ALL, exposed, moments
from transformations.config import Config
from transformations.duck import sql
from transformations.errors import InputError

DAY = timedelta(days=1)
COVERAGE = "coverage"
"""A guardrail of the lists themselves: how many items are in them."""
WRONG_SHARE = 0.001
"""Members in an arm that is not theirs, beyond which an experiment is void."""
MOST_OF = 0.9
"""A value that more members have points nowhere."""
FACTS = {"surface": "surfaces", "positions": "positions", "path": "what made the lists"}
"""Facts of a member's first list in which the arms are compared."""

Counts = Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class Cohort:
    """A metric among the members of one value of a profile's category."""

    value: str
    members: int
    effect: Effect


@dataclass(frozen=True)
class Reading:
    """What an experiment says as of a timestamp.

    Attributes:
        until: What happened, or was ingested, at or after it is not in it.
        members: Of the control and the treatment.
        p_ratio: Of the arms' sizes under the share.
        wrong: Members in an arm that is not theirs by the assignment.
        effects: Metric → what the treatment changes: the primary one, then the guardrails'.
        likeness: Fact of first lists → p-value of the arms being alike in it.
        notes: What should be looked at, and voids nothing.
    """

    experiment: Experiment
    until: datetime
    members: tuple[int, int]
    p_ratio: float
    wrong: int
    effects: Mapping[str, Effect]
    likeness: Mapping[str, float]
    notes: Sequence[str]
    verdict: Verdict

    @property
    def days(self) -> float:
        """Days since the start."""
        return max((self.until - self.experiment.started_at) / DAY, 0.0)


def default_guardrails(config: Config) -> list[Guardrail]:
    """Return what may not get worse where nobody says otherwise."""
    can_be_negative = any(
        action.sign == "negative" or action.negative_if for action in config.rules.actions.values()
    )
    dismissals = [Guardrail("negative per impression", 0.1, is_upper=True)] * can_be_negative
    return [
        *dismissals,
        Guardrail(f"{IMPRESSIONS} per member", -0.1, is_upper=False),
        Guardrail("latency per list", 0.25, is_upper=True),
        Guardrail("filled per list", -0.01, is_upper=False),
        Guardrail(COVERAGE, -0.2, is_upper=False),
    ]


def read_guardrail(text: str, config: Config) -> Guardrail:
    """Read a guardrail whose metric is there.

    Raises:
        InputError: it is not like that, or nothing is called so.
    """
    guardrail = Guardrail.read(text)
    if guardrail.metric == COVERAGE:
        if guardrail.is_upper:
            raise InputError(f"expected {COVERAGE} >= some percent, got {text!r}")
        return guardrail
    return replace(guardrail, metric=str(Metric.read(guardrail.metric, config)))


def read(config: Config, con: Connection, experiment: Experiment, until: datetime) -> Reading:
    """Read an experiment as of a timestamp; one that ended, as of its end at most.

    An end cuts what was shown and what was done: whatever comes later, all members have it.

    Raises:
        InputError: ids are of other types than the configuration's, or a metric is gone from it.
    """
    if experiment.ended_at is not None:
        until = min(until, experiment.ended_at)
    exposed(config, con, experiment.started_at, until, experiment)
    counts = _first_lists(con)
    ((control, treatment, wrong, both),) = con.execute(sql("arms", __file__)).fetchall()
    p_ratio = sample_ratio(control, treatment, experiment.share)
    alike = {fact: likeness(counts.get(fact, {})) for fact in FACTS}
    guarded = [one for one in experiment.guardrails if one.metric != COVERAGE]
    alpha, of_guardrail = shared(experiment.alpha, len(guarded))
    primary = Metric.read(experiment.metric, config)
    effects = {experiment.metric: _effect(config, con, experiment, primary, alpha)}
    checked = []
    for guardrail in experiment.guardrails:
        if guardrail.metric == COVERAGE:
            found = _coverage(con)
        else:
            metric = Metric.read(guardrail.metric, config)
            found = _effect(config, con, experiment, metric, of_guardrail)
        checked.append((guardrail, found))
        effects.setdefault(guardrail.metric, found)
    days = max((until - experiment.started_at) / DAY, 0.0)
    verdict = decide(
        experiment.metric,
        effects[experiment.metric],
        checked,
        experiment.minimum_effect,
        days,
        experiment.weeks,
        primary.wants(config),
        _faults(experiment, counts, (control, treatment, wrong, both), p_ratio),
    )
    notes = [
        f"The arms differ in the {FACTS[fact]} of members' first lists (p = {p:.1g}): "
        f"{_shares(counts[fact])}. Is the layout the same?"
        for fact, p in alike.items()
        if p < VOID_BELOW
    ]
    others = _by_others(con, experiment)
    if others > WRONG_SHARE:
        notes.append(
            f"{others:.1%} of the treatment's lists were made by another release than "
            f"{experiment.treatment}: a service could not open it, so the effect is smaller here "
            "than it is"
        )
    arms = (int(control), int(treatment))
    return Reading(experiment, until, arms, p_ratio, int(wrong), effects, alike, notes, verdict)


def cohorts(config: Config, con: Connection, reading: Reading, by: str) -> list[Cohort]:
    """Return the primary metric by a category of profiles, most members first; after `read`.

    The error is shared among the values: whoever looks at many finds one that differs.

    Raises:
        InputError: no profile has such a category.
    """
    experiment = reading.experiment
    arms = moments(config, con, Metric.read(experiment.metric, config), by)
    alpha = experiment.alpha / max(len(arms), 1)
    found = [
        Cohort(
            value,
            control.members + treatment.members,
            effect(control, treatment, experiment.planned, alpha),
        )
        for value, (control, treatment) in arms.items()
    ]
    return sorted(found, key=lambda one: (-one.members, one.value))


def measure(config: Config, con: Connection, reading: Reading, text: str) -> Effect:
    """Return what the treatment changes of one more metric; after `read`. It decides nothing.

    Raises:
        InputError: it is not a metric.
    """
    metric, experiment = Metric.read(text, config), reading.experiment
    return _effect(config, con, experiment, metric, experiment.alpha)


def _effect(
    config: Config, con: Connection, experiment: Experiment, metric: Metric, alpha: float
) -> Effect:
    arms = moments(config, con, metric).get(ALL)
    if arms is None:
        return Effect(float("nan"), float("nan"))
    return effect(*arms, experiment.planned, alpha)


def _by_others(con: Connection, experiment: Experiment) -> float:
    """Return the share of the treatment's lists that its release did not make."""
    if experiment.treatment is None:
        return 0.0
    query = sql("other_release", __file__)
    ((share,),) = con.execute(query, {"treatment": experiment.treatment}).fetchall()
    return share or 0.0


def _coverage(con: Connection) -> Effect:
    """Return how many items as many lists of each arm hold; chance has no interval here."""
    found = dict(con.execute(sql("coverage", __file__)).fetchall())
    control, treatment = found.get(False, 0), found.get(True, 0)
    if not (control and treatment):
        return Effect(control, treatment)
    return Effect(control, treatment, treatment / control - 1)


def _first_lists(con: Connection) -> Counts:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for fact, value, *arms in con.execute(sql("first_lists", __file__)).fetchall():
        found.setdefault(fact, {})[value] = (int(arms[0]), int(arms[1]))
    return found


def _faults(
    experiment: Experiment, counts: Counts, members: tuple[int, int, int, int], p_ratio: float
) -> list[str]:
    """Say what makes an experiment void."""
    control, treatment, wrong, both = members
    faults = []
    if wrong > WRONG_SHARE * (control + treatment + both):
        faults.append(
            f"{wrong} of {control + treatment + both} members were shown an arm that is not "
            f"theirs ({both} of them both arms): look for a service with another salt or share."
        )
    if p_ratio < VOID_BELOW:
        faults.append(
            f"The arms have {control} and {treatment} members, which a share of "
            f"{experiment.share:g} does not give (p = {p_ratio:.1g})"
            + _where(experiment.share, counts)
            + ": look for lists that fail, time out or are empty in one arm only, and for a filter "
            "that comes after the assignment."
        )
    return faults


def _where(share: float, counts: Counts) -> str:
    """Name the value of a fact, not of nearly all members, whose arms are the most unlikely."""
    most = MOST_OF * max((sum(map(sum, values.values())) for values in counts.values()), default=0)
    found: list[tuple[float, str]] = [
        (sample_ratio(*arms, share), f"{fact} {value} ({arms[0]} and {arms[1]})")
        for fact, values in counts.items()
        for value, arms in values.items()
        if sum(arms) < most
    ]
    if not found:
        return ""
    p, said = min(found)
    return f", most of all for {said}" if p < VOID_BELOW else ""


def _shares(values: Mapping[str, tuple[int, int]]) -> str:
    """Say the values whose shares differ most: `home 80% and 60%`."""
    totals = [max(sum(pair[arm] for pair in values.values()), 1) for arm in (0, 1)]
    shares = [(value, pair[0] / totals[0], pair[1] / totals[1]) for value, pair in values.items()]
    worst = sorted(shares, key=lambda one: -abs(one[1] - one[2]))[:3]
    return ", ".join(
        f"{value} {control:.0%} and {treated:.0%}" for value, control, treated in worst
    )
