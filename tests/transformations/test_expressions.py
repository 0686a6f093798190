"""The language of conditions and weights: what it accepts, and that SQL and NumPy agree."""

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.expressions import Column, Kind, parse

NAMES: dict[str, Kind] = {"dwell": "number", "rating": "number", "source": "text"}
ROW = {"dwell": 30.0, "rating": None, "source": "mail"}


def columns(rows: list[dict[str, object]]) -> dict[str, Column]:
    filled = {"number": 0.0, "text": ""}
    found = {}
    for name, kind in NAMES.items():
        values = [row[name] for row in rows]
        known = np.array([value is not None for value in values], bool)
        there = [filled[kind] if value is None else value for value in values]
        found[name] = Column(np.array(there, object if kind == "text" else np.float64), known)
    return found


def in_python(text: str, kind: Kind, rows: list[dict[str, object]]) -> list[object]:
    result = parse(text, NAMES, kind)(columns(rows), len(rows))
    return [
        value.item() if there else None
        for value, there in zip(result.values, result.known, strict=True)
    ]


def in_sql(text: str, kind: Kind, rows: list[dict[str, object]]) -> list[object]:
    with duckdb.connect() as con:
        con.execute("create table rows (place int, dwell double, rating double, source varchar)")
        for at, row in enumerate(rows):
            con.execute(
                "insert into rows values (?, ?, ?, ?)", [at, *(row[name] for name in NAMES)]
            )
        query = f"select {parse(text, NAMES, kind).sql} from rows order by place"
        return [value for (value,) in con.execute(query).fetchall()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dwell >= 30", True),
        ("10 < dwell < 30", False),
        ("dwell >= 30 and source == 'mail'", True),
        ("source != 'mail'", False),
        ("source in ('mail', 'push')", True),
        ("source not in ('mail', 'push')", False),
        ("rating is missing", True),
        ("dwell is not missing", True),
        # Unknown, unless the other side decides.
        ("rating > 3", None),
        ("not rating > 3", None),
        ("rating > 3 or dwell > 3", True),
        ("rating > 3 and dwell < 3", False),
        ("rating > 3 and dwell > 3", None),
    ],
)
def test_a_condition(text: str, expected: bool | None) -> None:
    assert in_python(text, "truth", [ROW]) == in_sql(text, "truth", [ROW]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("min(1, dwell / 60)", 0.5),
        ("max(dwell, 40, 7)", 40.0),
        ("-dwell + 2 * 3 - 1", -25.0),
        ("dwell / 0", None),
        ("max(rating, 1)", None),
        ("1e308 * dwell", None),
    ],
)
def test_a_number(text: str, expected: float | None) -> None:
    assert in_python(text, "number", [ROW]) == in_sql(text, "number", [ROW]) == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dwel >= 30", "at character 1 of 'dwel >= 30': unknown name 'dwel'; expected one of"),
        ("dwell >= ", "cannot be read at character"),
        ("", "cannot be read"),
        ("dwell", "at character 1 of 'dwell': expected a condition, got a number"),
        ("dwell > 3 and source", "at character 15 of .* expected a condition, got a text"),
        ("dwell == 'a'", "at character 10 of .* expected two numbers or two texts"),
        ("source < 'b'", "texts have no order here"),
        ("dwell is None", "at character 10 of .* expected `missing` after `is`"),
        ("dwell in 3", "expected values in brackets"),
        ("__import__('os').system('ls') == 0", "expected a comparison, and, or"),
        ("dwell.real > 0", "expected a comparison, and, or"),
        ("[x for x in (1,)] == 1", "expected a comparison, and, or"),
        ("(lambda: dwell)() > 1", "expected a comparison, and, or"),
        ("dwell ** 9 ** 9 > 1", "expected a comparison, and, or"),
        ("True", "expected a comparison, and, or"),
        ("max(dwell) > 1", "expected a comparison, and, or"),
        ("dwell > 1e999", "expected a comparison, and, or"),
        ("not " * 60 + "dwell > 1", "at most 50 levels"),
        ("(" * 500 + "dwell" + ")" * 500 + " > 1", "cannot be read"),
    ],
)
def test_what_is_no_condition(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, NAMES, "truth")


NUMBERS = st.recursive(
    st.sampled_from(["dwell", "rating", "0", "2.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join).map("({})".format),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"
        ),
        inner.map("(-{})".format),
    ),
    max_leaves=4,
)
CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBERS).map(
            " ".join
        ),
        st.sampled_from(["source == 'a'", "source in ('a', 'b')", "source is missing"]),
        NUMBERS.map("{} is not missing".format),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join).map("({})".format),
        inner.map("(not ({}))".format),
    ),
    max_leaves=5,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "dwell": st.sampled_from([None, 0.0, 2.5, -1.0, 1e300]),
            "rating": st.sampled_from([None, 2.5, 5.0]),
            "source": st.sampled_from([None, "a", "b", "c"]),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(CONDITIONS, ROWS)
def test_sql_and_numpy_agree(text: str, rows: list[dict[str, object]]) -> None:
    assert in_python(text, "truth", rows) == in_sql(text, "truth", rows)
