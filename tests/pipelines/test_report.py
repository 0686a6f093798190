"""The report's page: rendered from a result, opened in a browser; wrong results are refused."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pipelines.report import write_report
from pipelines.report.result import Interval, read_result
from pipelines.report.words import shown_by, signed, verdict
from tests.worlds.browser import Browser, Page, running_browser
from tests.worlds.report import CATEGORIES, METRICS, interval, realistic_result
from transformations.errors import InputError
from transformations.timestamps import day

SECTIONS = (
    "verdict",
    "comparison",
    "freshness",
    "differences",
    "carriers",
    "cohorts",
    "controls",
    "training",
    "decay",
    "storage",
    "cold-start",
    "distributions",
    "map",
    "members",
    "protocol",
)
OPTIONAL = (
    "promises",
    "freshness",
    "carriers",
    "cohorts",
    "controls",
    "storage",
    "cold_start",
    "decay_grid",
    "training",
    "distributions",
    "map",
    "members",
    "protocol",
)
HOSTILE = "</title></svg></style><script>window.hacked = 1</script><img src=x onerror=hacked=1> $x^"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(realistic_result(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Page:
    opened = browser.page()
    opened.open(report, 1280)
    return opened


def test_it_logs_nothing_and_requests_nothing(page: Page, report: Path) -> None:
    assert page.complaints == []
    assert page.requests == [report.as_uri()]


def test_a_page_with_errors_or_requests_would_be_caught(browser: Browser, tmp_path: Path) -> None:
    """Proves the test above: complaints and requests are recorded."""
    file = tmp_path / "bad.html"
    file.write_text("<img src='absent.png'><script>console.error('no'); nothing.there</script>")
    bad = browser.page()
    bad.open(file, 1280)
    said = " ".join(bad.complaints)
    assert '"no"' in said
    assert "ReferenceError" in said
    assert bad.requests == [file.as_uri(), (tmp_path / "absent.png").as_uri()]


def test_it_links_to_itself_alone(page: Page) -> None:
    links = page.evaluate(
        "[...document.querySelectorAll('[src], [href], [data], [action]')]"
        ".map(e => e.getAttribute('src') ?? e.getAttribute('href') ?? 'other')"
    )
    assert links
    assert [link for link in links if not link.startswith("#")] == []
    assert [f"#{name}" for name in SECTIONS if f"#{name}" not in links] == []
    assert (
        page.evaluate("document.querySelectorAll('[xlink\\\\:href^=http], link, iframe').length")
        == 0
    )


def test_every_plot_is_drawn(page: Page) -> None:
    plots = page.evaluate(
        "[...document.querySelectorAll('svg.plot')].map(plot => {"
        "const box = plot.getBoundingClientRect();"
        "const inner = plot.getBBox();"
        "return [plot.closest('section').id, box.width, box.height, inner.width, inner.height]})"
    )
    # One per metric; 3 trainings of a loss and a metric; 2 grids; 2 counts; the map.
    assert [section for section, *_ in plots] == (
        ["verdict"]
        + ["differences"] * len(METRICS)
        + ["training"] * 6
        + ["decay"] * 2
        + ["distributions"] * 2
        + ["map"]
    )
    assert min(width for _, width, *_ in plots) > 200
    assert min(height for _, _, height, *_ in plots) > 100
    assert min(size for *_, width, height in plots for size in (width, height)) > 50


def test_every_member_of_the_map_is_a_point_in_its_colour(page: Page) -> None:
    points = page.evaluate(
        "Object.entries([...document.querySelectorAll('#map svg use')]"
        ".map(point => getComputedStyle(point).fill)"
        ".reduce((n, fill) => ({...n, [fill]: (n[fill] ?? 0) + 1}), {}))"
    )
    assert len(points) == len(CATEGORIES)
    assert sum(times for _, times in points) == 1_500


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_screen(browser: Browser, report: Path, width: int) -> None:
    narrow = browser.page()
    narrow.open(report, width)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= width
    out = "[...document.querySelectorAll('main p, main h2, figure, .nearest, li')].filter(e => {"
    out += "const box = e.getBoundingClientRect(); return box.width && (box.left < 0 || "
    assert narrow.evaluate(out + f"box.right > {width})}}).length") == 0


def test_a_column_sorts_its_rows(page: Page) -> None:
    rows = "[...document.querySelectorAll('table.sortable tbody th')].map(e => e.dataset.value)"
    by_speed = "document.querySelectorAll('table.sortable thead button')[9].click()"
    page.evaluate(by_speed)
    falling = page.evaluate(rows)
    assert falling[:2] == ["Average, per action", "Decay 0.8, per action"]
    page.evaluate(by_speed)
    rising = page.evaluate(rows)
    assert rising[:2] == ["CNN, next action with random negatives", "Attention pool"]
    # The three without a speed come last in both orders.
    assert set(falling[5:]) == set(rising[5:])


def test_a_tab_shows_one_member_at_a_time(page: Page) -> None:
    shown = "[...document.querySelectorAll('article.member')].map(e => e.offsetHeight > 0)"
    assert page.evaluate(shown) == [True, False, False, False, False]
    page.evaluate("document.querySelectorAll('#members .tabs button')[3].click()")
    assert page.evaluate(shown) == [False, False, False, True, False]


def test_it_prints_every_tab(page: Page, tmp_path: Path) -> None:
    assert page.pdf(tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.send("Emulation.setEmulatedMedia", media="print")
    shown = page.evaluate(
        "[...document.querySelectorAll('article.member')].map(e => e.offsetHeight > 0)"
    )
    page.send("Emulation.setEmulatedMedia", media="")
    assert shown == [True] * 5


def hostile(value: Any) -> Any:
    """The same result with markup in every text that may come from a user's data."""
    if isinstance(value, list):
        return [hostile(one) for one in value]
    if isinstance(value, dict):
        free = ("title", "label", "name", "sentence", "text", "action", "expected", "got", "level")
        return {
            key: f"{HOSTILE} {one}" if key in free and isinstance(one, str) else hostile(one)
            for key, one in value.items()
        }
    return value


def test_markup_in_titles_is_text(browser: Browser, tmp_path: Path) -> None:
    result = small_result()
    # Names of variants are keys, so they stay; their labels are shown.
    variants = [{**hostile(v), "name": v["name"]} for v in result["variants"]]
    result = {**hostile(result), "variants": variants}
    result["map"]["category"] = [HOSTILE]
    result["distributions"]["actions"] = {HOSTILE: 3}
    opened = browser.page()
    opened.open(write_report(result, tmp_path / "hostile.html"), 1280)
    assert opened.complaints == []
    assert opened.evaluate("document.querySelectorAll('script').length") == 1
    assert opened.evaluate("document.querySelectorAll('img').length") == 0
    assert opened.evaluate("typeof window.hacked") == "undefined"
    assert opened.evaluate("document.querySelector('h1').textContent").startswith(HOSTILE)
    assert opened.evaluate("document.title").startswith(HOSTILE)
    assert opened.evaluate("document.querySelectorAll('svg.plot').length") == 8


@pytest.mark.parametrize("part", [None, *OPTIONAL])
def test_a_missing_part_is_mentioned(part: str | None, tmp_path: Path) -> None:
    whole = small_result()
    result = {key: value for key, value in whole.items() if key not in OPTIONAL or key == part}
    result["variants"] = [{**v, "difference": {}} for v in whole["variants"]]
    page = write_report(result, tmp_path).read_text()
    # One more for the differences.
    assert page.count('class="absent"') == len(OPTIONAL) + 1 - (part is not None)
    assert [section for section in SECTIONS if f'id="{section}"' not in page] == []


def small_result() -> dict[str, Any]:
    """Every part, with little to draw."""
    whole = realistic_result()
    small = deepcopy(whole)
    small["metrics"] = whole["metrics"][:2]
    keys = [metric["key"] for metric in small["metrics"]]
    for variant in small["variants"]:
        variant["metrics"] = {key: variant["metrics"][key] for key in keys}
        for part in ("difference", "over_items"):
            variant[part] = {k: v for k, v in variant[part].items() if k in keys}
    small["cohorts"] = whole["cohorts"][:1]
    small["cold_start"] = [{**whole["cold_start"][0], "metrics": {"hr10": interval(0.1)}}]
    small["training"] = {"cnn": {"epochs": [1], "curves": {"loss": [0.5]}}}
    small["decay_grid"] = [{"decay": 0.8, "metric": "ndcg10", "value": 0.1}]
    small["map"] |= {"x": [0.0], "y": [1.0], "category": ["Drama"]}
    small["members"] = whole["members"][:1]
    small["members"][0]["nearest"] = whole["members"][0]["nearest"][:1]
    return small


def test_no_part_is_missing_from_the_whole(tmp_path: Path) -> None:
    assert 'class="absent"' not in write_report(small_result(), tmp_path).read_text()


def test_a_missing_number_is_a_dash(tmp_path: Path) -> None:
    result = small_result()
    nothing = dict.fromkeys(("estimate", "low", "high"), float("nan"))
    result["variants"][3]["metrics"] = {"hr10": nothing}
    result["variants"][3]["difference"] = {"hr10": nothing}
    result["cohorts"][0]["difference"]["average"] = nothing
    # As read from a file.
    page = write_report(json.loads(json.dumps(result)), tmp_path).read_text()
    shown = page[page.index("<main>") : page.index("</main>")]
    assert re.findall(r"\bnan\b", shown, re.IGNORECASE) == []


def test_the_same_result_makes_the_same_page(tmp_path: Path) -> None:
    result = small_result() | {"metrics": [], "cohorts": [], "cold_start": [], "training": {}}
    result["variants"] = [{**v, "metrics": {}, "difference": {}} for v in result["variants"]]
    first = write_report(result, tmp_path / "one.html")
    second = write_report(result, tmp_path / "two")
    assert (first.name, second.name) == ("one.html", "report.html")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"baseline": "decay2"}, "baseline: expected names among"),
        ({"challenger": "decay2"}, "challenger: expected names among"),
        ({"seeds": None}, "seeds: Input should be a valid list"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        (
            {"training": {"cnn": {"epochs": [1, 2], "curves": {"loss": [0.5]}}}},
            "loss: expected one number for each of 2 epochs, got 1",
        ),
        (
            {
                "distributions": {
                    "as_of": "2026-03-01",
                    "actions": {},
                    "sequence_length": {"edges": [1], "counts": [1]},
                }
            },
            "expected 2 edges around 1 counts, got 1",
        ),
        ({"map": {**realistic_result()["map"], "x": [1.0]}}, "equal length, got 1, 1500 and 1500"),
        ({"metrics": realistic_result()["metrics"][:1] * 2}, "expected each name once"),
        ({"metrics": realistic_result()["metrics"][:6]}, "got auc_random"),
    ],
)
def test_an_inconsistent_result_is_refused(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        write_report(realistic_result() | change, tmp_path)
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_verdict_follows_the_intervals() -> None:
    result = small_result()
    result["metrics"][0]["label"] = "HR@10, active"
    learned = next(v for v in result["variants"] if v["name"] == "learned_decay")
    learned["difference"] = {
        "hr10_recent": {"estimate": 0.0063, "low": 0.0022, "high": 0.0108},
        "hr10": {"estimate": -0.0021, "low": -0.005, "high": 0.0008},
    }
    assert verdict(read_result(result)) == [
        "Learned decay is better than Decay 0.8, per action on HR@10, active (+0.0063).",
        "The interval reaches zero on HR@10, full catalogue (\N{MINUS SIGN}0.0021).",
        "It takes 256 bytes per member, 33% of the 768 of Decay 0.8, per action.",
    ]
    result["challenger"] = None
    assert verdict(read_result(result)) == []


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "shown"),
    [
        (0.1, 0.3, True, "better"),
        (0.1, 0.3, False, "worse"),
        (-0.3, -0.1, True, "worse"),
        (-0.3, -0.1, False, "better"),
        (-0.1, 0.1, True, "open"),
        (0.0, 0.1, True, "open"),
        (float("nan"), float("nan"), True, "open"),
    ],
)
def test_an_interval_that_reaches_zero_is_open(
    low: float, high: float, higher_is_better: bool, shown: str
) -> None:
    estimate = (low + high) / 2
    assert shown_by(Interval(estimate=estimate, low=low, high=high), higher_is_better) == shown


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert signed(-0.00004) == "0.0000"
    assert signed(-0.00006) == "\N{MINUS SIGN}0.0001"


def test_a_timestamp_is_written_in_utc() -> None:
    result = realistic_result() | {"created": "2026-11-25T01:30:00+02:00"}
    assert day(read_result(result).created) == "2026-11-24 23:30"
