"""The page of drift: what it plots, and how it looks in a browser."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from operations.drift_rule import Finding, Measured, judge
from pipelines.report.drift import over_days, value_of, write_drift
from pipelines.report.words import DASH, MINUS
from tests.worlds.browser import running_browser
from tests.worlds.events import AS_OF

DAY = timedelta(days=1)


def days_of(measure: Measured, values: Sequence[float]) -> list[Finding]:
    """Judge a measure on each day, the last one AS_OF; a stop before that was accepted."""
    found = []
    for number, value in enumerate(values):
        before = {number - back: values[back] for back in range(number)}
        judged = judge(replace(measure, value=value), before)
        is_old = number + 1 < len(values) and judged.verdict == "stop"
        at = AS_OF - (len(values) - 1 - number) * DAY
        found.append(replace(judged, as_of=at, accepted="<a test>" if is_old else None))
    return found


ROWS = Measured("activity", "rows", "", "count", 0, 1_000)
ACTION = Measured("activity", "action", "APPLY & <b>", "share", 0, 1_000)
USUAL = [1_000.0, 1_010.0] * 6


def test_a_plot_marks_what_is_beyond_a_bound() -> None:
    days = days_of(ROWS, [*USUAL, 5_000.0, 1_000.0, 0.0])
    assert [one.verdict for one in days[-3:]] == ["stop", "ok", "stop"]
    drawn = ET.fromstring(over_days(days))
    circles = drawn.findall("circle")
    assert len(circles) == len(days)
    assert [one.get("fill") for one in circles[-3:]] == [
        f"var(--{c})" for c in ("card", "accent", "bad")
    ]
    said = circles[-3].findtext("title")
    assert said == "2026-03-08: 5,000, expected 1,005, accepted: <a test>"
    lines = drawn.findall("polyline")
    assert sum(line.get("stroke-dasharray") is not None for line in lines) == 2
    assert drawn.find("polygon") is not None
    assert [text.text for text in drawn.findall("text")][2:] == ["Feb 24", "Mar 10"]


@pytest.mark.parametrize("values", [[0.0], [0.5, 0.5]])
def test_a_plot_of_few_days(values: list[float]) -> None:
    drawn = ET.fromstring(over_days(days_of(ACTION, values)))
    assert len(drawn.findall("circle")) == len(values)
    assert drawn.find("polygon") is None


def test_values_are_written_as_people_read_them() -> None:
    (one,) = days_of(ROWS, [1.0])
    written = [value_of(one, value) for value in (None, 12_345.6, 0.01234, -0.5)]
    assert written == [DASH, "12,346", "0.0123", f"{MINUS}0.5"]


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Nothing is wider than the window, nothing complains, nothing is asked for."""
    days = days_of(ROWS, [*USUAL, 5_000.0, 1_000.0, 0.0])
    days += days_of(ACTION, [0.2] * 15)
    days += days_of(replace(ROWS, about="items", measure="known items"), [*USUAL] + [900.0] * 3)
    days.sort(key=lambda one: (one.as_of, one.key))
    found = sorted(
        (one for one in days if one.as_of == AS_OF), key=lambda one: one.verdict != "stop"
    )
    file = tmp_path / "drift.html"
    write_drift(found, days, "jobs <b>", file)
    text = file.read_text()
    assert "Fitting is paused" in text
    assert "jobs &lt;b&gt;: drift" in text
    with running_browser(tmp_path) as browser:
        for width in (1280, 390):
            tab = browser.page()
            tab.open(file, width)
            assert (tab.complaints, tab.requests) == ([], [file.as_uri()])
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate("document.querySelectorAll('svg.plot').length") == 3
            first = tab.evaluate("document.querySelector('figcaption').textContent")
            assert first.strip() == "rows"
