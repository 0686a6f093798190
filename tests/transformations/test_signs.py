"""What an action says of its item: one rule in SQL and NumPy."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.worlds.events import configure
from transformations.rules import MISSING
from transformations.signs import read_by_signs, sign_expression, signs_of

VIEW = {"positive_if": "dwell >= 30", "negative_if": "dwell < 5 or seen_on == 'mail'"}


@pytest.mark.parametrize(
    ("action", "dwell", "seen_on", "expected"),
    [
        ("APPLY", None, None, 1),
        ("DISMISS", 100.0, None, -1),
        ("VIEW", 30.0, None, 1),
        ("VIEW", 4.9, None, -1),
        ("VIEW", 10.0, None, 0),
        ("VIEW", None, None, 0),
        ("VIEW", None, "mail", -1),
        ("VIEW", 30.0, "mail", 1),
        ("SKIP", None, None, -1),
        ("SKIP", 60.0, None, 0),
    ],
)
def test_the_sign_of_an_action(
    tmp_path: Path, action: str, dwell: float | None, seen_on: str | None, expected: int
) -> None:
    config = configure(
        tmp_path,
        actions={
            "APPLY": "positive",
            "DISMISS": "negative",
            "VIEW": VIEW,
            "SKIP": {"negative_if": "not dwell > 50", "sign": "negative"}
            if dwell is None
            else {"negative_if": "not dwell > 50"},
        },
        events={"attributes": {"dwell": {"type": "number"}, "seen_on": {"type": "category"}}},
    )
    rules = config.rules
    assert read_by_signs(rules) == {"dwell", "seen_on"}

    with duckdb.connect() as con:
        row = con.execute(
            f"select {sign_expression(rules)} from "
            "(select $action as action, $dwell::double as dwell, $seen_on::varchar as seen_on)",
            {"action": action, "dwell": dwell, "seen_on": seen_on},
        ).fetchone()
    assert row == (expected,)

    attributes = {
        "dwell": np.array([np.nan if dwell is None else dwell]),
        "seen_on": np.array([seen_on or MISSING], object),
    }
    got = signs_of(rules, np.array([rules.action_code(action)]), attributes)
    assert got.tolist() == [expected]
    assert got.dtype == np.int32


def test_what_is_no_action_has_no_sign(tmp_path: Path) -> None:
    rules = configure(tmp_path).rules
    assert signs_of(rules, np.array([0, 9]), {}).tolist() == [0, 0]
