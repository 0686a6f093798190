"""The example of a team downstream runs from its files to its ten items."""

import re
from pathlib import Path

from tests.worlds.clone import Clone


def test_the_ranker(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    clone.environment["TMPDIR"] = str(tmp_path)
    told = clone.python("import runpy; runpy.run_path('examples/ranker.py')")
    lines = dict(re.findall(r"^  (\w+) +HR@10 (0\.\d+)  MRR 0\.\d+$", told, re.MULTILINE))
    assert list(lines) == ["popularity", "embeddings", "both"]
    # In the simulated market a member's taste is worth more than what all others do.
    assert float(lines["both"]) > float(lines["popularity"]) > 0
    ten = told.split("Ten items for member ")[1].splitlines()[1:]
    assert len(ten) == 10
    assert all(re.fullmatch(r" +-?\d+\.\d\d  [a-z ]+", line) for line in ten), ten
