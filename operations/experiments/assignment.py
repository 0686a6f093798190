"""Which arm a unit is in: a number of its id, equal in every process and language.

The number is the first 13 hexadecimal digits of the SHA-256 of `<salt>/<experiment>/<unit>`, in
UTF-8, divided by 16 ** 13. A unit is a member_id: a text as it is, an integer in decimal digits.
Below the share it is in the treatment; the control is as large, from the other end:

    0 ───── share ─────────────── 1 - share ───── 1
      treatment     in no arm             control

So both arms grow by members who were in neither, and nobody who is in changes the arm. Of a share
above a half, all others are the control. docs/operations.md has test vectors.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Arm = Literal["treatment", "control"]
ARMS: tuple[Arm, Arm] = ("control", "treatment")

DIGITS = 13
"""52 bits: a double holds the number exactly, also in languages that have no other one."""


def number_of(salt: str, experiment: str, unit: int | str) -> float:
    """Return a unit's number in [0, 1).

    >>> number_of("4c1d", "new_ranker", 42)
    0.9985385517197887
    """
    digest = sha256(f"{salt}/{experiment}/{unit}".encode()).hexdigest()
    return int(digest[:DIGITS], 16) / 16**DIGITS


def numbers_of(salt: str, experiment: str, units: ArrayLike) -> NDArray[np.float64]:
    """Return the numbers [n] of units [n], integers or texts.

    Raises:
        TypeError: they are something else: a float would have another text in each language.
    """
    array = np.asarray(units)
    if array.dtype.kind not in "iuUO" and array.size:
        raise TypeError(f"expected units that are integers or texts, got {array.dtype}")
    prefix = sha256(f"{salt}/{experiment}/".encode())
    digests = bytearray()
    for unit in array.tolist():
        one = prefix.copy()
        one.update(str(unit).encode())
        digests += one.digest()[:8]
    first_64_bits = np.frombuffer(bytes(digests), ">u8")
    return (first_64_bits >> np.uint64(64 - 4 * DIGITS)).astype(np.float64) / 16**DIGITS


def arm_of(number: float, share: float) -> Arm | None:
    """Return the arm of a number; None where it is in neither.

    >>> [arm_of(number, 0.1) for number in (0.05, 0.1, 0.5, 0.9, 0.95)]
    ['treatment', None, None, 'control', 'control']
    """
    if number < share:
        return "treatment"
    return "control" if number >= control_from(share) else None


def control_from(share: float) -> float:
    """Return from which number on units are in the control: both arms are equal up to a half.

    >>> control_from(0.25), control_from(0.5), control_from(0.9)
    (0.75, 0.5, 0.9)
    """
    return max(share, 1 - share)


def logged_arm(experiment: str, arm: Arm) -> str:
    """Return what the column `arm` of impressions says of an experiment's arm.

    Where several experiments run, it holds the texts of all, with a space between.
    """
    return f"{experiment}:{arm}"


def arms_of(experiments: Iterable[tuple[str, str, float]], unit: int | str) -> str | None:
    """Return the column `arm` of a unit under experiments, each its name, salt and share.

    >>> arms_of([("ranker", "1", 0.5), ("layout", "2", 0.5)], 42)
    'ranker:control layout:treatment'
    """
    return said_of(arms(experiments, unit))


def arms(experiments: Iterable[tuple[str, str, float]], unit: int | str) -> dict[str, Arm]:
    """Return experiment → arm of a unit, without those that it is in no arm of."""
    return {
        name: arm
        for name, salt, share in experiments
        if (arm := arm_of(number_of(salt, name, unit), share)) is not None
    }


def said_of(arms: Mapping[str, Arm]) -> str | None:
    """Return the column `arm` of experiment → arm; None where there is none."""
    return " ".join(logged_arm(name, arm) for name, arm in arms.items()) or None


def numbers_in_sql(con: Any) -> None:
    """Give a DuckDB connection the macro `experiment_number(salt, experiment, unit)`, the same."""
    con.execute((Path(__file__).parent / "sql" / "experiment_number.sql").read_text())
