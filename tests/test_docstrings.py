"""Every worked example in a docstring is run; the modules are found, not listed."""

import doctest
import importlib

import pytest

from tests.test_house import ROOMS
from transformations.config import ROOT

PACKAGES = (
    "feature_repo",
    "models",
    "operations",
    "pipelines",
    "serving",
    "stores",
    "transformations",
)
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ROOMS
    for file in (ROOT / package).rglob("*.py")
    if any(">>> " in line and "+SKIP" not in line for line in file.read_text().splitlines())
)


def test_there_are_examples():
    assert "models.layers.average" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
