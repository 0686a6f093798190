"""The page of `activity check`: what its plots count, and how it looks in a browser."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from typer.testing import CliRunner

from pipelines.check.find import find
from pipelines.check.page import write_check
from pipelines.check.shapes import AGES, PAUSES, shapes_of
from pipelines.cli import check as cli
from tests.pipelines.test_check import DAY, NOON, NOW, ROWS, but, configure, good
from tests.worlds.browser import Browser, running_browser
from tests.worlds.events import AS_OF, Event, event_logs, write_activity
from tests.worlds.events import configure as by_hand
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition_files
from transformations.tables import activity_query

LONG = "x" * 200
SECTIONS = ["poor", "rows", "activity", "windows", "times"]


def test_the_shapes_of_a_tiny_source(tmp_path: Path) -> None:
    """ROWS: five days of member 1, two actions on the last of them; one old action of member 2."""
    shapes = find(configure(tmp_path), NOW, with_shapes=True).shapes
    assert shapes is not None
    assert (shapes.unit, len(shapes.starts)) == ("day", 6)
    assert shapes.starts[0] == (NOON - 100 * DAY).replace(hour=0)
    assert shapes.over_time == {
        "APPLY": [0, 1, 1, 1, 1, 1],
        "SAVE": [1, 0, 0, 0, 0, 0],
        "DISMISS": [0, 0, 0, 0, 0, 1],
    }
    assert shapes.per_member == {"1": 1, "2 to 3": 0, "4 to 7": 1}
    assert {name: n for name, n in shapes.ages.items() if n} == {
        "under 1 day": 1,
        "90 days to 1 year": 1,
    }
    assert {name: n for name, n in shapes.pauses.items() if n} == {
        "at the same time": 1,
        "1 to 7 days": 4,
    }


@pytest.mark.parametrize(
    ("days", "unit"), [(0, "day"), (240, "day"), (241, "week"), (6_700, "month"), (9_000, "year")]
)
def test_a_long_time_has_wide_bins(tmp_path: Path, days: int, unit: str) -> None:
    rows = [(1, 10, "APPLY", NOON - days * DAY), (2, 10, "APPLY", NOON)]
    shapes = find(configure(tmp_path, rows), NOW, with_shapes=True).shapes
    assert shapes is not None
    assert shapes.unit == unit


@settings(max_examples=40, deadline=None)
@given(events=event_logs("int64", [AS_OF], 3 * DAY))
def test_shapes_equal_brute_force(events: list[Event]) -> None:
    rows = {(one.member_id, one.item_id, one.action, one.event_timestamp) for one in events}
    of_member: dict[object, list] = {}
    for member, _, _, at in rows:
        of_member.setdefault(member, []).append(at)
    last = max((at for *_, at in rows), default=AS_OF)
    last_as_of = last.replace(hour=0, minute=0, second=0, microsecond=0) + DAY

    def named(bins: tuple[tuple[timedelta, str], ...], length: timedelta) -> str:
        return next(name for end, name in bins if length < end)

    ages = Counter(named(AGES, last_as_of - max(times)) for times in of_member.values())
    pauses = Counter(
        named(PAUSES, after - before)
        for times in of_member.values()
        for before, after in pairwise(sorted(times))
    )
    with TemporaryDirectory() as folder:
        config = by_hand(Path(folder))
        write_activity(config, events)
        with connect(config) as con:
            files = partition_files(config.layout.activity)
            con.execute(f"create temp view activity as {activity_query(config, con, files)}")
            got = shapes_of(con, but(good(), last_as_of=last_as_of).activity)
    assert {name: n for name, n in got.ages.items() if n} == dict(ages)
    assert {name: n for name, n in got.pauses.items() if n} == dict(pauses)
    assert sum(map(sum, got.over_time.values())) == len(rows)
    powers = Counter(len(times).bit_length() - 1 for times in of_member.values())
    assert {power: n for power, n in enumerate(got.per_member.values()) if n} == dict(powers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of data with refused rows, whose values are markup, and long."""
    folder = tmp_path_factory.mktemp("check")
    refused = [(1, 10, "<script>window.hacked = 1</script>", NOON), (1, 10, LONG, NOON)]
    found = find(configure(folder, [*ROWS, *refused]), NOW, with_shapes=True)
    write_check(found, f"<img src=x>{LONG}", NOW, folder / "check.html")
    return folder / "check.html"


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_screen_and_asks_for_nothing(browser: Browser, page: Path, width: int) -> None:
    tab = browser.page()
    tab.open(page, width)
    assert (tab.complaints, tab.requests) == ([], [page.as_uri()])
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ids = "[...document.querySelectorAll('main section')].map(e => e.id)"
    assert tab.evaluate(ids) == SECTIONS
    assert tab.evaluate("document.querySelectorAll('img, script').length") == 0
    boxes = tab.evaluate(
        "[...document.querySelectorAll('svg.plot')].map(e => {"
        "const box = e.getBoundingClientRect(); return [box.width, box.height]})"
    )
    assert len(boxes) == 5
    assert min(min(box) for box in boxes) > 80


def test_it_says_what_the_command_says(browser: Browser, page: Path) -> None:
    tab = browser.page()
    tab.open(page, 1280)
    shown = tab.evaluate("document.body.innerText")
    for text in (
        "22% of the events are refused, more than the 5.0%",
        "events: action is unknown: 2 rows, such as",
        "first and last event",
        "28d",
        "Actions per day",
    ):
        assert text in shown


def test_no_event_at_all(browser: Browser, tmp_path: Path) -> None:
    rows = [(f"m{row[0]}", *row[1:]) for row in ROWS]
    found = find(configure(tmp_path, rows), NOW, with_shapes=True)
    write_check(found, "words as ids", NOW, tmp_path / "check.html")
    tab = browser.page()
    tab.open(tmp_path / "check.html", 1280)
    shown = tab.evaluate("document.body.innerText")
    assert shown.count("No event can be used.") == 3
    assert "none of the 7 events can be used" in shown
    assert "member_id_type: string" in shown


def test_the_command_writes_this_page_and_nothing_else(tmp_path: Path) -> None:
    config = configure(tmp_path)
    file = tmp_path / "activity.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\nevents: {{source: {config.events.source}}}\n"
        f"items: {{source: {config.items.source}, text: [title]}}\n"
    )
    before = {*tmp_path.rglob("*")}
    page = tmp_path / "out" / "check.html"
    done = CliRunner(env={**os.environ, "ACTIVITY_CONFIG": ""}).invoke(
        cli.app, ["--config", str(file), "--html", str(page)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert {*tmp_path.rglob("*")} - before == {page.parent, page}


@pytest.mark.parametrize("name", ["check.txt", "folder.html"])
def test_a_file_that_is_no_page_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "activity.yaml").write_text("items: {text: [title]}\n")
    arguments = ["--config", str(tmp_path / "activity.yaml"), "--html", str(tmp_path / name)]
    with pytest.raises(InputError, match=r"--html: expected a file whose name ends in \.html"):
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
