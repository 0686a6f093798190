"""Columns of any type as ids, timestamps, lists and vectors, in SQL."""

from transformations.duck import SQL_ID_TYPES
from transformations.errors import InputError
from transformations.ids import BLANK, text_id_sql
from transformations.quoting import identifier

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
WHOLE_NUMBERS = r"\s*[+-]?\d+(\.0*)?\s*"
END_OF_TIME = 253_402_300_799  # the last second of the year 9999
EXACT_INTEGERS = {"DOUBLE": 2**53, "FLOAT": 2**24}
"""Below it every whole number has its own float; from there on, two ids could become one."""


def id_expression(key: str, column: str, kind: str, id_type: str) -> str:
    """Return SQL that gives the column as an id of the configured type, null if it cannot be.

    Raises:
        InputError: no value of the column's type can be such an id.
    """
    name = identifier(column)
    wanted = SQL_ID_TYPES[id_type]
    if _is_text(kind):
        if id_type == "string":
            return text_id_sql(column)
        return _whole(name, kind)
    if _is_number(kind):
        if id_type == "string" and kind not in EXACT_INTEGERS:  # of any size, as from databases
            if kind.startswith("DECIMAL"):
                return f"(case when {name} = trunc({name}) then {name}::hugeint::varchar end)"
            return f"{name}::varchar"
        # A column of integers with nulls is often stored as floats.
        return f"({_whole(name, kind)})::{wanted}"
    raise InputError(f"{key}: expected integers or text for an id in column {column!r}, got {kind}")


def timestamp_expression(key: str, column: str, kind: str, unit: str) -> str:
    """Return SQL that gives the column as a TIMESTAMPTZ, null where it cannot be read.

    A timestamp without a zone is UTC. Digits below a microsecond are cut off, since an event must
    not move to a later time. Integers beyond the year 9999 become 'infinity'.

    Args:
        unit: "timestamp", or the unit of integers since 1970: s, ms, us or ns.

    Raises:
        InputError: the column's type and the unit contradict each other.
    """
    name = identifier(column)
    is_time = kind.startswith(("TIMESTAMP", "DATE"))
    if unit == "timestamp":
        if kind in ("TIMESTAMP_NS", "TIMESTAMPTZ_NS"):
            # Integer division rounds towards zero: up, before 1970.
            ns = f"epoch_ns({name})"
            return f"make_timestamptz(({ns} - ({ns} % 1000 + 1000) % 1000) // 1000)"
        if is_time:
            return f"{name}::timestamptz"
        if _is_text(kind):
            return f"try_cast({name}::varchar as timestamptz)"
        raise InputError(
            f"{key}: expected timestamps or text in column {column!r}, got {kind}; for integers "
            "since 1970 in events, set events.time_unit to s, ms, us or ns"
        )
    if not (_is_number(kind) or _is_text(kind)):
        raise InputError(
            f"{key}: time_unit {unit} expects integers since 1970 in column {column!r}, got {kind}"
            f"{'; set events.time_unit to timestamp' if is_time else ''}"
        )
    number = _whole(name, kind)
    per_second = PER_SECOND[unit]
    scaled = f"* {1_000_000 // per_second}" if per_second <= 1_000_000 else "// 1000"
    return (
        f"case when {number} < 0 then make_timestamptz(-1) "
        f"when {number} > {END_OF_TIME * per_second} then 'infinity'::timestamptz "
        f"else make_timestamptz({number} {scaled}) end"
    )


def _whole(name: str, kind: str) -> str:
    """Return SQL for a value as an integer; null for 12.5, '1e3' and overflow."""
    if _is_text(kind):
        text = f"{name}::varchar"
        return (
            f"(case when regexp_full_match({text}, '{WHOLE_NUMBERS}') "
            f"then try_cast(trim({text}) as bigint) end)"
        )
    if kind in EXACT_INTEGERS:
        limit = EXACT_INTEGERS[kind]
        return (
            f"(case when {name} = trunc({name}) and abs({name}) < {limit} "
            f"then try_cast({name} as bigint) end)"
        )
    if kind.startswith("DECIMAL"):
        return f"(case when {name} = trunc({name}) then try_cast({name} as bigint) end)"
    return f"try_cast({name} as bigint)"


def _is_text(kind: str) -> bool:
    return kind in ("VARCHAR", "UUID", "NULL", '"NULL"') or kind.startswith("ENUM")


def _is_number(kind: str) -> bool:
    return kind.removeprefix("U").endswith("INT") or kind.startswith(
        ("INTEGER", "UINTEGER", "DOUBLE", "FLOAT", "DECIMAL")
    )


def blank(column: str, kind: str) -> str:
    """Return SQL that says whether a value is missing: null or blank text."""
    name = identifier(column)
    if _is_text(kind):
        return f"coalesce(regexp_full_match({name}::varchar, '{BLANK}'), true)"
    return f"{name} is null"


def list_expression(column: str, kind: str) -> str:
    """Return SQL that gives a column as VARCHAR[], from a list or from values separated by |."""
    name = identifier(column)
    values = f"{name}::varchar[]" if kind.endswith("]") else f"string_split({name}::varchar, '|')"
    return f"list_filter(coalesce({values}, []), lambda value: trim(value) <> '')"


def vector_expression(key: str, column: str, kind: str) -> str:
    """Return SQL that gives a column as FLOAT[], null unless it is a list of finite numbers.

    Raises:
        InputError: the column holds neither lists nor text (such as [0.1, 0.2]).
    """
    if not (_is_text(kind) or kind.endswith("]")):
        raise InputError(f"{key}: expected lists of numbers in column {column!r}, got {kind}")
    vector = f"try_cast({identifier(column)} as float[])"
    unusable = "lambda value: value is null or not isfinite(value)"
    return f"case when len(list_filter({vector}, {unusable})) = 0 then {vector} end"
