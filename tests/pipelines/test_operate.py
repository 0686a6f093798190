"""`activity demo operate`, in a reduced form: what is planted is found, and told on a page."""

import math
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest

from operations.experiments.records import Experiment
from operations.releases import Release
from pipelines.operate.play import Play
from pipelines.operate.record import Compared, Estimate, Move, OfDay, Record, Stopped, Told
from pipelines.report.operate import write_operate
from pipelines.terminal import Terminal
from tests.worlds.browser import running_browser

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    """A week of two days each: a fault of a source, and a release that learned the opposite."""
    said = StringIO()
    console = Terminal(file=said, width=200)
    play = Play(tmp_path / "market", 300, 120, 5, START, console, week=2, weeks=(3, 5))
    record = play.run()
    told = [one.text for one in record.told]
    assert told[:3] == [
        "a change of the tracking records applications as saves, two days",
        "release 1 is made, its ranker decayed_v1",
        "release 1 serves all",
    ]
    assert any("action of APPLY is 0, expected" in text for text in told)
    assert [one.day for one in record.stopped if "action of APPLY" in " ".join(one.said)] == [1, 2]
    assert record.alerts >= 1
    (bad,) = record.notes
    assert any(f"release {bad} is refused: quality: NDCG@10" in text for text in told)
    assert f"somebody forces release {bad} past the gate: 30% of the members" in told
    (shared,) = record.experiments
    assert (shared.treatment, shared.share) == (str(bad), 0.3)
    # What it harms is too little to tell in two days, and true all the same.
    served = {one.release for one in record.of_days}
    assert bad in served
    expected = {
        number: sum(one.n * one.expected for one in record.of_days if one.release == number)
        / sum(one.n for one in record.of_days if one.release == number)
        for number in served
    }
    assert expected[bad] < 0.7 * max(expected.values())
    assert all(text in said.getvalue() for text in ("Week 3", "Week 5"))
    assert "[/]" not in said.getvalue()  # every tag is one that the terminal knows
    assert "NDCG@10" in play.said.getvalue()  # what the runs said is kept apart
    file = tmp_path / "operate.html"
    write_operate(record, file)
    assert f"Release {bad}, quality:" in file.read_text()


def record() -> Record:
    gates = {
        "passed": True,
        "waits": False,
        "why": "",
        "gates": [
            {"gate": "quality", "passed": True, "said": "NDCG@10 <0.2>", "seconds": 3.26},
            {"gate": "future", "passed": None, "said": "nothing", "seconds": 0.5},
        ],
    }
    experiment = Experiment(
        "release_2", "s", 0.5, "APPLY per impression", (), 0.05, 1, 100, START + 2 * DAY,
        control="1", treatment="2",
    )  # fmt: skip
    made = Record(START, 4, 2, 100, 50, 7, seconds=90.0)
    made.releases = [
        Release(1, START, None, None, None, None, None, {("ranker", "decayed", 1, 1)}),
        Release(2, START + DAY, None, gates, None, None, None, {("ranker", "learned", 1, 1)}),
    ]
    made.moves = [Move(0.0, 1, 1.0, False, ""), Move(2.0, 2, 0.5, False, "")]
    made.experiments = [experiment]
    made.stopped = [Stopped(3, ["rows is 0, expected <100>"])]
    made.told = [Told(0, "week", "one"), Told(1, "good", "passes"), Told(2, "week", "two")]
    made.of_days = [
        OfDay(day, release, 20, Estimate.of(0.5, 0.4, 20), expected)
        for day, release, expected in [(0, 1, 0.5), (1, 1, 0.6), (2, 1, math.nan), (2, 2, 0.4)]
    ]
    lift = Estimate(0.02, -0.1, 0.14)
    made.compared = Compared(experiment, "APPLY", "go on: wait", (40, 41), lift, None, lift, 90)
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_needs_nothing_and_says_what_was(tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "operate.html"
    write_operate(record(), file)
    with running_browser(tmp_path) as browser:
        page = browser.page()
        page.open(file, 1280, scheme=scheme)
        assert page.complaints == []
        assert page.requests == [file.as_uri()]
        text = page.evaluate("document.body.innerText")
        assert page.evaluate("document.querySelectorAll('svg').length") == 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for said in (
        "too little is known",
        "+2.0% (\N{MINUS SIGN}10.0% to +14.0%)",
        "go on: wait",
        "3.3 s",
    ):
        assert said in text, said


def test_an_interval_of_a_mean() -> None:
    found = Estimate.of(2.0, 1.0, 100)
    assert (found.value, round(found.low, 3), round(found.high, 3)) == (2.0, 1.804, 2.196)
