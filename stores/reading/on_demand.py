"""On-demand views: their own functions, called on the inputs that Feast would pass."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType

from stores.bytes import decode
from stores.bytes.decode import Array, Mask
from stores.reading.plan import OnDemand, ReadError

_VECTORS = {ValueType.FLOAT_LIST: np.float32, ValueType.DOUBLE_LIST: np.float64}
_FLOATS = {ValueType.FLOAT: np.float32, ValueType.DOUBLE: np.float64}


def computed(
    transform: OnDemand, columns: Mapping[str, list[Any]], full_feature_names: bool
) -> Iterator[tuple[str, Array, Mask]]:
    """Yield result name, values and presence of each requested feature of an on-demand view.

    Args:
        transform: the view.
        columns: all columns of the read as `to_dict()` has them, ids and request data included.
        full_feature_names: how the columns are named.

    Raises:
        ReadError: the function does not return what the view declares.
    """
    seen = {name: cells for name, cells in columns.items() if name not in transform.hidden}
    answer: Mapping[str, Any]
    if transform.view.mode == "python":
        # A function of a single row may return bare values.
        answer = {
            name: cells if isinstance(cells, list | np.ndarray) else [cells]
            for name, cells in transform.view.transform_dict(seen).items()
        }
    else:
        table = transform.view.transform_arrow(pa.table(seen), full_feature_names)
        answer = {name: table[name].to_numpy() for name in table.column_names}
    rows = len(next(iter(columns.values())))
    for feature in transform.features:
        cells = answer.get(feature.result, answer.get(feature.name))
        if cells is None or len(cells) != rows:
            got = {name: len(some) for name, some in answer.items()}
            raise ReadError(
                f"on-demand view {transform.view.name!r}: expected {rows} values of "
                f"{feature.result!r} from its function, got {got}"
            )
        yield feature.result, *_typed(feature.type, list(cells), feature.dim)


def as_feast_sees(cells: list[Any]) -> list[Any]:
    """Return request data as Feast's conversion to its own values and back leaves it."""
    if all(type(cell) in (bool, int, float, str) for cell in cells):
        return cells
    protos = python_values_to_proto_values(cells, ValueType.UNKNOWN)
    return [feast_value_type_to_python_type(proto) for proto in protos]


def _typed(value_type: ValueType, cells: Sequence[Any], dim: int) -> tuple[Array, Mask]:
    """Convert a function's result as Feast does, including NaN to null."""
    if value_type in _VECTORS:
        known = [cell for cell in cells if cell is not None]
        forms = {(type(cell), getattr(cell, "dtype", None), np.shape(cell)) for cell in known}
        if forms == {(np.ndarray, np.dtype(_VECTORS[value_type]), (dim,))} and dim:
            present = np.fromiter((cell is not None for cell in cells), bool, len(cells))
            vectors = np.zeros((len(cells), dim), _VECTORS[value_type])
            vectors[present] = known
            return vectors, present
    if value_type in _FLOATS and {*map(type, cells)} <= {float, int, type(None)}:
        numbers = np.array(cells, np.float64)  # None is NaN
        present = ~np.isnan(numbers)
        with np.errstate(over="ignore"):
            return np.where(present, numbers, 0).astype(_FLOATS[value_type]), present
    protos = python_values_to_proto_values(cells, value_type)
    return decode.column(value_type, [proto.SerializeToString() for proto in protos], dim)
