"""Every worked example in a docstring is run; the modules are found, not listed."""

import doctest
import importlib

import pytest

from transformations.config import ROOT

PACKAGES = ("feature_repo", "models", "pipelines", "serving", "stores", "transformations")
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
    if any(">>> " in line and "+SKIP" not in line for line in file.read_text().splitlines())
)


def test_there_are_examples():
    assert "models.aggregators" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
