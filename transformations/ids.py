"""One spelling of an id, whatever holds it, and what no id may be.

Where ids are strings, a number stands for its digits: 42, 42.0 and 1e15 are '42', '42' and
'1000000000000000', from Parquet, CSV and every database alike. A number that is not whole, or so
large that a float stands for several of them, is no id. A text is the id that it is: '42.0' from a
CSV, which has only texts, is another id than '42'.

An id is at most `LONGEST` characters long and holds no NUL character: stores keep ids as keys, and
PostgreSQL takes neither a NUL nor an index entry of more than 2,700 bytes.
"""

from decimal import Decimal
from typing import Any

from transformations.quoting import identifier

LONGEST = 256
"""Characters of a string id. As UTF-8 they are at most 1,024 bytes."""
EXACT = 2**53
"""From here on a float stands for several integers."""
BLANK = r"[\s\v\x1c-\x1f\x85\p{Z}]*"
"""A text of nothing but what Python's strip() removes, as DuckDB's regular expression."""
SPELLED = "\x1fid"
"""Ends the name of a column of the spool: the ids of a database's column, in their one spelling."""


def is_id(text: str) -> bool:
    """Whether a text can be an id: not blank, not too long, without NUL, and valid Unicode."""
    if not text.strip() or len(text) > LONGEST or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON's escapes can leave a lone surrogate
        return False
    return True


def is_id_sql(text: str) -> str:
    """Return SQL that says the same of a VARCHAR."""
    return (
        f"(not regexp_full_match({text}, '{BLANK}') and length({text}) <= {LONGEST} "
        f"and not contains({text}, chr(0)))"
    )


def spelled(value: Any) -> str | None:
    """Return a database's value as the text of an id; None where it is not one.

    >>> [spelled(value) for value in (42, 42.0, Decimal("42.00"), 1e15, "42.0", 42.5, 1e16, True)]
    ['42', '42', '42', '1000000000000000', '42.0', None, None, None]
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if abs(value) < EXACT and value.is_integer() else None
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return str(int(value)) if whole else None
    if isinstance(value, bytes | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return None
    return str(value)


def id_column(column: str, there: Any) -> str:
    """Return the column that holds the ids of a column: the spelled one, if it is there."""
    return f"{column}{SPELLED}" if f"{column}{SPELLED}" in there else column


def text_id_sql(column: str) -> str:
    """Return SQL that gives a column of texts as string ids, null where one cannot be."""
    text = f"{identifier(column)}::varchar"
    return f"case when {is_id_sql(text)} then {text} end"
