"""Assignment, intervals, sample ratio, power, verdicts, the ledger: by hand and against scipy."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

import duckdb
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from operations.experiments import records
from operations.experiments.assignment import (
    arm_of,
    arms_of,
    control_from,
    number_of,
    numbers_in_sql,
    numbers_of,
)
from operations.experiments.intervals import Effect, Moments, effect, fieller, shared, width
from operations.experiments.power import Weeks, members_needed, narrowest_at, plan
from operations.experiments.sample_ratio import likeness, sample_ratio
from operations.experiments.verdict import Guardrail, Verdict, decide
from operations.ledger import Ledger
from tests.worlds.events import INTEGERS, STRINGS, configure
from transformations.config import ROOT
from transformations.errors import InputError

SHARES = st.floats(0.01, 0.99)


def test_the_vectors_of_the_page_are_those_of_the_assignment() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(.*?)` \| (0\.\d+) \| (\w+) \|$", page, re.M)
    assert len(rows) >= 6
    for salt, name, unit, number, arm in rows:
        got = number_of(salt, name, unit)
        assert f"{got:.15f}" == number
        assert (arm_of(got, 0.1) or "neither") == arm


@pytest.mark.parametrize("units", [INTEGERS, STRINGS], ids=["int64", "string"])
def test_one_unit_an_array_and_sql_give_the_same_number(units: list[int | str]) -> None:
    expected = [number_of("4c1d", "ranker", unit) for unit in units]
    kind = np.int64 if isinstance(units[0], int) else None
    assert numbers_of("4c1d", "ranker", np.array(units, kind)).tolist() == expected
    with duckdb.connect() as con:
        numbers_in_sql(con)
        query = "select experiment_number('4c1d', 'ranker', unnest($units))"
        assert [row[0] for row in con.execute(query, {"units": units}).fetchall()] == expected


def test_floats_have_no_number() -> None:
    with pytest.raises(TypeError, match="integers or texts"):
        numbers_of("4c1d", "ranker", [1.0])
    assert numbers_of("4c1d", "ranker", []).tolist() == []


def test_numbers_are_uniform_and_experiments_independent() -> None:
    units = np.arange(20_000)
    first, second = (numbers_of("4c1d", name, units) for name in ("ranker", "layout"))
    assert stats.kstest(first, "uniform").pvalue > 0.001
    table = np.histogram2d(first, second, bins=4, range=[[0, 1], [0, 1]])[0]
    assert stats.chi2_contingency(table).pvalue > 0.001


@given(st.floats(0, 1, exclude_max=True), SHARES, SHARES)
def test_a_larger_share_moves_nobody_who_is_in(number: float, one: float, other: float) -> None:
    small, large = sorted((one, other))
    before, after = arm_of(number, small), arm_of(number, large)
    if before == "treatment" or (before == "control" and large <= 0.5):
        assert after == before
    assert (number < large) == (after == "treatment")
    assert (number >= control_from(large)) == (after == "control")


def test_a_unit_may_be_in_several_experiments_or_in_none() -> None:
    assert arms_of([], 42) is None
    assert arms_of([("ranker", "1", 0.01)], 42) is None
    assert arms_of([("ranker", "1", 0.5), ("layout", "2", 0.5)], 42) == (
        "ranker:control layout:treatment"
    )


def test_moments_are_those_of_the_linearized_members() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.poisson(5, 4_000) + 1
    amounts = rng.binomial(sizes, rng.beta(2, 8, 4_000))
    made = Moments.of(amounts, sizes)
    rate = amounts.sum() / sizes.sum()
    linear = (amounts - rate * sizes) / sizes.mean()
    assert made.rate == pytest.approx(rate)
    assert made.variance == pytest.approx(linear.var(ddof=1) / 4_000)
    # Members that differ: as if impressions were independent, the error would be too small.
    assert made.variance > 1.3 * rate * (1 - rate) / sizes.sum()


def test_the_fixed_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(2)
    control, treated = rng.normal(5, 2, 3_000), rng.normal(5.2, 2, 3_000)
    found = effect(Moments.of(control), Moments.of(treated), planned=6_000)
    test = stats.ttest_ind(treated, control, equal_var=False)
    low, high = found.fixed()
    oracle = test.confidence_interval(0.95)
    # Of the lift, so divided by the control's mean, whose own error is small here.
    assert low * control.mean() == pytest.approx(oracle.low, rel=0.05)
    assert high * control.mean() == pytest.approx(oracle.high, rel=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < low < high < found.high


def test_the_sequence_is_the_papers_and_narrowest_where_it_was_planned() -> None:
    alpha, members, planned = 0.05, 3_000, 10_000
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned
    papers = math.sqrt(
        2 * (members * rho2 + 1) / (members**2 * rho2)
        * math.log(math.sqrt(members * rho2 + 1) / alpha)
    )  # fmt: skip
    assert width(members, planned) / math.sqrt(members) == pytest.approx(papers)
    assert width(planned, planned) < min(
        width(planned // 20, planned), width(20 * planned, planned)
    )


def test_too_few_members_say_nothing() -> None:
    few, many = Moments.of([1] * 30), Moments.of([1, 0] * 200)
    assert not effect(few, many, 100).is_known
    rare = Moments.of([1] * 15 + [0] * 385)
    assert not effect(rare, rare, 100).is_known
    assert not effect(Moments.of([]), Moments.of([]), 100).is_known
    assert effect(many, many, 100).is_known


VARIANCES = st.floats(0.01, 100)


@given(st.floats(-100, 100), st.floats(-100, 100), VARIANCES, VARIANCES, st.floats(1, 5))
def test_an_interval_holds_the_lifts_that_nothing_contradicts(
    control: float, treatment: float, of_control: float, of_treatment: float, wide: float
) -> None:
    assume(abs(control) > 0.01)
    ends = fieller(control, treatment, of_control, of_treatment, wide)
    sign = math.copysign(1, control)

    def far(lift: float) -> float:  # in standard errors
        error = math.sqrt(of_treatment + (1 + sign * lift) ** 2 * of_control)
        return abs(treatment - control - lift * abs(control)) / error

    is_sure = control**2 > wide**2 * of_control
    if ends is None:
        assert not is_sure
        return
    low, high = ends
    assert far(low) == pytest.approx(wide, rel=1e-3, abs=1e-3)
    assert is_sure == math.isfinite(high)
    if is_sure:
        assert far(high) == pytest.approx(wide, rel=1e-3, abs=1e-3)
        assert far((low + high) / 2) <= wide * (1 + 1e-6)
        assert far(high + 1 + abs(high)) >= wide * (1 - 1e-6)
        assert far(low - 1 - abs(low)) >= wide * (1 - 1e-6)
    else:
        assert far(low + 1) <= wide * (1 + 1e-6)


def test_what_nobody_does_in_one_arm_is_harm_and_not_too_little_to_say() -> None:
    none, some = Moments.of([0] * 400), Moments.of([1] * 60 + [0] * 340)
    fallen, risen = effect(some, none, 800), effect(none, some, 800)
    assert fallen.lift == -1
    assert fallen.high is not None
    assert -1 < fallen.high < 0
    assert decide("APPLY", fallen, [], 0.05, days=3, weeks=2).kind == "stop for harm"
    assert risen.lift == math.inf
    bound = Guardrail("DISMISS", 0.1, is_upper=True)
    verdict = decide("APPLY", Effect(1, 1), [(bound, risen)], 0.05, days=3, weeks=2)
    assert verdict.kind == "stop for harm"
    assert "nan" not in verdict.why
    assert "inf" not in verdict.why


def test_rare_amounts_do_not_end_an_experiment_falsely() -> None:
    ended = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        days = rng.binomial(1, 0.002, (2, 14, 1_000)).cumsum(1)  # two arms of 1,000 members
        looks = [effect(*map(Moments.of, days[:, day]), planned=2_000) for day in range(14)]
        ended += any(
            found.low is not None and found.high is not None and not found.low <= 0 <= found.high
            for found in looks
        )
    assert ended <= 0.05 * 400


def test_the_error_is_shared_and_never_more() -> None:
    for guardrails in range(4):
        primary, each = shared(0.05, guardrails)
        assert primary + guardrails * each == pytest.approx(0.05)


@pytest.mark.parametrize(("control", "treatment", "share"), [(510, 490, 0.5), (90, 900, 0.9)])
def test_the_sample_ratio_is_scipys(control: int, treatment: int, share: float) -> None:
    both = control + treatment
    part = share / (share + min(share, 1 - share))
    oracle = stats.chisquare([control, treatment], [both * (1 - part), both * part])
    assert sample_ratio(control, treatment, share) == pytest.approx(oracle.pvalue)


def test_arms_of_equal_size_are_expected_of_a_small_share() -> None:
    assert sample_ratio(1_000, 1_010, 0.1) > 0.5
    assert sample_ratio(9_000, 1_000, 0.1) < 1e-9
    assert sample_ratio(0, 0, 0.5) == 1.0


def test_likeness_is_scipys_and_rare_values_count_together() -> None:
    counts = {"home": (400, 380), "mail": (90, 140), "app": (3, 2), "watch": (2, 4)}
    table = [[400, 380], [90, 140], [5, 6]]
    oracle = stats.chi2_contingency(table, correction=False).pvalue
    assert likeness(counts) == pytest.approx(oracle)
    assert likeness({"home": (400, 380)}) == likeness({}) == 1.0


def test_the_power_of_one_look_is_the_textbooks() -> None:
    """Members that `members_needed` asks for give that power, by the normal distribution."""
    rate, lift = 0.1, 0.05
    members = members_needed(rate, rate * (1 - rate), lift, 0.5, power=0.8, always=False)
    error = math.sqrt(rate * (1 - rate) * 4 / members) * (1 + lift)
    normal = NormalDist()
    power = normal.cdf(rate * lift / error - normal.inv_cdf(0.975))
    assert power == pytest.approx(0.8, abs=1e-4)
    assert members_needed(rate, 0.09, lift, 0.1, always=False) == members
    assert members_needed(rate, 0.09, lift, 0.5) > 1.5 * members


def test_harm_is_seen_in_the_weeks_that_there_are() -> None:
    """Made for the members that a small effect needs, intervals of the first ones tell nothing."""
    rng = np.random.default_rng(4)
    shown, rates = rng.poisson(20, (2, 125)) + 1, (0.045, 0.005)
    arms = [Moments.of(rng.binomial(shown[i], rate), shown[i]) for i, rate in enumerate(rates)]
    weeks = [Weeks(1, 420, arms[0].rate, arms[0].variance * 125)]
    needed = plan(weeks, 0.05, 0.3).members
    assert needed > 10_000
    at = narrowest_at(weeks, 0.05, 0.3, weeks=2)
    assert at == 252
    for planned, kind in ((needed, "go on"), (at, "stop for harm")):
        found = effect(*arms, planned)
        assert decide("APPLY per impression", found, [], 0.05, days=6, weeks=2).kind == kind


def test_a_plan_is_in_whole_weeks() -> None:
    steady = [Weeks(week, 5_000 * week, 0.2, 0.16) for week in range(1, 5)]
    needed = members_needed(0.2, 0.16, 0.2, 0.5)
    assert plan(steady, 0.2, 0.5).members == needed
    assert plan(steady, 0.2, 0.5).weeks == math.ceil(needed / 5_000)
    # The same members every week: no time brings more of them.
    assert plan([Weeks(week, 500, 0.2, 0.16) for week in (1, 2)], 0.1, 0.5).weeks is None
    assert plan([Weeks(1, 500, 0.0, 0.0)], 0.1, 0.5).weeks is None


DISMISS = Guardrail("negative per impression", 0.1, is_upper=True)
SURE = Effect(0.1, 0.11, 0.1, 0.04, 0.16, 0.02)


def lift(low: float, high: float) -> Effect:
    return Effect(0.1, 0.1 * (1 + (low + high) / 2), (low + high) / 2, low, high, (high - low) / 6)


@pytest.mark.parametrize(
    ("primary", "guardrail", "days", "kind", "why"),
    [
        (SURE, lift(-0.1, 0.1), 14.0, "ship", "APPLY is better by 10.0% (at least 4.0%)."),
        (SURE, lift(-0.1, 0.1), 13.9, "go on", "2 whole weeks are not over yet (day 13)"),
        (SURE, lift(0.11, 0.3), 1.0, "stop for harm", "negative per impression changed by +20.5%"),
        (SURE, lift(0.05, 0.3), 14.0, "go on", "may be beyond what is allowed"),
        (SURE, lift(-0.3, 0.6), 14.0, "ship", "better by 10.0%"),  # it may as well be nothing
        (lift(-0.2, -0.01), lift(-0.1, 0.1), 2.0, "stop for harm", "APPLY is worse by 10.5%"),
        (lift(-0.02, 0.03), lift(-0.1, 0.1), 21.0, "no difference worth the cost", "at most 3.0%"),
        (lift(-0.02, 0.03), lift(-0.1, 0.1), 3.0, "go on", "2 whole weeks are not over"),
        (lift(-0.1, 0.1), lift(-0.1, 0.1), 21.0, "go on", "may still be worth the cost"),
        (Effect(0.1, 0.1), Effect(0.0, 0.0), 21.0, "go on", "too few members"),
    ],
)
def test_a_verdict_and_its_reason(
    primary: Effect, guardrail: Effect, days: float, kind: str, why: str
) -> None:
    made = decide("APPLY", primary, [(DISMISS, guardrail)], 0.05, days, 2)
    assert made.kind == kind
    assert why in made.why
    assert made.ends == (kind != "go on")


def test_less_of_a_bad_thing_is_better() -> None:
    better = decide("DISMISS", lift(-0.2, -0.1), [], 0.05, 14, 2, wants=-1)
    assert (better.kind, better.why) == ("ship", "DISMISS is better by 15.0% (at least 10.0%).")
    assert decide("DISMISS", lift(0.1, 0.2), [], 0.05, 14, 2, wants=-1).kind == "stop for harm"


def test_a_fault_voids_whatever_the_numbers_say() -> None:
    assert decide("APPLY", SURE, [], 0.05, 14, 2, faults=["Broken."]) == Verdict("void", "Broken.")


def test_a_guardrail_is_read_as_it_is_written() -> None:
    for text in ("negative per impression <= +10%", "SAVE >= -5%"):
        assert str(Guardrail.read(text)) == text
    with pytest.raises(InputError, match="expected a guardrail such as"):
        Guardrail.read("SAVE > 5")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(configure(tmp_path))


def begin(ledger: Ledger, name: str = "ranker", share: float = 0.1) -> records.Experiment:
    return records.start(ledger, name, "APPLY per member", share, 0.05, [DISMISS])


def test_the_ledger_keeps_an_experiment(ledger: Ledger) -> None:
    one = begin(ledger)
    assert records.experiment(ledger, "ranker") == one
    assert one.is_running
    assert one.assignment == ("ranker", one.salt, 0.1)
    assert begin(ledger, "layout").salt != one.salt
    assert records.grow(ledger, "ranker", 0.5).share == 0.5
    ended = records.stop(ledger, "ranker", Verdict("ship", "It is better."), "all have it")
    assert not ended.is_running
    assert (ended.verdict, ended.why) == ("ship: It is better.", "all have it")
    assert {made.name for made in records.experiments(ledger)} == {"ranker", "layout"}


def test_what_the_ledger_refuses(ledger: Ledger) -> None:
    begin(ledger)
    with pytest.raises(InputError, match="there is an experiment ranker already"):
        begin(ledger)
    with pytest.raises(InputError, match="expected a name of a-z"):
        begin(ledger, "a:b")
    with pytest.raises(InputError, match="expected a share above 0 and below 1"):
        begin(ledger, "other", 1.0)
    with pytest.raises(InputError, match="take members out of their arm"):
        records.grow(ledger, "ranker", 0.05)
    with pytest.raises(InputError, match="members of the control would change the arm"):
        records.grow(ledger, "ranker", 0.6)
    with pytest.raises(InputError, match="expected the reason"):
        records.stop(ledger, "ranker", None, " ")
    with pytest.raises(InputError, match=r"name of an experiment \(ranker\), got 'nothing'"):
        records.experiment(ledger, "nothing")
    records.stop(ledger, "ranker", None, "enough")
    with pytest.raises(InputError, match=r"ended on .*: enough"):
        records.grow(ledger, "ranker", 0.5)


def test_one_that_runs_elsewhere_brings_its_salt_and_start(ledger: Ledger) -> None:
    began = datetime(2026, 3, 1, tzinfo=UTC)
    made = records.start(ledger, "theirs", "APPLY", 0.5, 0.05, at=began, salt="4c1d")
    assert records.experiment(ledger, "theirs") == made
    assert (made.started_at, made.salt) == (began, "4c1d")
    with pytest.raises(InputError, match="salt without /"):
        records.start(ledger, "other", "APPLY", 0.5, 0.05, salt="a/b")
