"""What a gate said, as it stands in the ledger."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformations import clock


@dataclass(frozen=True)
class Verdict:
    """What one gate said of a release.

    Attributes:
        passed: None where there was nothing to judge by: that refuses nothing, and is said.
        said: In a few words, with the number that decided.
        waits: Whether the next days bring what to judge by, so that it is worth to wait for them.
    """

    gate: str
    passed: bool | None
    said: str
    seconds: float = 0.0
    waits: bool = False


def noted(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return verdicts as the ledger keeps them: `passed`, `waits`, `why`, `at`, `gates`."""
    refused = [each for each in verdicts if each.passed is False]
    return {
        "passed": not refused,
        "waits": any(each.waits for each in verdicts),
        "why": "; ".join(f"{each.gate}: {each.said}" for each in refused),
        "at": clock.now().isoformat(timespec="seconds"),
        "gates": [asdict(each) for each in verdicts],
    }
