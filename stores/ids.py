"""One rule for an id of another type than its key: converted where nothing is lost, else refused.

There and back must give the same. So the number 42 is the id '42' of a key of strings and the text
'42' is 42 of a key of integers; '042', ' 42' and '4.0' are not, nor is True, nor what 64 bits
cannot hold. A key of integers also takes whole numbers of other kinds: a decimal, and a float below
2^53 (of 32 bits: 2^24), which pandas makes of a column of integers where one is missing. A key of
strings takes neither: 42.0 is '42.0' to one and '42' to another.

    id            key of integers   key of strings
    42            42                '42'
    '42'          42                '42'
    '042', '4.0'  refused           as it is
    42.0          42                refused
    42.5, True    refused           refused

Feast converts by `int()` and `str()` (`feast.type_map`), so what is taken here is the same key in
`get_online_features`; that also takes '042', 42.5 and True. A missing id (None, NaN) is no id: a
training join finds nothing for it, and a read refuses it.

The rule stands here twice, in Python for a request's ids and in DuckDB's SQL for columns of labels;
tests/stores/test_ids.py holds both equal.
"""

import re
from decimal import Decimal
from typing import Any

import numpy as np

BITS = {"int32": 32, "int64": 64}
EXACT_OF = {"DOUBLE": 2**53, "FLOAT": 2**24}
"""From here on a float stands for several integers."""
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")
COMPARED = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
"""DuckDB's integers that 64 bits with a sign hold: they compare as they are."""
WIDE = {"UBIGINT", "HUGEINT", "UHUGEINT"}


class IdError(ValueError):
    """An id that is none of the key's: what was expected, and a value that was got."""


def ids_of(values: list[Any], declared: str, what: str) -> list[Any]:
    """Return ids as the key's type; the values themselves where all are of it.

    Args:
        declared: int32, int64 or string.
        what: Of whom the ids are, for the message.

    Raises:
        IdError: one of them is not an id of this type.

    >>> ids_of([42, "x"], "string", "item_id"), ids_of(["42", 7.0], "int64", "member_id")
    (['42', 'x'], [42, 7])
    >>> ids_of([1, "042"], "int64", "member_id")
    Traceback (most recent call last):
    ...
    stores.ids.IdError: member_id: expected int64 ids, got '042' (str)
    """
    if all(_is_of(kind, declared) for kind in set(map(type, values))):
        return values
    return [_id(value, declared, what) for value in values]


def converted_sql(column: str, got: str, expected: str) -> str | None:
    """Return SQL that makes ids of a column, null where it is not one; None: compare it as it is.

    Args:
        column: The quoted name.
        got, expected: DuckDB's types of the column and of the key.

    Raises:
        IdError: no value of this type is an id of this key.
    """
    if '"NULL"' in got or got == expected or {got, expected} <= COMPARED:
        return None
    if expected == "VARCHAR" and got in COMPARED | WIDE:
        return f"cast({column} as varchar)"
    number = f"try_cast({column} as {expected})"
    if expected in COMPARED:
        if got == "VARCHAR":
            return f"case when cast({number} as varchar) = {column} then {number} end"
        if got in WIDE:
            return number
        if got.startswith("DECIMAL"):
            return f"case when {number} = {column} then {number} end"
        if got in EXACT_OF:
            exact = EXACT_OF[got]
            return f"case when abs({column}) < {exact} and {number} = {column} then {number} end"
    elif _is_number(got) and _is_number(expected):
        return None
    raise IdError(f"expected {expected}, got {got}")


def given_sql(column: str, got: str) -> str:
    """Return SQL that is true where a column of this type holds a value: NaN is none."""
    return f"{column} is not null" + (f" and not isnan({column})" if got in EXACT_OF else "")


def _id(value: Any, declared: str, what: str) -> int | str:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if declared == "string":
            return str(int(value))
        found: int | None = int(value)
    elif isinstance(value, str):
        if declared == "string":
            return value
        found = int(value) if WHOLE.fullmatch(value) else None
    elif declared == "string":
        found = None
    elif isinstance(value, float | np.float32 | np.float16):
        exact = 2.0 ** (np.finfo(type(value)).nmant + 1)
        found = int(value) if abs(float(value)) < exact and value.is_integer() else None
    elif isinstance(value, Decimal):
        found = int(value) if value.is_finite() and value == value.to_integral_value() else None
    else:
        found = None
    if found is None or not -(2 ** (BITS[declared] - 1)) <= found < 2 ** (BITS[declared] - 1):
        raise IdError(f"{what}: expected {declared} ids, got {value!r} ({type(value).__name__})")
    return found


def _is_of(kind: type, declared: str) -> bool:
    """Whether values of this class are such ids as they are."""
    if declared == "string":
        return issubclass(kind, str)
    return issubclass(kind, int | np.integer) and kind is not bool


def _is_number(kind: str) -> bool:
    return kind in COMPARED | WIDE | {"FLOAT", "DOUBLE"} or kind.startswith("DECIMAL")
