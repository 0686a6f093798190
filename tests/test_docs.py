"""Every test that a document names as its proof is there; pages of figures hold those measured."""

import json
import re
from types import ModuleType

import pytest

from benchmarks import (
    drift_page,
    evaluation,
    experiments,
    incremental_page,
    kills,
    releases,
    scale,
    spark_page,
)
from benchmarks.report import __main__ as performance
from transformations.config import ROOT

FOUND = {file.name: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}


# The others tell of Feast's own tests too.
@pytest.mark.parametrize("document", ["realtime.md", "request-time.md"])
def test_the_tests_that_a_document_names_are_there(document: str) -> None:
    named = set(re.findall(r"\btest_\w+(?:\.py)?", (ROOT / "docs" / document).read_text()))
    functions = (re.findall(r"^\s*def (test_\w+)", text, re.MULTILINE) for text in FOUND.values())
    assert named
    assert named - set(FOUND).union(*functions) == set()


def test_pages_of_figures_are_as_they_would_be_made_now() -> None:
    assert performance.PAGE.read_text() == performance.page()[0]
    assert evaluation.PAGE.read_text() == evaluation.page()


def test_the_figures_of_drift_are_those_measured() -> None:
    """Each line of them as it is made from the results: `python -m benchmarks.drift_page`."""
    page = (ROOT / "docs" / "operations.md").read_text().splitlines()
    assert [line for line in drift_page.lines(drift_page.read()) if line not in page] == []


def test_the_figures_of_fits_that_go_on_are_those_measured() -> None:
    page = incremental_page.PAGE.read_text()
    figures = page.split(incremental_page.MARKS[0])[1].split(incremental_page.MARKS[1])[0]
    assert figures == incremental_page.figures(json.loads(incremental_page.RESULTS.read_text()))


def test_the_figures_of_scale_are_those_measured() -> None:
    page = scale.PAGE.read_text()
    figures = page.split(scale.MARKS[0])[1].split(scale.MARKS[1])[0]
    assert figures == scale.figures(scale.Service(), json.loads(scale.RESULTS.read_text()))


def test_the_figures_of_spark_are_those_measured() -> None:
    """`python -m benchmarks.spark_page` writes them."""
    page = spark_page.PAGE.read_text()
    figures = page.split(spark_page.MARKS[0])[1].split(spark_page.MARKS[1])[0]
    assert figures == spark_page.figures(*spark_page.read())


def test_the_figures_of_experiments_are_those_measured() -> None:
    page = experiments.PAGE.read_text()
    figures = page.split(experiments.MARKS[0])[1].split(experiments.MARKS[1])[0]
    assert figures == experiments.figures(json.loads(experiments.RESULTS.read_text()))


@pytest.mark.parametrize("measured", [releases, kills])
def test_the_figures_of_releases_and_kills_are_those_measured(measured: ModuleType) -> None:
    page = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert measured.said(json.loads(measured.RESULT.read_text())) in page
