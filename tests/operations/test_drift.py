"""What stops, what is accepted, and what is normal again: on numbers by hand."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operations.alert_failures import failing, note_tried
from operations.drift import (
    DRIFT,
    accept,
    counts,
    findings,
    history,
    note,
    note_alerted,
    noted_before,
    pauses_fitting,
    standing,
)
from operations.drift_rule import FEWEST, Finding, Measured, expected, judge
from operations.ledger import Ledger
from tests.worlds.events import configure
from transformations.errors import InputError

AS_OF = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def rows(count: float, measure: str = "rows") -> Measured:
    return Measured("activity", measure, "", "count", count, int(count))


def share(value: float, n_rows: int = 10_000, measure: str = "action") -> Measured:
    return Measured("activity", measure, "APPLY", "share", value, n_rows)


def steady(value: float, days: int = 28) -> dict[int, float]:
    """The same value on each of the days before, give or take two in a hundred."""
    return {back: value * (1 + 0.02 * (-1) ** (back // 7)) for back in range(1, days + 1)}


@pytest.mark.parametrize(
    ("newest", "usual", "verdict"),
    [
        (rows(1_000), 1_000, "ok"),
        (rows(1_200), 1_000, "ok"),
        (rows(650), 1_000, "warning"),
        (rows(0), 1_000, "stop"),
        (rows(2_000), 1_000, "stop"),
        (rows(300, "busiest member"), 20, "stop"),
        (rows(1, "busiest member"), 20, "ok"),  # less is no fault
        (share(0.45), 0.45, "ok"),
        (share(0.55), 0.45, "warning"),
        (share(0.0), 0.05, "stop"),  # it is not there any more
        (share(0.95), 0.45, "stop"),
        (share(0.0, n_rows=6), 0.45, "ok"),  # of six rows chance makes anything
        (share(1.0, measure="duplicates"), 0.01, "warning"),  # nothing came in twice
        (Measured("activity", "stability", "dwell", "distance", 0.3, 9_000), 0.01, "stop"),
        (Measured("activity", "stability", "dwell", "distance", 0.15, 9_000), 0.01, "warning"),
        (Measured("activity", "clock", "", "hours", 1.0, 9_000, 0.05), 0.0, "stop"),
        (Measured("activity", "clock", "", "hours", -1.0, 9_000, 0.05), 0.0, "stop"),
        (Measured("activity", "clock", "", "hours", 1.0, 9_000, 9.0), 0.0, "ok"),  # no such hour
        (Measured("vectors", "norm", "v", "size", 0.4, 9_000), 1.0, "stop"),
        (Measured("vectors", "kept neighbours", "v", "share", 0.5, 5_000), 0.8, "stop"),
        (Measured("vectors", "kept neighbours", "v", "share", 1.0, 5_000), 0.8, "ok"),
        (Measured("vectors", "told apart", "v", "share", 0.9, 4_000, 0.03), 0.5, "stop"),
        (Measured("vectors", "told apart", "v", "share", 0.2, 4_000, 0.03), 0.5, "ok"),
        (Measured("rankers", "calibration", "r", "effect", -0.3, 4_000, 0.01), 0.0, "stop"),
    ],
    ids=str,
)
def test_a_day_beside_those_before(newest: Measured, usual: float, verdict: str) -> None:
    assert judge(newest, steady(usual), rows_before=1_000).verdict == verdict


def test_too_few_days_or_rows_stop_nothing() -> None:
    few = dict.fromkeys(range(1, FEWEST), 1_000.0)
    assert judge(rows(0), few).verdict == "unknown"
    assert judge(rows(0), few | {FEWEST: 1_000.0}, rows_before=1_000).verdict == "stop"
    assert judge(rows(0), steady(90), rows_before=90).verdict == "warning"
    assert judge(rows(0), steady(1_000), only_warn=["rows"], rows_before=1_000).verdict == "warning"


def test_a_weekday_is_compared_with_its_like() -> None:
    """300 on each seventh day, else 1,000: what is usual on a Sunday stops a Monday."""
    sundays = {back: 300.0 if back % 7 == 0 else 1_000.0 for back in range(1, 29)}
    mondays = {back: 300.0 if back % 7 == 1 else 1_000.0 for back in range(1, 29)}
    assert judge(rows(300), sundays, rows_before=1_000).verdict == "ok"
    assert judge(rows(300), mondays, rows_before=1_000).verdict == "stop"
    two = {back: value for back, value in sundays.items() if back <= 14}
    assert judge(rows(300), two, rows_before=1_000).verdict == "stop"  # two are no rule


def test_what_is_expected_by_hand() -> None:
    center, spread = expected({1: 10.0, 2: 12.0, 3: 11.0})
    assert center == 11
    assert spread == pytest.approx(1.4826 * 1 * math.sqrt(1 + math.pi / 6))


@given(
    st.dictionaries(
        st.integers(1, 60), st.floats(0, 1e9, allow_nan=False), min_size=FEWEST, max_size=40
    ),
    st.floats(0, 1e9, allow_nan=False),
    st.sampled_from(["count", "distance", "size"]),
)
def test_bounds_hold_each_other(before: dict[int, float], value: float, kind: str) -> None:
    """What is expected lies within the warning's bounds, these within the stop's."""
    found = judge(Measured("a", "rows", "", kind, value, 1_000), before)
    assert found.baseline is not None
    ends = [
        (found.stop[0], found.warn[0]),
        (found.warn[0], found.baseline),
        (found.baseline, found.warn[1]),
        (found.warn[1], found.stop[1]),
    ]
    for low, high in ends:
        assert low is None or high is None or low <= high * (1 + 1e-9) + 1e-9
    beyond = any(
        bound is not None and (value < bound if side == 0 else value > bound)
        for side, bound in enumerate(found.stop)
    )
    assert (found.verdict == "stop") == beyond


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(configure(tmp_path))
    run = ledger.start("run", AS_OF - 9 * DAY)
    ledger.published(run, AS_OF - 9 * DAY)
    return ledger


def noted(ledger: Ledger, as_of: datetime, *values: float) -> list[Finding]:
    names = ("rows", "members")
    found = [
        judge(rows(value, name), steady(1_000), rows_before=1_000)
        for name, value in zip(names, values, strict=False)
    ]
    return note(ledger, as_of, "activity", found)


def test_a_stop_stands_until_the_newest_is_normal(ledger: Ledger) -> None:
    noted(ledger, AS_OF, 0, 1_000)
    assert [str(one) for one in standing(ledger)] == ["rows"]
    assert pauses_fitting(ledger, AS_OF)
    noted(ledger, AS_OF + DAY, 1_000, 1_000)
    assert standing(ledger) == []
    assert not pauses_fitting(ledger, AS_OF + DAY)
    assert [one.verdict for one in findings(ledger, AS_OF)] == ["stop", "ok"]


def test_a_day_measured_again_replaces_its_rows(ledger: Ledger) -> None:
    noted(ledger, AS_OF, 0, 0)
    noted(ledger, AS_OF, 1_000)
    assert [(str(one), one.value) for one in findings(ledger)] == [("rows", 1_000)]
    note(ledger, AS_OF, "vectors", [judge(Measured("vectors", "norm", "v", "size", 1, 9), {})])
    assert len(findings(ledger)) == 2
    with ledger.engine.connect() as connection:
        assert len(connection.execute(DRIFT.select()).all()) == 2


def test_nothing_pauses_before_something_serves(tmp_path: Path) -> None:
    ledger = Ledger(configure(tmp_path))
    noted(ledger, AS_OF, 0)
    assert standing(ledger)
    assert not pauses_fitting(ledger, AS_OF)


def test_what_is_accepted_stays_so_until_it_is_normal(ledger: Ledger) -> None:
    noted(ledger, AS_OF, 2_000, 1_000)
    assert [str(one) for one in accept(ledger, "a campaign")] == ["rows"]
    assert standing(ledger) == []
    assert noted(ledger, AS_OF, 2_000, 1_000)[0].accepted == "a campaign"  # measured again
    assert noted(ledger, AS_OF + DAY, 2_100, 1_000)[0].accepted == "a campaign"
    assert standing(ledger) == []
    noted(ledger, AS_OF + 2 * DAY, 1_000, 1_000)
    noted(ledger, AS_OF + 3 * DAY, 2_000, 1_000)
    assert [str(one) for one in standing(ledger)] == ["rows"]


@pytest.mark.parametrize("then", [0, 8_000])
def test_an_acceptance_covers_no_other_fault(ledger: Ledger, then: float) -> None:
    noted(ledger, AS_OF, 2_000, 1_000)
    accept(ledger, "a campaign")
    noted(ledger, AS_OF + DAY, then, 1_000)
    assert [str(one) for one in standing(ledger)] == ["rows"]


def test_an_acceptance_is_of_one_measure(ledger: Ledger) -> None:
    noted(ledger, AS_OF, 2_000, 1_000)
    accept(ledger, "a campaign")
    noted(ledger, AS_OF + DAY, 2_000, 2_000)
    assert [str(one) for one in standing(ledger)] == ["members"]


def test_what_cannot_be_accepted(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="no stop stands"):
        accept(ledger, "why not")
    noted(ledger, AS_OF, 0)
    with pytest.raises(InputError, match="expected the reason"):
        accept(ledger, " ")


def test_a_stop_is_alerted_once(ledger: Ledger) -> None:
    (found,) = noted(ledger, AS_OF, 0)
    assert found.alerted_at is None
    note_alerted(ledger, [found])
    assert noted(ledger, AS_OF, 0)[0].alerted_at is not None
    assert noted(ledger, AS_OF + DAY, 0)[0].alerted_at is not None
    noted(ledger, AS_OF + 2 * DAY, 1_000)
    assert noted(ledger, AS_OF + 3 * DAY, 0)[0].alerted_at is None


def test_what_the_ledger_knows_of_days_before(ledger: Ledger) -> None:
    for back in (1, 2, 30):
        noted(ledger, AS_OF - back * DAY, 100 * back)
    noted(ledger, AS_OF, 5)
    assert noted_before(ledger, AS_OF, 28) == {("activity", "rows", ""): {1: 100, 2: 200}}


def test_what_is_counted_and_what_was(ledger: Ledger) -> None:
    noted(ledger, AS_OF - 9 * DAY, 1)
    noted(ledger, AS_OF - DAY, 1_000)
    noted(ledger, AS_OF, 0, 650)
    assert counts(findings(ledger)) == {"stops": 1, "accepted": 0, "warnings": 1}
    accept(ledger, "why")
    assert counts(findings(ledger)) == {"stops": 0, "accepted": 1, "warnings": 1}
    got = [(one.as_of, str(one), one.value) for one in history(ledger, 5)]
    assert got == [
        (AS_OF - DAY, "rows", 1_000),
        (AS_OF, "members", 650),
        (AS_OF, "rows", 0),
    ]


def test_an_alert_that_fails_is_said_once_a_day_and_when_it_works(ledger: Ledger) -> None:
    def tried(why: str | None, hours: float) -> list[str]:
        return note_tried(ledger, {"webhook": why}, AS_OF + timedelta(hours=hours))

    assert tried(None, 0) == []
    assert tried("refused", 1) == ["alerts.webhook: refused"]
    assert failing(ledger) == {"webhook"}
    assert tried("refused", 2) == []
    assert tried("refused", 26) == ["alerts.webhook, since 2026-03-10 01:00 UTC: refused"]
    assert tried("refused", 49) == []
    assert tried(None, 50) == ["alerts.webhook works again; it failed since 2026-03-10 01:00 UTC"]
    assert (failing(ledger), tried(None, 51)) == (set(), [])
