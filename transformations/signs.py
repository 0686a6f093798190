"""What an action says of its item: 1 liked, -1 disliked, 0 neither. One rule, in SQL and NumPy.

Labels, weights, statistics and the aggregators' input `signs` follow from it.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from transformations.attributes import Values, is_missing
from transformations.expressions import Column
from transformations.quoting import quoted
from transformations.rules import SIGNS, Rules


def read_by_signs(rules: Rules) -> frozenset[str]:
    """Return the attributes that some action's sign depends on."""
    return frozenset[str]().union(
        *(
            condition.names
            for action in rules.actions.values()
            for condition in (action.positive_if, action.negative_if)
            if condition is not None
        )
    )


def sign_expression(rules: Rules) -> str:
    """Return the sign as SQL over `action` and a column per attribute; null of another action."""
    cases = []
    for name, action in rules.actions.items():
        here = f"when action = {quoted(name)}"
        for condition, sign in ((action.positive_if, 1), (action.negative_if, -1)):
            if condition is not None:
                cases.append(f"{here} and {condition.sql} then {sign}")
        cases.append(f"{here} then {SIGNS[action.sign]}")
    return f"(case {' '.join(cases)} end)::tinyint"


def signs_of(
    rules: Rules, codes: NDArray[np.integer], attributes: Mapping[str, Values]
) -> NDArray[np.int32]:
    """Return the sign of each action; int32 [actions].

    Args:
        codes: `Rules.action_code` of each; 0 and codes of no configured action have the sign 0.
        attributes: Those of `read_by_signs`, in the same order [actions].
    """
    signs = np.zeros(len(codes), np.int32)
    for code, action in enumerate(rules.actions.values(), start=1):
        own = np.flatnonzero(codes == code)
        signs[own] = SIGNS[action.sign]
        for condition, sign in ((action.negative_if, -1), (action.positive_if, 1)):
            if condition is not None:
                columns = columns_of(attributes, condition.names, own)
                signs[own[condition.holds(columns, len(own))]] = sign
    return signs


def columns_of(
    attributes: Mapping[str, Values], names: Iterable[str], chosen: NDArray[np.int64]
) -> dict[str, Column]:
    """Return chosen values of attributes for an expression."""
    columns = {}
    for name in names:
        values = attributes[name][chosen]
        columns[name] = Column(values, ~is_missing(values))
    return columns
