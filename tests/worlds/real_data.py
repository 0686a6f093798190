"""Where real data lies beside the repository, and what happens where it does not."""

import os
from pathlib import Path

import pytest

from transformations.config import ROOT

DATA = Path(os.environ.get("ACTIVITY_TEST_DATA", ROOT.parent / "shared" / "data"))
MOVIETWEETINGS = DATA / "movietweetings"
IFDB = DATA / "ifdb"
XWINES = DATA / "xwines"


def _needs(file: Path) -> pytest.MarkDecorator:
    # In CI too: unlike a server, nothing in the repository can install them.
    return pytest.mark.skipif(
        not file.exists(),
        reason=f"no {file.name} in {file.parent}; ACTIVITY_TEST_DATA names another folder",
    )


needs_movietweetings = _needs(MOVIETWEETINGS / "ratings.dat.gz")
needs_ifdb = _needs(IFDB / "events.parquet")
needs_xwines = _needs(XWINES / "events.parquet")
