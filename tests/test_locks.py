"""The two locks: exact versions with hashes, no index, the larger one around the smaller."""

import re
import tomllib
from pathlib import Path

import pytest

from transformations.config import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==(\S+)( ; .*?)? \\$")


def pins(name: str) -> dict[tuple[str, str], str]:
    """Return (package, marker) → version."""
    lines = (ROOT / name).read_text().splitlines()
    found = (PIN.match(line) for line in lines if line and line[0] not in " #")
    matches = [match for match in found if match is not None]
    return {(match[1], match[3] or ""): match[2] for match in matches}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_a_version_and_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = re.split(r"\n(?=[a-z0-9])", text)
    for requirement in requirements:
        first = requirement.splitlines()[0]
        assert PIN.match(first), first
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), first
    assert len(requirements) == len(pins(name))


@pytest.mark.parametrize("name", LOCKS)
def test_no_index_is_named(name: str) -> None:
    assert not re.search(r"index-url|find-links|://", (ROOT / name).read_text())


def test_what_tests_need_is_added_to_what_a_user_runs_with() -> None:
    run, dev = (pins(name) for name in LOCKS)
    assert run.items() <= dev.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[\[<>=;]", line)[0] for line in project["optional-dependencies"]["dev"]}
    added = {package for package, _ in dev} - {package for package, _ in run}
    # mypy comes with Feast itself (sqlalchemy's extra).
    assert named - {"mypy"} <= added


def test_the_makefile_installs_with_hashes_checked() -> None:
    text = Path(ROOT / "Makefile").read_text()
    for name in LOCKS:
        assert f"--require-hashes --requirement {name}\n" in text
