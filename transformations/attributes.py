"""What an action carries: how a source's column becomes an attribute, and lists of attributes.

In tables a missing value is null. Inside a list it is NaN or MISSING, since the lists that Feast
keeps online hold no null. Of equal actions, the first copy that has an attribute decides it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transformations.quoting import identifier, quoted
from transformations.rules import MISSING, Attribute

SQL_TYPES = {"number": "double", "category": "varchar", "text": "varchar"}
ARROW_TYPES = {"number": pa.float64(), "category": pa.string(), "text": pa.string()}
NO_ATTRIBUTES = "null::integer as attributes"

Values = NDArray[Any]
"""Of one attribute: float64 with NaN, or object (str) with MISSING."""


def value_expression(attribute: Attribute, column: str) -> str:
    """Return SQL that gives a source's column as the attribute; null where missing or unreadable.

    Text is kept as it is, but blank text is missing, and so is NaN.
    """
    name = identifier(column)
    if attribute.kind == "number":
        number = f"try_cast({name} as double)"
        return f"case when not isnan({number}) then {number} end"
    return f"nullif(trim({name}::varchar), '')"


def problem_expression(name: str, attribute: Attribute, column: str) -> str:
    """Return SQL that says why a source's value is refused; null where it is not."""
    source, value = identifier(column), value_expression(attribute, column)
    cases = []
    if attribute.kind == "number":
        cases.append(
            f"when coalesce(trim({source}::varchar), '') <> '' and try_cast({source} as double) "
            f"is null then {quoted(f'attribute {name} is not a number')}"
        )
        bounds = [f"isinf({value})"]
        if attribute.minimum is not None:
            bounds.append(f"{value} < {attribute.minimum}")
        if attribute.maximum is not None:
            bounds.append(f"{value} > {attribute.maximum}")
        cases.append(
            f"when {' or '.join(bounds)} then {quoted(f'attribute {name} is out of range')}"
        )
    else:
        cases.append(
            f"when length({value}) > {attribute.max_length} "
            f"then {quoted(f'attribute {name} is too long')}"
        )
        cases.append(
            f"when contains({value}, chr(26)) then {quoted(f'attribute {name} holds U+001A')}"
        )
    return f"case {' '.join(cases)} end"


def problem(name: str, attribute: Attribute, value: object) -> str | None:
    """Return why a streamed or requested value is refused, in the batch's words; None if not."""
    if attribute.kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"attribute {name} is not a number"
        low = -np.inf if attribute.minimum is None else attribute.minimum
        high = np.inf if attribute.maximum is None else attribute.maximum
        if value == value and (not np.isfinite(value) or not low <= value <= high):
            return f"attribute {name} is out of range"
        return None
    if not isinstance(value, str):
        return f"attribute {name} is not a text"
    if len(value.strip()) > attribute.max_length:
        return f"attribute {name} is too long"
    return f"attribute {name} holds U+001A" if MISSING in value else None


def struct_of(attributes: Mapping[str, Attribute], columns: Mapping[str, str]) -> str:
    """Return SQL for the column `attributes`: a struct of these SQL expressions."""
    if not attributes:
        return NO_ATTRIBUTES
    fields = ", ".join(f"{quoted(name)}: {columns[name]}" for name in attributes)
    return f"{{{fields}}} as attributes"


def first_of_copies(attributes: Mapping[str, Attribute]) -> str:
    """Return SQL for the columns of the attributes, from the list `copies` in their order."""
    return "".join(
        f", list_filter(list_transform(copies, lambda c: c[{quoted(name)}]), "
        f"lambda v: v is not null)[1] as {identifier(name)}"
        for name in attributes
    )


def lists_of(attributes: Mapping[str, Attribute], structs: str) -> str:
    """Return SQL for a list of each attribute, from a list of structs; NaN or MISSING for null."""
    nothing = {"number": "'nan'::double", "category": "chr(26)", "text": "chr(26)"}
    return "".join(
        f", list_transform({structs}, lambda c: coalesce(c[{quoted(name)}], "
        f"{nothing[attribute.kind]})) as {identifier(name)}"
        for name, attribute in attributes.items()
    )


def as_values(attribute: Attribute, values: Sequence[Any] | pa.Array | Values) -> Values:
    """Return an attribute's values as an array; None and null are missing.

    Args:
        values: An array is taken as it is: what this function returned before, or a part of it.
    """
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        if attribute.kind == "number":
            return values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return pc.fill_null(values.cast(pa.string()), MISSING).to_numpy(zero_copy_only=False)
    if attribute.kind == "number":
        return np.array([np.nan if v is None else v for v in values], np.float64)
    return np.array([(v or "").strip() or MISSING for v in values], object)


def missing(attribute: Attribute, count: int) -> Values:
    """Return that many missing values."""
    if attribute.kind == "number":
        return np.full(count, np.nan)
    return np.full(count, MISSING, object)


def is_missing(values: Values) -> NDArray[np.bool_]:
    """Return which values are missing."""
    found: NDArray[np.bool_] = values == MISSING if values.dtype == object else np.isnan(values)
    return found


def arrow_of(attribute: Attribute, values: Values) -> pa.Array:
    """Return values for a list of a member row: NaN or MISSING where missing."""
    return pa.array(values, ARROW_TYPES[attribute.kind])


def first_known(values: Values, is_first: NDArray[np.bool_]) -> Values:
    """Return of each group of equal actions the first value that is not missing.

    Args:
        values: Group after group.
        is_first: Where a group begins; true at the first.

    >>> first_known(np.array([np.nan, 2.0, 3.0, 4.0]), np.array([True, False, False, True]))
    array([2., 4.])
    """
    known = ~is_missing(values)
    starts = np.flatnonzero(is_first)
    if not len(starts):
        return values[:0]
    positions = np.where(known, np.arange(len(values)), len(values))
    first = np.minimum.reduceat(positions, starts)
    return values[np.where(first < len(values), first, starts)]
