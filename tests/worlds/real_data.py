"""Where real data lies beside the repository, and what happens where it does not."""

import os
from pathlib import Path

import pytest

from transformations.config import ROOT

MOVIETWEETINGS = (
    Path(os.environ.get("ACTIVITY_TEST_DATA", ROOT.parent / "shared" / "data")) / "movietweetings"
)

needs_movietweetings = pytest.mark.skipif(
    not (MOVIETWEETINGS / "ratings.dat.gz").exists() and os.environ.get("CI") != "true",
    reason=f"no ratings.dat.gz in {MOVIETWEETINGS}; ACTIVITY_TEST_DATA names another folder",
)
