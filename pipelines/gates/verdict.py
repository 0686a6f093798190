"""What a gate said, as it stands in the ledger."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What one gate said of a release.

    Attributes:
        passed: None where there was nothing to judge by: that refuses nothing, and is said.
        said: In a few words, with the number that decided.
    """

    gate: str
    passed: bool | None
    said: str
    seconds: float = 0.0


def noted(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return verdicts as the ledger keeps them: `passed`, `why`, `at`, `gates`."""
    refused = [each for each in verdicts if each.passed is False]
    return {
        "passed": not refused,
        "why": "; ".join(f"{each.gate}: {each.said}" for each in refused),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "gates": [asdict(each) for each in verdicts],
    }
